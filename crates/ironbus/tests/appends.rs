//! Random appends from a small space of ids and aggregates, compared with the model answer by answer.
//!
//! The space is small so that retries, reused ids, half-stored batches and conflicts all happen, alone
//! and within one group commit. Whatever was answered, the log is the model's in the end, also reopened.

use std::sync::Arc;

use futures_util::future::join_all;
use ironbus::event::{Json, NewEvent, Sequence, SessionId, StoredEvent};
use ironbus::store::{Append, AppendError, Appended, EventStore, ExpectedVersion};
use ironbus_testkit::check::{check_acknowledged, check_log};
use ironbus_testkit::model::{ModelLog, Refusal};
use ironbus_testkit::temp::TempStore;
use ironbus_testkit::{aggregate, numbered_id, read_all, within};
use proptest::prelude::*;

/// One event: its id, which of three payloads, and whether it is for a session.
fn event() -> impl Strategy<Value = NewEvent> {
    // Mostly the payload follows from the id, so that a repeated id mostly is a retry.
    (0..24_u64, prop_oneof![9 => Just(0_u64), 1 => Just(1)], prop::bool::weighted(0.05)).prop_map(
        |(n, variant, session)| {
            let payload = Json::parse(format!("[{n},{variant}]")).expect("valid JSON");
            let event = NewEvent::new("Happened", payload).with_id(numbered_id(n));
            if session { event.for_session(SessionId::new("s").expect("valid")) } else { event }
        },
    )
}

fn expected() -> impl Strategy<Value = ExpectedVersion> {
    prop_oneof![
        6 => Just(ExpectedVersion::Any),
        1 => Just(ExpectedVersion::NoStream),
        1 => Just(ExpectedVersion::StreamExists),
        2 => (0..8_u64).prop_map(|version| ExpectedVersion::Exact(Sequence(version))),
    ]
}

/// A batch over a few aggregates, which may name one twice and may be empty somewhere.
fn append() -> impl Strategy<Value = Append> {
    let write = || (0..3_u8, expected(), prop::collection::vec(event(), 0..4));
    let writes = prop_oneof![
        3 => prop::collection::vec(write(), 1..2),
        1 => prop::collection::vec(write(), 0..4),
    ];
    writes.prop_map(|writes| {
        writes.into_iter().fold(Append::default(), |append, (id, expected, events)| {
            append.and(aggregate("Thing", &id.to_string()), expected, events)
        })
    })
}

/// A history: appends, some of which are sent together, and some of which are sent again later.
fn history() -> impl Strategy<Value = Vec<Vec<Append>>> {
    let fresh = prop::collection::vec(append(), 1..40);
    let again = prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..12);
    (fresh, again, prop::collection::vec(1..6_usize, 60)).prop_map(|(mut all, again, groups)| {
        for (which, place) in again {
            let repeated = all[which.index(all.len())].clone();
            all.insert(place.index(all.len() + 1), repeated);
        }
        let mut rest = all.into_iter().peekable();
        let mut sizes = groups.into_iter().cycle();
        let mut groups = Vec::new();
        while rest.peek().is_some() {
            groups.push(rest.by_ref().take(sizes.next().expect("it goes round")).collect());
        }
        groups
    })
}

fn comparable(result: Result<Appended, AppendError>) -> Result<Appended, Refusal> {
    result.map_err(|error| match Refusal::of(&error) {
        Some(refusal) => refusal,
        None => panic!("no refusal that the rules know: {error}"),
    })
}

/// Everything of an event but its time, which the store chooses.
fn content(event: &StoredEvent) -> impl PartialEq + std::fmt::Debug + use<> {
    (
        (event.position, event.sequence, event.event_id, event.aggregate.clone()),
        (event.event_type.to_string(), event.schema_version, event.session_id.clone()),
        (event.payload.clone(), event.metadata.clone()),
    )
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be built").block_on(within("a history of appends", work))
}

