//! Appends: places, batches, expected versions, idempotency, limits.

#![allow(missing_docs, reason = "each test's name says what it tests")]

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::join_all;
use ironbus::event::{Aggregate, Json, NewEvent, Position, Sequence};
use ironbus::store::{Append, AppendError, Appended, EventStore, ExpectedVersion, InvalidAppend};

use super::{ROOMY, Subject};
use crate::check::check_log;
use crate::{aggregate, numbered, numbered_id, read_all, unnamed};

fn any(to: &Aggregate, events: impl IntoIterator<Item = NewEvent>) -> Append {
    Append::to(to.clone(), ExpectedVersion::Any, events.into_iter().collect())
}

async fn ok(store: &dyn EventStore, append: Append) -> Appended {
    store.append(append).await.expect("nothing is in the way")
}

async fn refused(store: &dyn EventStore, append: Append) -> AppendError {
    store.append(append).await.expect_err("it has to be refused")
}

fn places(appended: &Appended) -> Vec<(u64, u64)> {
    appended.events.iter().map(|event| (event.position.0, event.sequence.0)).collect()
}

/// How many events the log holds, after a look at whether it keeps its own rules.
async fn sound_len(store: &dyn EventStore) -> usize {
    let log = read_all(store).await.expect("the log can be read");
    check_log(&log).expect("the log keeps its rules");
    let head = store.head().await.expect("the head can be read");
    assert_eq!(head.position, Position(log.len() as u64), "the head is the last event");
    log.len()
}

pub async fn an_append_is_answered_with_its_places_and_the_head(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    let (one, two) = (aggregate("Todo", "1"), aggregate("Todo", "2"));
    let first = ok(store, any(&one, [numbered(1), numbered(2)])).await;
    assert_eq!((places(&first), first.head), (vec![(1, 1), (2, 2)], Position(2)));
    assert_eq!(first.events[1].event_id, numbered_id(2));
    let second = ok(store, any(&two, [numbered(3)])).await;
    assert_eq!((places(&second), second.head), (vec![(3, 1)], Position(3)));
    let third = ok(store, any(&one, [numbered(4)])).await;
    assert_eq!((places(&third), third.head), (vec![(4, 3)], Position(4)));
    assert_eq!(sound_len(store).await, 4);
}

pub async fn events_without_ids_get_ids_of_their_own(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    let todo = aggregate("Todo", "1");
    let same = || any(&todo, [unnamed(1), unnamed(1)]);
    let appended = [ok(store, same()).await, ok(store, same()).await];
    let ids: HashSet<_> = appended.iter().flat_map(|done| &done.events).map(|event| event.event_id).collect();
    assert_eq!(ids.len(), 4, "without ids nothing is a retry");
    let log = read_all(store).await.expect("the log can be read");
    assert_eq!(log.iter().map(|event| event.event_id).collect::<HashSet<_>>(), ids);
}

pub async fn a_batch_over_several_aggregates_is_stored_in_its_order(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    let (one, two) = (aggregate("Todo", "1"), aggregate("User", "1"));
    let batch = any(&one, [numbered(1), numbered(2)])
        .and(two.clone(), ExpectedVersion::NoStream, vec![numbered(3)])
        .and(one.clone(), ExpectedVersion::Exact(Sequence(2)), vec![numbered(4)]);
    let appended = ok(store, batch).await;
    assert_eq!(places(&appended), [(1, 1), (2, 2), (3, 1), (4, 3)]);
    let log = read_all(store).await.expect("the log can be read");
    let order: Vec<_> = log.iter().map(|event| (event.event_id, &event.aggregate)).collect();
    let expected = [(1, &one), (2, &one), (3, &two), (4, &one)].map(|(n, to)| (numbered_id(n), to));
    assert_eq!(order, expected);
}

