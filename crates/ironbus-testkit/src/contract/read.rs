//! Loading an aggregate and reading the log.

#![allow(missing_docs, reason = "each test's name says what it tests")]

use ironbus::event::{Json, Metadata, NewEvent, Position, Sequence, SessionId};
use ironbus::key::{Entitlement, EventFilter, KeyPattern};
use ironbus::store::{Append, EventStore, ExpectedVersion};

use super::{ROOMY, Subject};
use crate::{aggregate, numbered, read_all, unnamed};

async fn append(store: &dyn EventStore, kind: &str, id: &str, events: Vec<NewEvent>) {
    let append = Append::to(aggregate(kind, id), ExpectedVersion::Any, events);
    store.append(append).await.expect("nothing is in the way");
}

fn public(pattern: &str) -> EventFilter {
    EventFilter::public(pattern.parse().expect("a valid pattern"))
}

async fn positions(store: &dyn EventStore, filter: &EventFilter) -> Vec<u64> {
    let page = store.read(Position::START, filter, 1000).await.expect("the log can be read");
    assert!(page.through >= page.head, "one page is enough here");
    page.events.iter().map(|event| event.position.0).collect()
}

pub async fn an_aggregate_is_loaded_page_by_page(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    for n in 0..10 {
        append(store, "Todo", "1", vec![numbered(2 * n)]).await;
        append(store, "Todo", "2", vec![numbered(2 * n + 1)]).await;
    }
    let todo = aggregate("Todo", "1");
    for (after, limit, expected) in [
        (0, 4, vec![1, 2, 3, 4]),
        (4, 4, vec![5, 6, 7, 8]),
        (8, 4, vec![9, 10]),
        (0, 10, (1..=10).collect()),
        (0, usize::MAX, (1..=10).collect()),
        (10, 4, vec![]),
        (99, 4, vec![]),
        (3, 0, vec![]),
    ] {
        let page = store.load(&todo, Sequence(after), limit).await.expect("it can be loaded");
        let sequences: Vec<_> = page.events.iter().map(|event| event.sequence.0).collect();
        assert_eq!(sequences, expected, "after {after}, at most {limit}");
        assert!(page.events.iter().all(|event| event.aggregate == todo));
        assert_eq!(page.version, Sequence(10), "after {after}, at most {limit}");
    }
}

pub async fn loading_shows_an_aggregate_whole_and_an_unknown_one_empty(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    let session = SessionId::new("s").expect("valid");
    append(store, "Todo", "1", vec![numbered(1), numbered(2).for_session(session), numbered(3)]).await;
    let page = store.load(&aggregate("Todo", "1"), Sequence::START, 10).await.expect("it can be loaded");
    assert_eq!(page.events.len(), 3, "what decides an append sees every event, scoped or not");
    let page = store.load(&aggregate("Todo", "2"), Sequence::START, 10).await.expect("it can be loaded");
    assert_eq!((page.events.len(), page.version), (0, Sequence::START));
}

pub async fn a_stored_event_is_what_was_appended(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    let json = |text: &'static str| Json::parse(text).expect("valid JSON");
    let payload =
        "{ \"b\":1.50e+3,\"a\": [1 ,2],\r\n\t\"b\":\"\\u00e9 é\\n\" , \"n\":12345678901234567890123}";
    let metadata = "{\"correlation_id\":\"c\", \"x\" : null}";
    let session = SessionId::new("s/1 é").expect("valid");
    let event = NewEvent {
        schema_version: 7,
        ..NewEvent::new("Type with / # é", json(payload))
            .with_id(crate::numbered_id(1))
            .with_metadata(Metadata::new(json(metadata)).expect("an object"))
            .for_session(session.clone())
    };
    append(store, "To do/#@", "@id *$%?é漢", vec![event]).await;
    let stored = read_all(store).await.expect("the log can be read").remove(0);
    assert_eq!(stored.event_id, crate::numbered_id(1));
    assert_eq!(stored.aggregate, aggregate("To do/#@", "@id *$%?é漢"));
    assert_eq!(&*stored.event_type, "Type with / # é");
    assert_eq!(stored.schema_version, 7);
    assert_eq!(stored.payload.as_str(), payload);
    assert_eq!(stored.metadata.json().as_str(), metadata);
    assert_eq!(stored.session_id, Some(session));
    let loaded = store.load(&stored.aggregate, Sequence::START, 1).await.expect("it can be loaded");
    assert_eq!(loaded.events, [stored]);
}

pub async fn the_log_is_read_page_by_page_up_to_its_head(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    for n in 0..10 {
        append(store, if n % 3 == 0 { "User" } else { "Todo" }, "1", vec![numbered(n)]).await;
    }
    let todo = public("events/Todo/**");
    let read = |after, limit| {
        let todo = &todo;
        async move {
            let page = store.read(Position(after), todo, limit).await.expect("the log can be read");
            let positions: Vec<_> = page.events.iter().map(|event| event.position.0).collect();
            (positions, page.through.0, page.head.0)
        }
    };
    assert_eq!(read(0, 2).await, (vec![2, 3], 3, 10));
    assert_eq!(read(3, 2).await, (vec![5, 6], 6, 10));
    assert_eq!(read(6, 100).await, (vec![8, 9], 10, 10));
    assert_eq!(read(9, 100).await, (vec![], 10, 10), "10 is a User's: looked at, not matched");
    assert_eq!(read(10, 100).await, (vec![], 10, 10));
    assert_eq!(read(12, 100).await, (vec![], 12, 10), "what is beyond the head isn't gone back behind");
    let (positions, through, head) = read(4, 0).await;
    assert_eq!((positions, head), (vec![], 10));
    assert!(through >= 4);
    assert!(through < 5, "with no room for an event nothing may be passed over");
}

