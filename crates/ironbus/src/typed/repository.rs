//! The repository: load, decide, append, and again when somebody else was faster.
//!
//! Invariants: a decision is appended only onto the version that it was made from, so no update is lost;
//! and an append whose fate is unknown is repeated with the same event ids, so none happens twice.

use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::{CommandContext, Decider, DecodeError, DomainEvent, EncodeError, decode, encode};
use crate::event::{Aggregate, EventId, InvalidName, NewEvent, Sequence};
use crate::store::{Append, AppendError, Appended, EventStore, ExpectedVersion, ReadError, Recorded};

/// How many events one page of an aggregate has.
const PAGE: usize = 1000;

/// Executes commands on the aggregates of one kind.
///
/// A handle: cheap to clone, and it keeps no state between two commands.
///
/// ```
/// use ironbus::typed::{CommandContext, Decider, DomainEvent, Repository};
/// # use serde::{Deserialize, Serialize};
/// # use std::{convert::Infallible, sync::Arc};
/// #[derive(Serialize, Deserialize)]
/// enum Counted { By { step: u64 } }
///
/// impl DomainEvent for Counted {
///     const AGGREGATE_TYPE: &'static str = "Counter";
/// }
///
/// struct Counter;
///
/// impl Decider for Counter {
///     type State = u64;
///     type Command = u64;
///     type Event = Counted;
///     type Error = Infallible;
///
///     fn decide(_: &u64, step: &u64) -> Result<Vec<Counted>, Infallible> {
///         Ok(vec![Counted::By { step: *step }])
///     }
///
///     fn evolve(sum: u64, Counted::By { step }: &Counted) -> u64 {
///         sum + step
///     }
/// }
///
/// # let runtime = tokio::runtime::Runtime::new().expect("a runtime");
/// # runtime.block_on(async {
/// # let dir = tempfile::tempdir()?;
/// # let options = ironbus::SqliteOptions::new(dir.path().join("ironbus.db"));
/// # let store = Arc::new(ironbus::SqliteEventStore::open(options).await?);
/// let counters = Repository::<Counter>::new(store);
/// counters.execute("visits", &2, CommandContext::default()).await?;
/// let visits = counters.execute("visits", &3, CommandContext::default()).await?;
/// assert_eq!((visits.state, visits.version.0), (5, 2));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).expect("the example works");
/// ```
pub struct Repository<D> {
    store: Arc<dyn EventStore>,
    attempts: NonZeroU32,
    rules: PhantomData<fn() -> D>,
}

/// An aggregate as it was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded<S> {
    /// What its events add up to.
    pub state: S,
    /// The sequence of its last event; 0 if it has none.
    pub version: Sequence,
}

/// What became of a command.
#[derive(Clone, Debug)]
pub struct Executed<D: Decider> {
    /// The aggregate's state after it.
    pub state: D::State,
    /// The aggregate's version after it.
    pub version: Sequence,
    /// What happened; empty if nothing needed to.
    pub events: Vec<D::Event>,
    /// Where each of the events stands.
    pub recorded: Vec<Recorded>,
}

/// Why an aggregate couldn't be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The id, or the kind of aggregate, isn't a name that an aggregate may have.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The log can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// One of its events can't be read as the application's type.
    #[error(transparent)]
    Event(#[from] DecodeError),
}

/// Why a command wasn't executed. Except for [`AppendError::Unknown`], nothing happened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecuteError<E> {
    /// The rules refuse it.
    #[error("{0}")]
    Refused(E),
    /// The aggregate can't be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The decision can't be stored as events.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The store didn't accept the decision; a conflict comes here only when every attempt met one.
    #[error(transparent)]
    Append(#[from] AppendError),
}

impl<D> Clone for Repository<D> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store), attempts: self.attempts, rules: PhantomData }
    }
}

impl<D: Decider> Repository<D> {
    /// How often a command is tried before a conflict, or an unknown result, is handed on.
    pub const ATTEMPTS: NonZeroU32 = NonZeroU32::new(32).expect("not zero");

    /// A repository on a store.
    #[must_use]
    pub fn new(store: Arc<dyn EventStore>) -> Self {
        Self { store, attempts: Self::ATTEMPTS, rules: PhantomData }
    }

    /// The same with another bound on the attempts. Each conflict means that somebody else succeeded,
    /// so a command that competes with `n` others needs at most `n + 1`.
    #[must_use]
    pub fn with_attempts(self, attempts: NonZeroU32) -> Self {
        Self { attempts, ..self }
    }