async fn same_log(store: &dyn EventStore, model: &ModelLog) -> Result<(), TestCaseError> {
    let log = read_all(store).await.expect("the log can be read");
    prop_assert_eq!(check_log(&log), Ok(()));
    let stored: Vec<_> = log.iter().map(|event| content(event)).collect();
    let expected: Vec<_> = model.events().iter().map(|event| content(event)).collect();
    prop_assert_eq!(stored, expected);
    for id in 0..3_u8 {
        let thing = aggregate("Thing", &id.to_string());
        let page = store.load(&thing, Sequence::START, usize::MAX).await.expect("it can be loaded");
        prop_assert_eq!(page.version, model.version(&thing));
        prop_assert_eq!(page.events.len() as u64, page.version.0);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_and_the_whole_log_are_the_models(history in history()) {
        run(async {
            let temp = TempStore::new();
            let store = temp.open().await;
            let mut model = ModelLog::default();
            let mut acknowledged = Vec::new();
            for group in history {
                // Sent in order without waiting, so that the writer takes them as a group.
                let answers = join_all(group.iter().cloned().map(|append| store.append(append))).await;
                for (append, answer) in group.iter().zip(answers) {
                    let answer = comparable(answer);
                    let expected = model.append(append);
                    if let Ok(appended) = &answer {
                        let last = appended.events.iter().map(|event| event.position).max();
                        prop_assert_eq!(Some(appended.head), last);
                        acknowledged.extend(appended.events.iter().copied());
                    }
                    prop_assert_eq!(answer.map(|appended| appended.events), expected);
                }
            }
            same_log(&store, &model).await?;
            let log = read_all(&store).await.expect("the log can be read");
            prop_assert_eq!(check_acknowledged(&acknowledged, &log), Ok(()));
            store.close().await;
            let verification = temp.verify();
            prop_assert!(verification.is_sound(), "{:?}", verification.faults);
            same_log(&temp.open().await, &model).await
        })?;
    }
}

/// The histories are worth nothing if they don't meet every answer; this says that they do.
#[test]
fn the_random_histories_meet_every_kind_of_answer() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let (mut stored, mut retried, mut refused) = (0, 0, [0; 4]);
    for _ in 0..60 {
        let mut model = ModelLog::default();
        for append in history().new_tree(&mut runner).expect("a history").current().concat() {
            let before = model.events().len();
            match model.append(&append) {
                Ok(_) if model.events().len() > before => stored += 1,
                Ok(_) => retried += 1,
                Err(Refusal::Conflict(..)) => refused[0] += 1,
                Err(Refusal::EventIdReused(_)) => refused[1] += 1,
                Err(Refusal::PartlyStored(..)) => refused[2] += 1,
                Err(Refusal::Invalid(_)) => refused[3] += 1,
            }
        }
    }
    let seen = [&[stored, retried][..], &refused].concat();
    assert!(seen.iter().all(|count| *count >= 20), "{seen:?}");
}

/// Many writers at once, each with retries of its own: whatever the interleaving, the log explains every
/// answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_get_answers_that_the_log_bears_out() {
    const WRITERS: u64 = 8;
    const APPENDS: u64 = 60;
    let temp = TempStore::new();
    let store = Arc::new(temp.open().await);
    let writers = (0..WRITERS).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let (mut acknowledged, mut conflicts, mut version) = (Vec::new(), 0_u64, 0);
            for n in 0..APPENDS {
                let n = writer * APPENDS + n;
                let event = ironbus_testkit::numbered(n);
                loop {
                    // One contended aggregate, at the version that this writer believes in.
                    let to = aggregate("Thing", "contended");
                    let exact = ExpectedVersion::Exact(Sequence(version));
                    let append = Append::to(to, exact, vec![event.clone()]);
                    match store.append(append.clone()).await {
                        Ok(appended) => {
                            version = appended.events[0].sequence.0;
                            let retry = store.append(append).await.expect("a retry is answered");
                            assert_eq!(retry, appended);
                            acknowledged.extend(appended.events);
                            break;
                        }
                        Err(AppendError::Conflict { actual, .. }) => {
                            assert_ne!(actual.0, version, "a conflict names another version");
                            (version, conflicts) = (actual.0, conflicts + 1);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            (acknowledged, conflicts)
        })
    });
    let results = within("all writers", join_all(writers)).await;
    let mut acknowledged = Vec::new();
    let mut conflicts = 0;
    for result in results {
        let (places, met) = result.expect("no writer panics");
        acknowledged.extend(places);
        conflicts += met;
    }
    let log = read_all(&*store).await.expect("the log can be read");
    assert_eq!(check_log(&log), Ok(()));
    assert_eq!(check_acknowledged(&acknowledged, &log), Ok(()));
    assert_eq!(log.len() as u64, WRITERS * APPENDS, "each event once");
    assert!(conflicts > 0, "the writers never met, so nothing was tested");
}