pub async fn a_conflict_in_the_last_write_of_a_batch_leaves_nothing(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    let todo = |id: u64| aggregate("Todo", &id.to_string());
    ok(store, any(&todo(3), [numbered(1)])).await;
    let batch = any(&todo(1), [numbered(2)]).and(todo(2), ExpectedVersion::NoStream, vec![numbered(3)]).and(
        todo(3),
        ExpectedVersion::NoStream,
        vec![numbered(4)],
    );
    let error = refused(store, batch).await;
    let AppendError::Conflict { aggregate, expected, actual } = error else { panic!("{error}") };
    assert_eq!((aggregate, expected, actual), (todo(3), ExpectedVersion::NoStream, Sequence(1)));
    assert_eq!(sound_len(store).await, 1);
    let page = store.load(&todo(1), Sequence::START, 10).await.expect("it can be read");
    assert_eq!((page.events.len(), page.version), (0, Sequence(0)));
    // Neither are its versions or ids remembered anywhere.
    let again = any(&todo(1), [numbered(2)]).and(todo(2), ExpectedVersion::NoStream, vec![numbered(3)]);
    assert_eq!(places(&ok(store, again).await), [(2, 1), (3, 1)]);
}

pub async fn an_aggregate_named_twice_is_checked_against_what_the_batch_itself_writes(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    let todo = aggregate("Todo", "1");
    let twice = |first, second| {
        Append::to(todo.clone(), first, vec![numbered(1)]).and(todo.clone(), second, vec![numbered(2)])
    };
    let error = refused(store, twice(ExpectedVersion::NoStream, ExpectedVersion::NoStream)).await;
    assert!(matches!(error, AppendError::Conflict { actual: Sequence(1), .. }), "{error}");
    assert_eq!(sound_len(store).await, 0);
    let appended = ok(store, twice(ExpectedVersion::NoStream, ExpectedVersion::StreamExists)).await;
    assert_eq!(places(&appended), [(1, 1), (2, 2)]);
}

pub async fn every_expected_version_meets_every_state(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    let exact = |version| ExpectedVersion::Exact(Sequence(version));
    let mut n = 0;
    for version in 0..=3_u64 {
        let cases = [
            (ExpectedVersion::Any, true),
            (ExpectedVersion::NoStream, version == 0),
            (ExpectedVersion::StreamExists, version > 0),
            (exact(0), version == 0),
            (exact(1), version == 1),
            (exact(2), version == 2),
            (exact(3), version == 3),
            (exact(4), false),
            (exact(u64::MAX), false),
        ];
        for (index, (expected, accepted)) in cases.into_iter().enumerate() {
            let todo = aggregate("Todo", &format!("{version}-{index}"));
            for _ in 0..version {
                n += 1;
                ok(store, any(&todo, [numbered(n)])).await;
            }
            n += 1;
            let before = store.head().await.expect("the head can be read").position;
            let result = store.append(Append::to(todo.clone(), expected, vec![numbered(n)])).await;
            match result {
                Ok(appended) => {
                    assert!(accepted, "{expected} was accepted at version {version}");
                    assert_eq!(places(&appended), [(before.0 + 1, version + 1)]);
                }
                Err(AppendError::Conflict { aggregate, expected: said, actual }) => {
                    assert!(!accepted, "{expected} was refused at version {version}");
                    assert_eq!((aggregate, said, actual), (todo, expected, Sequence(version)));
                    let after = store.head().await.expect("the head can be read").position;
                    assert_eq!(after, before, "a refused append writes nothing");
                }
                Err(error) => panic!("{expected} at version {version}: {error}"),
            }
        }
    }
    sound_len(store).await;
}

pub async fn a_retry_gets_the_first_result_whatever_version_it_expects(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    let todo = aggregate("Todo", "1");
    let append = || Append::to(todo.clone(), ExpectedVersion::NoStream, vec![numbered(1)]);
    let first = ok(store, append()).await;
    ok(store, any(&todo, [numbered(2)])).await;
    // The aggregate is at version 2 now: checked first, the version would make a conflict of it.
    let retry = ok(store, append()).await;
    assert_eq!(retry, first, "head and all");
    let exact = Append::to(todo.clone(), ExpectedVersion::Exact(Sequence(1)), vec![numbered(2)]);
    assert_eq!(places(&ok(store, exact).await), [(2, 2)]);
    assert_eq!(sound_len(store).await, 2);
}

