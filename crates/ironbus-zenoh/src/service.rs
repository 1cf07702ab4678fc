//! What a store node answers: `append`, `read`, `load` and `head` for other nodes, and the documented keys for
//! any Zenoh client.
//!
//! A query's callback runs on a thread of Zenoh's, so it only hands the query on. At most [`AT_ONCE`]
//! queries are worked on at a time and [`WAITING`] wait; a further one is answered with *busy* at once,
//! and its sender tries again.

use std::sync::Arc;

use ironbus::event::{Position, Sequence};
use ironbus::store::{Append, AppendError, Appended, Log};
use ironbus::{Aggregate, EventFilter, EventKey, EventStore, StoredEvent};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zenoh::Wait;
use zenoh::bytes::Encoding;
use zenoh::key_expr::KeyExpr;
use zenoh::query::{Query, Queryable};

use crate::keys::{self, Service};
use crate::wire::{
    AppendRequest, HeadAnswer, LoadEnd, LoadRequest, Malformed, Origin, PageEnd, ReadRequest, Refusal,
    from_json, malformed, pack, to_json,
};

/// How many queries are worked on at the same time.
const AT_ONCE: usize = 256;

/// How many queries wait for their turn.
const WAITING: usize = 4096;

/// A reply holds no more bytes of events than this, but for a single larger one.
const REPLY_BYTES: usize = 4 << 20;

/// A reply holds no more events than this.
const REPLY_EVENTS: usize = 10_000;

/// The queryables of a store node; they are gone when it is dropped.
pub(crate) struct ServiceHost {
    _queryables: Vec<Queryable<()>>,
}

enum Asked {
    Service(Service, Query),
    /// To append here, by a node that has the same log.
    Here(Query),
    Documented(Query),
}