    /// Loads an aggregate.
    ///
    /// # Errors
    ///
    /// [`LoadError`] when the log, or one of the aggregate's events, can't be read.
    pub async fn load(&self, id: &str) -> Result<Loaded<D::State>, LoadError> {
        let nothing = Loaded { state: D::State::default(), version: Sequence::START };
        self.advance(&self.aggregate(id)?, nothing).await
    }

    /// Executes a command: loads the aggregate, decides, and appends the decision onto the version that
    /// it was made from. On a conflict reads what is new and decides again.
    ///
    /// # Errors
    ///
    /// [`ExecuteError`]; after [`AppendError::Unknown`] alone the command may have been executed.
    pub async fn execute(
        &self,
        id: &str,
        command: &D::Command,
        context: impl Into<CommandContext>,
    ) -> Result<Executed<D>, ExecuteError<D::Error>> {
        let context = context.into();
        let aggregate = self.aggregate(id)?;
        let mut loaded = self.load(id).await?;
        let mut decided: Vec<NewEvent> = Vec::new();
        let mut conflicts = 0;
        loop {
            let events = D::decide(&loaded.state, command).map_err(ExecuteError::Refused)?;
            if events.is_empty() {
                let Loaded { state, version } = loaded;
                return Ok(Executed { state, version, events, recorded: Vec::new() });
            }
            decided = identified(&events, &context, decided)?;
            let expected = ExpectedVersion::Exact(loaded.version);
            let append = Append::to(aggregate.clone(), expected, decided.clone());
            match self.append(append).await {
                Ok(appended) => {
                    let state = events.iter().fold(loaded.state, D::evolve);
                    let version = appended.events.last().map_or(loaded.version, |last| last.sequence);
                    return Ok(Executed { state, version, events, recorded: appended.events });
                }
                Err(AppendError::Conflict { .. }) if conflicts + 1 < self.attempts.get() => {
                    conflicts += 1;
                    loaded = self.advance(&aggregate, loaded).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn aggregate(&self, id: &str) -> Result<Aggregate, LoadError> {
        Ok(Aggregate::new(D::Event::AGGREGATE_TYPE, id)?)
    }

    /// Folds what the aggregate has beyond what is loaded, page by page.
    async fn advance(
        &self,
        aggregate: &Aggregate,
        mut loaded: Loaded<D::State>,
    ) -> Result<Loaded<D::State>, LoadError> {
        loop {
            let page = self.store.load(aggregate, loaded.version, PAGE).await?;
            for stored in &page.events {
                loaded.state = D::evolve(loaded.state, &decode(stored)?);
                loaded.version = stored.sequence;
            }
            if page.events.is_empty() || loaded.version >= page.version {
                return Ok(loaded);
            }
        }
    }

    /// Appends; where the store can't tell whether it did, asks again with the very same append, whose
    /// event ids make the answer that of the first.
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let mut pause = Duration::from_millis(1);
        for _ in 1..self.attempts.get() {
            match self.store.append(append.clone()).await {
                Err(AppendError::Unknown(error)) => {
                    tracing::debug!(%error, "the fate of an append is unknown; asking again");
                    // A store that is in trouble is given time, not a storm of retries.
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_millis(250));
                }
                definite => return definite,
            }
        }
        self.store.append(append).await
    }
}

/// The decision as events with ids of their own. While the decision stays what it was before, so do the
/// ids.
fn identified<E: DomainEvent>(
    events: &[E],
    context: &CommandContext,
    before: Vec<NewEvent>,
) -> Result<Vec<NewEvent>, EncodeError> {
    let mut decided = Vec::with_capacity(events.len());
    for event in events {
        let new = encode(event)?;
        decided.push(NewEvent {
            metadata: context.metadata.clone(),
            session_id: context.session_id.clone(),
            ..new
        });
    }
    let same = decided.len() == before.len()
        && decided.iter().zip(&before).all(|(new, old)| *new == NewEvent { event_id: None, ..old.clone() });
    if same {
        return Ok(before);
    }
    Ok(decided.into_iter().map(|event| event.with_id(EventId::generate())).collect())
}

impl<D> std::fmt::Debug for Repository<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository").field("attempts", &self.attempts).finish_non_exhaustive()
    }
}