pub async fn a_retried_batch_gets_the_first_result_as_a_whole(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    let batch = || {
        any(&aggregate("Todo", "1"), [numbered(1), numbered(2)]).and(
            aggregate("User", "1"),
            ExpectedVersion::NoStream,
            vec![numbered(3)],
        )
    };
    let first = ok(store, batch()).await;
    ok(store, any(&aggregate("User", "1"), [numbered(4)])).await;
    assert_eq!(ok(store, batch()).await, first);
    assert_eq!(sound_len(store).await, 4);
}

pub async fn an_id_that_is_stored_for_another_event_is_refused(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    let (todo, other) = (aggregate("Todo", "1"), aggregate("Todo", "2"));
    ok(store, any(&todo, [numbered(1)])).await;
    let session = ironbus::event::SessionId::new("s").expect("valid");
    let renamed = NewEvent { event_type: "Other".into(), ..numbered(1) };
    let versioned = NewEvent { schema_version: 2, ..numbered(1) };
    let altered = unnamed(2).with_id(numbered_id(1));
    for (what, append) in [
        ("another aggregate", any(&other, [numbered(1)])),
        ("another type", any(&todo, [renamed])),
        ("another schema version", any(&todo, [versioned])),
        ("another payload", any(&todo, [altered])),
        ("another session", any(&todo, [numbered(1).for_session(session)])),
        ("beside a new event", any(&other, [numbered(9), numbered(1)])),
    ] {
        let error = refused(store, append).await;
        let reused = matches!(&error, AppendError::EventIdReused { event_id } if *event_id == numbered_id(1));
        assert!(reused, "{what}: {error}");
    }
    assert_eq!(sound_len(store).await, 1);
}

pub async fn a_batch_that_is_partly_stored_is_refused(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    let todo = aggregate("Todo", "1");
    ok(store, any(&todo, [numbered(1), numbered(2)])).await;
    for batch in [any(&todo, [numbered(2), numbered(3)]), any(&todo, [unnamed(3), numbered(1)])] {
        let error = refused(store, batch).await;
        assert!(matches!(error, AppendError::PartlyStored { stored: 1, total: 2 }), "{error}");
    }
    assert_eq!(sound_len(store).await, 2);
}

pub async fn what_no_store_may_take_is_refused_and_leaves_nothing(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    let todo = aggregate("Todo", "1");
    let json = |bytes: usize| Json::parse(format!("\"{}\"", "x".repeat(bytes - 2))).expect("valid");
    let large = |bytes| NewEvent::new("Large", json(bytes));
    let invalid = |append: Append| async {
        match refused(store, append).await {
            AppendError::Invalid(invalid) => invalid,
            other => panic!("{other}"),
        }
    };
    assert_eq!(invalid(Append::default()).await, InvalidAppend::Empty);
    let hollow = any(&todo, [numbered(1)]).and(aggregate("Todo", "2"), ExpectedVersion::Any, Vec::new());
    assert_eq!(invalid(hollow).await, InvalidAppend::Empty);
    let repeated = invalid(any(&todo, [numbered(1), numbered(2), numbered(1)])).await;
    assert_eq!(repeated, InvalidAppend::RepeatedId { event_id: numbered_id(1) });
    let many = invalid(any(&todo, (0..=Append::MAX_EVENTS as u64).map(unnamed))).await;
    assert!(matches!(many, InvalidAppend::TooManyEvents { .. }), "{many}");
    let heavy = invalid(any(&todo, (0..17).map(|_| large(NewEvent::MAX_JSON_BYTES)))).await;
    assert!(matches!(heavy, InvalidAppend::TooManyBytes { .. }), "{heavy}");
    let wide = invalid(any(&todo, [large(NewEvent::MAX_JSON_BYTES + 1)])).await;
    assert!(matches!(wide, InvalidAppend::Event(_)), "{wide}");
    let nameless = invalid(any(&todo, [NewEvent::new("", Json::empty_object())])).await;
    assert!(matches!(nameless, InvalidAppend::Event(_)), "{nameless}");
    let version = NewEvent { schema_version: 0, ..numbered(1) };
    assert!(matches!(invalid(any(&todo, [version])).await, InvalidAppend::Event(_)));
    assert_eq!(sound_len(store).await, 0);
}