impl ServiceHost {
    /// Declares what the store node answers, and answers it with tasks of `tasks` until `stop`.
    pub(crate) async fn declare(
        session: &zenoh::Session,
        origin: Origin,
        store: Arc<dyn EventStore>,
        log: Arc<dyn Log>,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, zenoh::Error> {
        let (queue, waiting) = mpsc::channel(WAITING);
        let mut queryables = Vec::new();
        let Origin { store_id, epoch } = origin;
        if let Some(writer) = log.writer().filter(|_| log.is_shared()) {
            let queue = queue.clone();
            let declared = session
                .declare_queryable(keys::writer(store_id, writer))
                .complete(true)
                .callback(move |query| enqueue(&queue, Asked::Here(query)));
            queryables.push(declared.await?);
        }
        for service in Service::ALL {
            let queue = queue.clone();
            let declared = session
                .declare_queryable(keys::service(store_id, epoch, service))
                .complete(true)
                .callback(move |query| enqueue(&queue, Asked::Service(service, query)));
            queryables.push(declared.await?);
        }
        let declared = session
            .declare_queryable(keys::all_events())
            .complete(true)
            .callback(move |query| enqueue(&queue, Asked::Documented(query)));
        queryables.push(declared.await?);
        tasks.spawn(stop.run_until_cancelled_owned(answer_all(waiting, store, log, origin, tasks.clone())));
        Ok(Self { _queryables: queryables })
    }
}

fn enqueue(queue: &mpsc::Sender<Asked>, asked: Asked) {
    if let Err(error) = queue.try_send(asked) {
        match error.into_inner() {
            Asked::Service(_, query) | Asked::Here(query) | Asked::Documented(query) => {
                refuse(&query, &Refusal::Busy);
            }
        }
    }
}

async fn answer_all(
    mut waiting: mpsc::Receiver<Asked>,
    store: Arc<dyn EventStore>,
    log: Arc<dyn Log>,
    origin: Origin,
    tasks: TaskTracker,
) {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(asked) = waiting.recv().await {
        let turn = Arc::clone(&turns).acquire_owned().await.expect("the semaphore is never closed");
        let (store, log) = (Arc::clone(&store), Arc::clone(&log));
        tasks.spawn(async move {
            match asked {
                Asked::Service(service, query) => {
                    let answered = work(service, &query, &*store).await;
                    answer(&query, answered, matches!(service, Service::Append | Service::Head)).await;
                }
                Asked::Here(query) => {
                    let answered = append(&body(&query), |append| log.append_here(append)).await;
                    answer(&query, answered, true).await;
                }
                Asked::Documented(query) => answer_documented(&query, &*store, origin).await,
            }
            drop(turn);
        });
    }
}

fn body(query: &Query) -> Vec<u8> {
    query.payload().map(|payload| payload.to_bytes().into_owned()).unwrap_or_default()
}

async fn work(service: Service, query: &Query, store: &dyn EventStore) -> Result<Answer, Refusal> {
    let body = body(query);
    match service {
        Service::Append => append(&body, |append| store.append(append)).await,
        Service::Read => read(&body, store).await,
        Service::Load => load(&body, store).await,
        Service::Head => head(store).await,
    }
}

async fn answer(query: &Query, answered: Result<Answer, Refusal>, small: bool) {
    let Answer { payload, end } = match answered {
        Ok(answer) => answer,
        Err(refusal) => return refuse(query, &refusal),
    };
    let query = query.clone();
    let send = move || {
        let reply = query.reply(query.key_expr(), payload).attachment(end);
        reply.express(true).wait()
    };
    // A large answer may be held up by a congested link: not on one of the runtime's threads.
    let sent = if small { send() } else { blocking(send).await };
    if let Err(error) = sent {
        // Its sender asks again when the answer doesn't arrive.
        tracing::debug!(%error, "an answer could not be sent");
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

struct Answer {
    payload: Vec<u8>,
    end: Vec<u8>,
}

fn refuse(query: &Query, refusal: &Refusal) {
    let reply = query.reply_err(to_json(refusal)).encoding(Encoding::APPLICATION_JSON);
    if let Err(error) = reply.wait() {
        tracing::debug!(%error, "a refusal could not be sent");
    }
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::Failed { reason: format!("the request can't be understood: {malformed}") }
    }
}

async fn append<F: Future<Output = Result<Appended, AppendError>>>(
    body: &[u8],
    append: impl FnOnce(Append) -> F,
) -> Result<Answer, Refusal> {
    let appended = append(from_json::<AppendRequest>(body)?.into_append()?).await?;
    Ok(Answer { payload: to_json(&appended), end: Vec::new() })
}

async fn read(body: &[u8], store: &dyn EventStore) -> Result<Answer, Refusal> {
    let request: ReadRequest = from_json(body)?;
    let page = store.read(request.after, &request.filter()?, request.limit.min(REPLY_EVENTS)).await?;
    let (payload, packed) = pack(&page.events, REPLY_BYTES);
    let cut_off = page.events.get(..packed).filter(|_| packed < page.events.len());
    let through = cut_off.and_then(<[_]>::last).map_or(page.through, |last| last.position);
    Ok(Answer { payload, end: to_json(&PageEnd { through, head: page.head }) })
}

async fn load(body: &[u8], store: &dyn EventStore) -> Result<Answer, Refusal> {
    let request: LoadRequest = from_json(body)?;
    let aggregate = Aggregate::new(request.aggregate_type, request.aggregate_id).map_err(malformed)?;
    let page = store.load(&aggregate, request.after, request.limit.min(REPLY_EVENTS)).await?;
    let (payload, _) = pack(&page.events, REPLY_BYTES);
    Ok(Answer { payload, end: to_json(&LoadEnd { version: page.version }) })
}

async fn head(store: &dyn EventStore) -> Result<Answer, Refusal> {
    let head = store.head().await?;
    Ok(Answer { payload: to_json(&HeadAnswer::from(head)), end: Vec::new() })
}

/// Answers a query on the documented keys: each matching event without a session scope on its own key,
/// in ascending position. Parameters: `after` (a position) and `limit`.
async fn answer_documented(query: &Query, store: &dyn EventStore, origin: Origin) {
    if let Err(refusal) = documented(query, store, origin).await {
        refuse(query, &refusal);
    }
}

async fn documented(query: &Query, store: &dyn EventStore, origin: Origin) -> Result<(), Refusal> {
    let pattern = keys::pattern_of(query.key_expr()).map_err(malformed)?;
    if pattern.only_session().is_some() {
        let reason =
            "session-scoped events are given over HTTP alone, to those entitled to the session".into();
        return Err(Refusal::Failed { reason });
    }
    let number = |name: &str| -> Result<Option<u64>, Malformed> {
        let text = query.parameters().get(name);
        text.map(|text| text.parse().map_err(|_| malformed(format!("`{name}` isn't a whole number: {text}"))))
            .transpose()
    };
    let mut after = Position(number("after")?.unwrap_or(0));
    let mut left = number("limit")?.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    if let Some(one) = pattern.only_aggregate() {
        return documented_aggregate(query, store, origin, one, after, left).await;
    }
    let filter = EventFilter::public(pattern);
    while left > 0 {
        let page = store.read(after, &filter, left.min(1024)).await?;
        left -= page.events.len();
        after = page.through;
        reply_events(query, page.events, origin).await?;
        if page.through >= page.head {
            break;
        }
    }
    Ok(())
}

/// One aggregate's events by its index, or the one at a sequence.
async fn documented_aggregate(
    query: &Query,
    store: &dyn EventStore,
    origin: Origin,
    (aggregate, exact): (Aggregate, Option<Sequence>),
    after: Position,
    mut left: usize,
) -> Result<(), Refusal> {
    let mut sequence = exact.map_or(Sequence::START, |exact| Sequence(exact.0.saturating_sub(1)));
    if exact.is_some() {
        left = left.min(1);
    }
    while left > 0 {
        let page = store.load(&aggregate, sequence, left.min(1024)).await?;
        let Some(last) = page.events.last() else { break };
        sequence = last.sequence;
        let mut events = page.events;
        events.retain(|event| event.position > after && event.session_id.is_none());
        left -= events.len();
        reply_events(query, events, origin).await?;
        if exact.is_some() || sequence >= page.version {
            break;
        }
    }
    Ok(())
}

async fn reply_events(query: &Query, events: Vec<Arc<StoredEvent>>, origin: Origin) -> Result<(), Refusal> {
    let query = query.clone();
    let send = move || {
        for event in &events {
            let key: KeyExpr<'static> = keys::of_event(&EventKey::of(event)).into();
            query
                .reply(key, event.json())
                .encoding(Encoding::APPLICATION_JSON)
                .attachment(origin.attachment(event.position))
                .wait()?;
        }
        Ok::<_, zenoh::Error>(())
    };
    blocking(send).await.map_err(|error| Refusal::Failed { reason: error.to_string() })
}
