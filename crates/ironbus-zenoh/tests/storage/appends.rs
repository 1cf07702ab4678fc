//! Random appends from a small space of ids and aggregates, each through a node that has mostly not followed
//! the others yet, compared with the model answer by answer.

use std::sync::Arc;

use fastrand::Rng;
use futures_util::future::join_all;
use ironbus::event::{Json, NewEvent, Sequence};
use ironbus::store::{Append, AppendError, Appended, EventStore, ExpectedVersion};
use ironbus_testkit::check::check_log;
use ironbus_testkit::model::{ModelLog, Refusal};
use ironbus_testkit::{aggregate, numbered_id, read_all, within};
use ironbus_zenoh::storage::memory::{Asked, Fault};
use ironbus_zenoh::storage::{MemoryLog, StorageOptions};

use crate::support::{dozing, node_with};

/// Mostly the payload follows from the id, so that a repeated id mostly is a retry.
fn event(random: &mut Rng) -> NewEvent {
    let (n, variant) = (random.u64(..24), u8::from(random.u8(..10) == 0));
    let payload = Json::parse(format!("[{n},{variant}]")).expect("valid JSON");
    NewEvent::new("Happened", payload).with_id(numbered_id(n))
}

fn append(random: &mut Rng) -> Append {
    (0..random.u8(1..3)).fold(Append::default(), |append, _| {
        let expected = match random.u8(..10) {
            0 => ExpectedVersion::NoStream,
            1 => ExpectedVersion::StreamExists,
            2 | 3 => ExpectedVersion::Exact(Sequence(random.u64(..8))),
            _ => ExpectedVersion::Any,
        };
        let thing = aggregate("Thing", &random.u8(..3).to_string());
        let events = (0..random.u8(..4)).map(|_| event(random)).collect();
        append.and(thing, expected, events)
    })
}

fn comparable(result: Result<Appended, AppendError>) -> Result<Appended, Refusal> {
    result.map_err(|error| Refusal::of(&error).unwrap_or_else(|| panic!("no refusal of the rules: {error}")))
}

async fn every_answer_is_the_models(seed: u64, most_at_once: usize, losses: bool) {
    let mut random = Rng::with_seed(seed);
    let log = Arc::new(MemoryLog::default());
    let options = StorageOptions { snapshot_every: 3, ..dozing() };
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(node_with(&log, options.clone()).await);
    }
    if losses {
        let mut random = Rng::with_seed(!seed);
        log.break_with(move |asked| match asked {
            Asked::Put(_) if random.bool() => Fault::ReplyLost,
            _ => Fault::None,
        });
    }
    let mut model = ModelLog::default();
    let mut sent: Vec<Append> = Vec::new();
    for _ in 0..60 {
        let group: Vec<Append> = (0..random.usize(1..=most_at_once))
            .map(|_| match random.u8(..4) {
                0 if !sent.is_empty() => sent[random.usize(..sent.len())].clone(),
                _ => append(&mut random),
            })
            .collect();
        let at = random.usize(..nodes.len());
        if random.u8(..10) == 0 {
            // Another process takes the node's place.
            nodes[at].close().await;
            nodes[at] = node_with(&log, options.clone()).await;
        }
        // Sent in order without waiting, so that they are committed as a group.
        let answers = join_all(group.iter().cloned().map(|append| nodes[at].append(append))).await;
        for (append, answer) in group.iter().zip(answers) {
            let answer = comparable(answer).map(|appended| appended.events);
            assert_eq!(answer, model.append(append), "seed {seed}: {append:?}");
        }
        sent.extend(group);
    }
    log.mend();
    for store in &nodes {
        store.catch_up().await.expect("the log is there");
        let stored = read_all(store).await.expect("it can be read");
        assert_eq!(check_log(&stored), Ok(()));
        let places = |events: &[Arc<ironbus::StoredEvent>]| -> Vec<_> {
            events.iter().map(|e| (e.position, e.sequence, e.event_id, e.payload.clone())).collect()
        };
        assert_eq!(places(&stored), places(model.events()), "seed {seed}");
    }
}

#[tokio::test]
async fn groups_through_any_node_are_answered_as_by_one_log() {
    for seed in 0..40 {
        within("a history of appends", every_answer_is_the_models(seed, 5, false)).await;
    }
}

/// One at a time: what was sent together may be decided in another order once a reply is lost.
#[tokio::test]
async fn appends_whose_replies_get_lost_are_answered_as_by_one_log() {
    for seed in 0..40 {
        within("a history of appends", every_answer_is_the_models(seed, 1, true)).await;
    }
}