pub async fn the_limits_themselves_are_accepted(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    let long = aggregate(&"t".repeat(Aggregate::MAX_TYPE_BYTES), &"i".repeat(Aggregate::MAX_ID_BYTES));
    let payload = format!("\"{}\"", "x".repeat(NewEvent::MAX_JSON_BYTES - 2));
    let event =
        NewEvent::new("e".repeat(NewEvent::MAX_TYPE_BYTES), Json::parse(payload.clone()).expect("valid"));
    ok(store, any(&long, [event])).await;
    ok(store, any(&aggregate("Todo", "1"), (0..Append::MAX_EVENTS as u64).map(unnamed))).await;
    let log = read_all(store).await.expect("the log can be read");
    check_log(&log).expect("the log keeps its rules");
    assert_eq!(log.len(), Append::MAX_EVENTS + 1);
    assert_eq!(log[0].payload.as_str(), payload);
    assert_eq!(log[0].aggregate, long);
}

pub async fn of_concurrent_appends_that_expect_one_version_exactly_one_wins(subject: &dyn Subject) {
    const WRITERS: u64 = 8;
    const ROUNDS: u64 = 25;
    let opened = subject.open(ROOMY).await;
    let todo = aggregate("Todo", "1");
    for round in 0..ROUNDS {
        let tasks = (0..WRITERS).map(|writer| {
            let (store, todo) = (Arc::clone(&opened.store), todo.clone());
            let event = numbered(round * WRITERS + writer);
            tokio::spawn(async move {
                let expected = ExpectedVersion::Exact(Sequence(round));
                store.append(Append::to(todo, expected, vec![event])).await
            })
        });
        let mut won = 0;
        for result in join_all(tasks).await {
            match result.expect("no task panics") {
                Ok(appended) => {
                    won += 1;
                    assert_eq!(places(&appended), [(round + 1, round + 1)]);
                }
                Err(AppendError::Conflict { actual, .. }) => assert_eq!(actual, Sequence(round + 1)),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(won, 1, "round {round}");
    }
    assert_eq!(sound_len(&*opened.store).await as u64, ROUNDS);
}

pub async fn concurrent_retries_of_one_append_store_it_once(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let todo = aggregate("Todo", "1");
    for round in 0..20 {
        let append = any(&todo, [numbered(2 * round), numbered(2 * round + 1)]);
        let tasks = (0..6).map(|_| {
            let (store, append) = (Arc::clone(&opened.store), append.clone());
            tokio::spawn(async move { store.append(append).await })
        });
        let mut answers = join_all(tasks).await.into_iter().map(|answer| {
            places(&answer.expect("no task panics").expect("a retry is answered like the first"))
        });
        let first = answers.next().expect("there are six");
        assert!(answers.all(|answer| answer == first));
    }
    assert_eq!(sound_len(&*opened.store).await, 40);
}

pub async fn a_dropped_append_stands_or_not_but_its_retry_is_answered(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let todo = aggregate("Todo", "1");
    for n in 0..50 {
        let append = any(&todo, [numbered(n)]);
        // Polled once, so that it may be on its way, then given up.
        let mut given_up = opened.store.append(append.clone());
        let _ = futures_util::poll!(&mut given_up);
        drop(given_up);
        let appended = ok(&*opened.store, append).await;
        assert_eq!(places(&appended), [(n + 1, n + 1)]);
    }
    assert_eq!(sound_len(&*opened.store).await, 50);
}
