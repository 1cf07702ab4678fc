//! The typed layer on a real log: what goes in comes out, nothing is skipped, no update is lost.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::Arc;

use async_trait::async_trait;
use ironbus::store::{AggregatePage, Head, Page};
use ironbus::typed::{
    CommandContext, DecodeError, ExecuteError, LoadError, TypedReadError, Unreadable, Upcaster, decode,
    encode,
};
use ironbus::{
    Aggregate, Append, AppendError, Appended, Decider, DomainEvent, EventFilter, EventStore, ExpectedVersion,
    Json, Metadata, NewEvent, Position, ReadError, Repository, Sequence, SessionId, Start, StoredEvent,
    Subscription, TypedSubscription,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::log::{Log, log};

/// Appends events to the Todo `1` and gives them back as the log holds them.
async fn stored(store: &Log, events: Vec<NewEvent>) -> Vec<Arc<StoredEvent>> {
    let todo = Aggregate::new("Todo", "1").expect("valid");
    store.append(Append::to(todo.clone(), ExpectedVersion::Any, events)).await.expect("appended");
    store.load(&todo, Sequence::START, 100).await.expect("loaded").events
}

fn raw(event_type: &str, schema_version: u32, payload: &serde_json::Value) -> NewEvent {
    NewEvent { schema_version, ..NewEvent::new(event_type, Json::of(payload).expect("JSON")) }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TodoEvent {
    Added {
        title: String,
        priority: u8,
        tags: Vec<String>,
    },
    #[serde(alias = "labelled")]
    Tagged(String),
    Moved(u32, u32),
    Completed,
}

impl DomainEvent for TodoEvent {
    const AGGREGATE_TYPE: &'static str = "Todo";
    const UPCASTERS: &'static [Upcaster] = &[
        Upcaster::new("added", 1, |mut payload| {
            payload["priority"] = 3.into();
            Ok(payload)
        }),
        Upcaster::new("added", 2, |mut payload| {
            let tag = payload.as_object_mut().and_then(|members| members.remove("tag"));
            payload["tags"] = tag.into_iter().collect();
            Ok(payload)
        }),
        Upcaster::new("moved", 2, Ok),
        Upcaster::new("tagged", 1, |_| Err("tags were free text then".into())),
    ];
}

#[tokio::test]
async fn variants_of_every_kind_are_stored_by_name_and_content_and_read_back() {
    let (_dir, store) = log().await;
    let events = [
        TodoEvent::Added { title: "a \"b\"".into(), priority: 1, tags: vec!["x".into()] },
        TodoEvent::Tagged("y".into()),
        TodoEvent::Moved(1, 2),
        TodoEvent::Completed,
    ];
    let stored = stored(&store, events.iter().map(|event| encode(event).expect("encoded")).collect()).await;
    let seen: Vec<_> = stored.iter().map(|event| (&*event.event_type, event.payload.as_str())).collect();
    let added = r#"{"title":"a \"b\"","priority":1,"tags":["x"]}"#;
    assert_eq!(seen, [("added", added), ("tagged", "\"y\""), ("moved", "[1,2]"), ("completed", "{}")]);
    assert_eq!(stored.iter().map(|event| event.schema_version).collect::<Vec<_>>(), [3, 2, 3, 1]);
    for (stored, event) in stored.iter().zip(&events) {
        assert_eq!(decode::<TodoEvent>(stored).expect("readable"), *event);
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
enum Tagged {
    Added { title: String },
    Completed,
}

impl DomainEvent for Tagged {
    const AGGREGATE_TYPE: &'static str = "Todo";
    const TAG: Option<&'static str> = Some("type");
}

#[tokio::test]
async fn an_internally_tagged_enum_is_stored_in_the_same_way() {
    let (_dir, store) = log().await;
    let events = [Tagged::Added { title: "a".into() }, Tagged::Completed];
    let mut new: Vec<_> = events.iter().map(|event| encode(event).expect("encoded")).collect();
    new.push(raw("Removed", 1, &json!({})));
    new.push(raw("Added", 1, &json!({})));
    let stored = stored(&store, new).await;
    assert_eq!((&*stored[0].event_type, stored[0].payload.as_str()), ("Added", r#"{"title":"a"}"#));
    assert_eq!((&*stored[1].event_type, stored[1].payload.as_str()), ("Completed", "{}"));
    for (stored, event) in stored.iter().zip(&events) {
        assert_eq!(decode::<Tagged>(stored).expect("readable"), *event);
    }
    assert!(matches!(decode::<Tagged>(&stored[2]).expect_err("unknown").reason, Unreadable::UnknownType));
    assert!(matches!(decode::<Tagged>(&stored[3]).expect_err("no title").reason, Unreadable::Payload(_)));
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type")]
enum Misdeclared {
    Completed,
}

impl DomainEvent for Misdeclared {
    const AGGREGATE_TYPE: &'static str = "Todo";
}

#[tokio::test]
async fn an_enum_that_is_not_tagged_as_declared_is_refused_both_ways() {
    let (_dir, store) = log().await;
    let error = encode(&Misdeclared::Completed).expect_err("declared without its tag").to_string();
    assert!(error.contains("Misdeclared") && error.contains("DomainEvent::TAG"), "{error}");
    let stored = stored(&store, vec![raw("Completed", 1, &json!({}))]).await;
    let error = decode::<Misdeclared>(&stored[0]).expect_err("declared without its tag").to_string();
    assert!(error.contains("DomainEvent::TAG"), "{error}");
}

#[tokio::test]
async fn older_payloads_go_through_the_whole_chain_of_upcasters() {
    let (_dir, store) = log().await;
    let old = vec![
        raw("added", 1, &json!({"title": "a", "tag": "home"})),
        raw("added", 2, &json!({"title": "b", "priority": 9})),
        raw("labelled", 1, &json!("kept under its old name")),
    ];
    let read: Vec<TodoEvent> =
        stored(&store, old).await.iter().map(|event| decode(event).expect("readable")).collect();
    assert_eq!(
        read,
        [
            TodoEvent::Added { title: "a".into(), priority: 3, tags: vec!["home".into()] },
            TodoEvent::Added { title: "b".into(), priority: 9, tags: vec![] },
            TodoEvent::Tagged("kept under its old name".into()),
        ]
    );
}

#[tokio::test]
async fn what_cannot_be_read_is_an_error_that_names_the_position_and_the_reason() {
    let (_dir, store) = log().await;
    let events = vec![
        raw("archived", 1, &json!({})),
        raw("added", 4, &json!({})),
        raw("moved", 1, &json!([1, 2])),
        raw("tagged", 1, &json!("x")),
        raw("added", 3, &json!({"title": 7})),
    ];
    let errors: Vec<DecodeError> = stored(&store, events)
        .await
        .iter()
        .map(|event| decode::<TodoEvent>(event).expect_err("unreadable"))
        .collect();
    assert!(matches!(errors[0].reason, Unreadable::UnknownType));
    assert!(matches!(errors[1].reason, Unreadable::Newer { known: 3 }));
    assert!(matches!(errors[2].reason, Unreadable::NoUpcaster { from: 1 }));
    assert!(matches!(errors[3].reason, Unreadable::Upcast { from: 1, .. }));
    assert!(matches!(errors[4].reason, Unreadable::Payload(_)));
    for (position, error) in (1..).zip(&errors) {
        assert_eq!(error.position, Position(position));
        assert!(error.to_string().contains(&format!("position {position} ")), "{error}");
    }
}

#[tokio::test]
async fn a_typed_subscription_ends_before_an_event_that_it_cannot_read() {
    let (_dir, store) = log().await;
    let added = TodoEvent::Added { title: "a".into(), priority: 1, tags: vec![] };
    let metadata = Metadata::caused(Some("talk"), Some("click"));
    let events = vec![
        encode(&added).expect("encoded").with_metadata(metadata.clone()),
        raw("archived", 1, &json!({})),
        encode(&TodoEvent::Completed).expect("encoded"),
    ];
    stored(&store, events).await;
    let mut todos = TypedSubscription::<TodoEvent>::of_all(&store, Start::Beginning).expect("a name");
    let first = todos.next_event().await.expect("open").expect("readable");
    assert_eq!((first.position(), &first.stored.metadata), (Position(1), &metadata));
    assert_eq!(first.event, added);
    let error = todos.next().await.expect("open").expect_err("unknown type");
    assert!(matches!(error, TypedReadError::Event(DecodeError { position: Position(2), .. })));
    assert!(todos.next().await.is_none(), "the third event must not be seen without the second");
    assert_eq!(todos.cursor(), Position(1));

    let other = store.subscribe(EventFilter::everything(), Start::Beginning);
    let mut wrong = TypedSubscription::<Counted>::new(other);
    let error = wrong.next().await.expect("open").expect_err("another aggregate").to_string();
    assert!(
        error.contains("position 1 ") && error.contains("belongs to a Todo, not to a Counter"),
        "{error}"
    );
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Counted {
    By { step: u64 },
}

impl DomainEvent for Counted {
    const AGGREGATE_TYPE: &'static str = "Counter";
}

/// Counts up to a limit.
struct Counter;

#[derive(Debug, PartialEq)]
struct OverLimit;

impl Decider for Counter {
    type State = u64;
    type Command = u64;
    type Event = Counted;
    type Error = OverLimit;

    fn decide(sum: &u64, step: &u64) -> Result<Vec<Counted>, OverLimit> {
        match step {
            0 => Ok(vec![]),
            step if sum + step > 1_000 => Err(OverLimit),
            step => Ok(vec![Counted::By { step: *step }]),
        }
    }

    fn evolve(sum: u64, Counted::By { step }: &Counted) -> u64 {
        sum + step
    }
}

fn attempts(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).expect("not zero")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commands_that_compete_for_one_aggregate_lose_no_update() {
    let (_dir, store) = log().await;
    // A command meets at most one conflict for each of the others' successes.
    let counters = Repository::<Counter>::new(Arc::new(store)).with_attempts(attempts(200));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let counters = counters.clone();
        tasks.spawn(async move {
            let mut states = Vec::new();
            for _ in 0..10 {
                let done = counters.execute("c", &1, CommandContext::default()).await.expect("executed");
                states.push(done.state);
            }
            states
        });
    }
    let states: HashSet<u64> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(states, (1..=200).collect(), "each command saw the state that it made, and no other did");
    let loaded = counters.load("c").await.expect("loaded");
    assert_eq!((loaded.state, loaded.version), (200, Sequence(200)));
}

#[tokio::test]
async fn a_command_that_needs_nothing_or_is_refused_writes_nothing() {
    let (_dir, store) = log().await;
    let counters = Repository::<Counter>::new(Arc::new(store.clone()));
    let done = counters.execute("c", &0, CommandContext::default()).await.expect("nothing to do");
    assert!(done.events.is_empty() && done.recorded.is_empty() && done.version == Sequence::START);
    let refused = counters.execute("c", &2_000, CommandContext::default()).await;
    assert!(matches!(refused, Err(ExecuteError::Refused(OverLimit))));
    assert_eq!(store.head().await.expect("open").position, Position::START);
}

#[tokio::test]
async fn the_context_of_a_command_goes_with_every_event() {
    let (_dir, store) = log().await;
    let counters = Repository::<Counter>::new(Arc::new(store.clone()));
    let metadata = Metadata::caused(Some("talk"), Some("click"));
    let session = SessionId::new("s1").expect("valid");
    let context = CommandContext { metadata: metadata.clone(), session_id: Some(session.clone()) };
    counters.execute("c", &1, context).await.expect("executed");
    let counter = Aggregate::new("Counter", "c").expect("valid");
    let events = store.load(&counter, Sequence::START, 10).await.expect("loaded").events;
    assert_eq!((&events[0].metadata, events[0].session_id.as_ref()), (&metadata, Some(&session)));
}

#[tokio::test]
async fn an_aggregate_of_many_pages_is_folded_in_full() {
    let (_dir, store) = log().await;
    let counter = Aggregate::new("Counter", "c").expect("valid");
    let events = (0..2_500).map(|_| encode(&Counted::By { step: 1 }).expect("encoded")).collect();
    store.append(Append::to(counter, ExpectedVersion::NoStream, events)).await.expect("appended");
    let counters = Repository::<Counter>::new(Arc::new(store.clone()));
    assert_eq!(counters.load("c").await.expect("loaded").state, 2_500);

    let wrong = vec![NewEvent::new("Doubled", Json::empty_object())];
    let other = Aggregate::new("Counter", "d").expect("valid");
    store.append(Append::to(other, ExpectedVersion::NoStream, wrong)).await.expect("appended");
    let error = counters.load("d").await.expect_err("an unknown type");
    assert!(matches!(error, LoadError::Event(DecodeError { position: Position(2_501), .. })));
}

/// A store that loses its answers: appends are handed on (or dropped before they are), and the caller is
/// told that nobody knows.
struct Forgetful {
    inner: Log,
    /// For the next appends, the last entry first: whether each is stored before its answer is lost.
    losses: Mutex<Vec<bool>>,
    seen: Mutex<Vec<Append>>,
}

impl Forgetful {
    fn new(inner: Log, losses: Vec<bool>) -> Arc<Self> {
        Arc::new(Self { inner, losses: Mutex::new(losses), seen: Mutex::default() })
    }
}

#[async_trait]
impl EventStore for Forgetful {
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        self.seen.lock().push(append.clone());
        let loss = self.losses.lock().pop();
        match loss {
            None => self.inner.append(append).await,
            Some(stored) => {
                if stored {
                    self.inner.append(append).await.expect("the store behind works");
                }
                Err(AppendError::Unknown("the answer was lost".into()))
            }
        }
    }

    async fn load(&self, of: &Aggregate, after: Sequence, limit: usize) -> Result<AggregatePage, ReadError> {
        self.inner.load(of, after, limit).await
    }

    async fn read(&self, after: Position, filter: &EventFilter, limit: usize) -> Result<Page, ReadError> {
        self.inner.read(after, filter, limit).await
    }

    async fn head(&self) -> Result<Head, ReadError> {
        self.inner.head().await
    }

    fn subscribe(&self, filter: EventFilter, start: Start) -> Subscription {
        self.inner.subscribe(filter, start)
    }
}

#[tokio::test]
async fn an_append_of_unknown_fate_is_retried_with_the_same_ids_and_happens_once() {
    for losses in [vec![true], vec![false], vec![true, false], vec![false, true, true]] {
        let (_dir, inner) = log().await;
        let lost = losses.len();
        let store = Forgetful::new(inner, losses);
        let counters = Repository::<Counter>::new(store.clone());
        let done = counters.execute("c", &5, CommandContext::default()).await.expect("executed");
        assert_eq!((done.state, done.version, done.recorded[0].position), (5, Sequence(1), Position(1)));
        assert_eq!(store.head().await.expect("open").position, Position(1), "stored once");
        let seen = store.seen.lock();
        assert_eq!(seen.len(), lost + 1);
        assert!(seen[0].writes[0].events[0].event_id.is_some());
        assert!(seen.iter().all(|append| *append == seen[0]), "every try was the same append");
    }
}

#[tokio::test]
async fn a_fate_that_stays_unknown_is_told() {
    let (_dir, inner) = log().await;
    let store = Forgetful::new(inner, vec![false; 9]);
    let counters = Repository::<Counter>::new(store.clone()).with_attempts(attempts(3));
    let result = counters.execute("c", &5, CommandContext::default()).await;
    assert!(matches!(result, Err(ExecuteError::Append(AppendError::Unknown(_)))));
    assert_eq!(store.seen.lock().len(), 3);
}