pub async fn a_pattern_that_matches_nothing_still_advances(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    let empty = store.read(Position::START, &public("events/**"), 10).await.expect("it can be read");
    assert_eq!((empty.events.len(), empty.through, empty.head), (0, Position(0), Position(0)));
    append(store, "Todo", "1", (0..100).map(unnamed).collect()).await;
    for pattern in ["events/User/**", "events/Todo/2/**", "events/session/s/**", "events/*/$*9/**"] {
        let page = store.read(Position(3), &public(pattern), 10).await.expect("it can be read");
        assert_eq!(
            (page.events.len(), page.through, page.head),
            (0, Position(100), Position(100)),
            "{pattern}"
        );
    }
}

pub async fn every_shape_of_pattern_reads_just_its_events(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    let session = SessionId::new("s").expect("valid");
    for n in 0..40_u64 {
        let event = numbered(n);
        let event = if n % 5 == 4 { event.for_session(session.clone()) } else { event };
        append(store, ["Todo", "User"][n as usize % 2], &format!("id-{}", n % 3), vec![event]).await;
    }
    let log = read_all(store).await.expect("the log can be read");
    for pattern in [
        "events/**",
        "events/Todo/**",
        "events/Todo/id-1/**",
        "events/session/s/**",
        "events/session/other/**",
        "events/session/**",
        "**/1",
        "events/*/id-2/*",
        "events/$*o$*/**",
        "events/*/id-$*/3",
        "**/id-0/**",
    ] {
        let pattern: KeyPattern = pattern.parse().expect("a valid pattern");
        for entitlement in [
            Entitlement::Public,
            Entitlement::session(session.clone()),
            Entitlement::session(SessionId::new("other").expect("valid")),
            Entitlement::Everything,
        ] {
            let filter = EventFilter::public(pattern.clone()).entitled(entitlement);
            let matching = log.iter().filter(|event| {
                // Said anew rather than asked of the filter: the key as text, and who may see it.
                let key = ironbus::key::EventKey::of(event);
                filter.entitlement.allows(event.session_id.as_ref()) && pattern.matches_key(key.as_str())
            });
            let expected: Vec<_> = matching.map(|event| event.position.0).collect();
            assert_eq!(positions(store, &filter).await, expected, "{filter:?}");
            // The same by small pages, from every start.
            for start in [0, 1, 7, 20, 39, 40] {
                let (mut after, mut got) = (Position(start), Vec::new());
                loop {
                    let page = store.read(after, &filter, 3).await.expect("the log can be read");
                    assert!(page.events.len() <= 3);
                    assert!(page.through > after || page.through >= page.head, "a page advances");
                    got.extend(page.events.iter().map(|event| event.position.0));
                    after = page.through;
                    if page.through >= page.head {
                        break;
                    }
                }
                let expected: Vec<_> = expected.iter().copied().filter(|at| *at > start).collect();
                assert_eq!(got, expected, "{filter:?} after {start}");
            }
        }
    }
}

pub async fn names_with_meaning_in_keys_are_found_by_their_patterns(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    let names = ["a/b", "a", "@me", "**", "$*", "50%", "%2F", "a b", "#?", "é漢", "events"];
    for (n, name) in names.iter().enumerate() {
        append(store, "Todo", name, vec![numbered(n as u64)]).await;
    }
    for (n, name) in names.iter().enumerate() {
        let filter = EventFilter::public(KeyPattern::aggregate(&aggregate("Todo", name)));
        assert_eq!(positions(store, &filter).await, [n as u64 + 1], "{name}");
    }
    assert_eq!(positions(store, &public("events/**")).await.len(), names.len());
    assert_eq!(positions(store, &public("events/*/*/*")).await.len(), names.len());
}

pub async fn a_sessions_events_are_read_only_by_the_entitled(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    let session = |id: &str| SessionId::new(id).expect("valid");
    append(store, "Todo", "1", vec![numbered(1), numbered(2).for_session(session("a"))]).await;
    append(store, "Todo", "1", vec![numbered(3).for_session(session("b")), numbered(4)]).await;
    for (pattern, entitlement, expected) in [
        ("events/**", Entitlement::Public, vec![1, 4]),
        ("events/**", Entitlement::session(session("a")), vec![1, 2, 4]),
        ("events/**", Entitlement::session(session("b")), vec![1, 3, 4]),
        ("events/**", Entitlement::Everything, vec![1, 2, 3, 4]),
        ("events/session/a/**", Entitlement::Public, vec![]),
        ("events/session/a/**", Entitlement::session(session("b")), vec![]),
        ("events/session/a/**", Entitlement::session(session("a")), vec![2]),
        ("events/session/**", Entitlement::session(session("a")), vec![2]),
        ("**", Entitlement::Public, vec![1, 4]),
        ("events/Todo/1/**", Entitlement::Everything, vec![1, 4]),
    ] {
        let filter = public(pattern).entitled(entitlement);
        assert_eq!(positions(store, &filter).await, expected, "{filter:?}");
    }
}

pub async fn the_head_says_which_log_this_is(subject: &dyn Subject) {
    let (one, two) = (subject.open(ROOMY).await, subject.open(ROOMY).await);
    let head = one.store.head().await.expect("the head can be read");
    assert_eq!((head.position, head.earliest), (Position(0), Position(1)));
    append(&*one.store, "Todo", "1", vec![numbered(1), numbered(2)]).await;
    let later = one.store.head().await.expect("the head can be read");
    assert_eq!((later.position, later.earliest), (Position(2), Position(1)));
    assert_eq!((later.store_id, later.lineage), (head.store_id, head.lineage));
    let other = two.store.head().await.expect("the head can be read");
    assert_ne!(other.store_id, head.store_id, "every log has an identity of its own");
}
