//! The committing task: the only one of a node that puts batches into slots and that folds them.
//!
//! It takes every append that waits, plans one batch of them on the state folded so far, and puts it into the
//! next slot (group commit). Whoever else fills that slot first, what is there is folded and the round begun
//! anew. After a batch is folded it feeds the tail, and only then acknowledges. Between rounds it follows
//! what others commit.

use std::sync::Arc;
use std::time::Duration;

use ironbus::event::{Epoch, EventId, StoredEvent};
use ironbus::store::{Append, AppendError, Appended, JournalStep, Lineage, LogEnd, NewStep, ReadError};
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use super::batch::{Batch, Record};
use super::follow::{self, Trouble};
use super::leader::Sent;
use super::log::{Committed, LogError, Slot};
use super::plan::{
    self, Answer, Refused, Round, Tried, Turn, after_commit, after_look, begin_epoch, copy,
    follow as becoming, open_copy, plan, seal,
};
use super::state::{Fault, SnapshotWriter, State};
use super::store::{Pace, Shared, StorageOptions};

pub(super) enum Command {
    Append(Waiting),
    CatchUp(oneshot::Sender<Result<(), ReadError>>),
    Mark(Mark, oneshot::Sender<Result<Marked, Refused>>),
    Close,
}

/// What is written into the log beside events.
#[derive(Clone, Debug)]
pub(super) enum Mark {
    Seal { epoch: Epoch, why: String },
    BeginEpoch { epoch: Epoch, why: String },
    Step(NewStep),
    Follow(Lineage),
    Copy(Vec<Arc<StoredEvent>>),
    Journal(Vec<JournalStep>),
    OpenCopy { of: LogEnd, why: String },
}

/// What a log is once a mark stands in it.
#[derive(Clone, Debug)]
pub(super) struct Marked {
    pub(super) end: LogEnd,
    /// The step, where one was to be recorded.
    pub(super) step: Option<JournalStep>,
}

/// Once a batch has so much, what waits beyond it goes into the next.
const GROUP_EVENTS: usize = 4096;
const GROUP_BYTES: usize = 8 << 20;

/// How long an append that the leader made is waited for in this node's tail. Only the answer is late when it takes
/// longer.
const OWN_WRITE: Duration = Duration::from_secs(1);

/// How long is waited before the first and before later tries of what the storage didn't answer.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// An append, and who waits for what becomes of it.
pub(super) struct Waiting {
    pub(super) append: Append,
    pub(super) by: By,
    pub(super) reply: oneshot::Sender<Result<Appended, AppendError>>,
}

/// Which node is to append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// The leader, if there is one.
    Whomever,
    /// This one.
    This,
    /// This one, after the leader was asked to and didn't answer: it may append all the same.
    ThisAfterAll,
}

/// What is done in one turn.
#[derive(Default)]
struct Turns {
    appends: Vec<Waiting>,
    looks: Vec<oneshot::Sender<Result<(), ReadError>>>,
    mark: Option<(Mark, oneshot::Sender<Result<Marked, Refused>>)>,
    close: bool,
}

/// How a round ended.
enum Ended {
    /// It stands, and what it wrote is folded.
    Stands,
    /// It has to begin anew; where the slot held something, that is folded.
    Anew(Option<Batch>),
}

pub(super) struct Committer {
    shared: Arc<Shared>,
    /// For what comes back from a leader. It keeps nobody from closing.
    commands: mpsc::WeakSender<Command>,
    patience: Duration,
    pace: Pace,
    snapshot_every: u64,
    last_snapshot: Slot,
    snapshot: Option<tokio::task::JoinHandle<()>>,
    /// Whether the log could be followed when it was last tried, so that it is told once when that changes.
    in_trouble: bool,
}

impl Committer {
    /// `from` is the slot of the latest snapshot.
    pub(super) fn new(
        shared: Arc<Shared>,
        options: &StorageOptions,
        from: Slot,
        commands: mpsc::WeakSender<Command>,
    ) -> Self {
        Self {
            shared,
            commands,
            patience: options.patience,
            pace: options.pace,
            snapshot_every: options.snapshot_every,
            last_snapshot: from,
            snapshot: None,
            in_trouble: false,
        }
    }

    /// Runs until every handle of the store is gone or it is told to close.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let _ended = self.shared.ended.clone().drop_guard();
        let mut wait = self.pace.least;
        loop {
            let command = tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => Some(command),
                    None => break,
                },
                () = self.shared.hint.notified() => None,
                () = tokio::time::sleep(wait) => None,
            };
            let Some(first) = command else {
                let found = self.follow().await;
                wait = if found { self.pace.least } else { (wait * 2).min(self.pace.most) };
                continue;
            };
            let turns = take_turns(first, &mut commands);
            let moved = !turns.appends.is_empty() || turns.mark.is_some();
            self.commit_group(turns.appends).await;
            if !turns.looks.is_empty() {
                self.look_for(turns.looks).await;
            }
            if let Some((mark, reply)) = turns.mark {
                // Who asked may have stopped waiting; the mark stands all the same.
                let _ = reply.send(self.mark(&mark).await);
            }
            if turns.close {
                commands.close();
                while let Ok(command) = commands.try_recv() {
                    command.refuse();
                }
                break;
            }
            if moved {
                wait = self.pace.least;
            }
        }
        self.close().await;
    }

    async fn close(&mut self) {
        if self.shared.owns_tail {
            self.shared.tail.close();
        }
        if let Some(snapshot) = self.snapshot.take() {
            // A snapshot that isn't kept costs the next start time, nothing else.
            let _ = snapshot.await;
        }
        self.shared.log.close().await;
    }

    /// Looks for what others have committed; says whether there was something.
    async fn follow(&mut self) -> bool {
        match self.catch_up().await {
            Ok(folded) => {
                if std::mem::take(&mut self.in_trouble) {
                    tracing::info!("the log can be followed again");
                }
                folded > 0
            }
            Err(trouble) => {
                if !std::mem::replace(&mut self.in_trouble, true) {
                    tracing::warn!(%trouble, "the log can't be followed just now; trying on");
                }
                false
            }
        }
    }

    async fn catch_up(&mut self) -> Result<u64, Trouble> {
        let shared = Arc::clone(&self.shared);
        let next = shared.state.read().next();
        follow::forward(&*shared.log, next, self.patience, |batch| shared.fold(batch)).await
    }

    /// Answers who wants to know all that is committed by now.
    async fn look_for(&mut self, looks: Vec<oneshot::Sender<Result<(), ReadError>>>) {
        let caught_up = self.catch_up().await;
        for reply in looks {
            // Who asked may have stopped waiting.
            let _ = reply.send(match &caught_up {
                Ok(_) => Ok(()),
                Err(trouble) => Err(read_error(trouble)),
            });
        }
    }

    async fn commit_group(&mut self, mut group: Vec<Waiting>) {
        // Ids are given once, so that every further try is a retry of the same events.
        for write in group.iter_mut().flat_map(|waiting| &mut waiting.append.writes) {
            write
                .events
                .iter_mut()
                .for_each(|event| _ = event.event_id.get_or_insert_with(EventId::generate));
        }
        let mut tries = Tries::new(self.patience);
        let ended = loop {
            // What may be in a slot already is looked for there.
            if !tries.unheard {
                group = self.send_to_leader(group);
            }
            if group.is_empty() {
                return;
            }
            if let Err(trouble) = self.overtake(&mut tries).await {
                break Err(trouble);
            }
            let appends = group.iter().map(|waiting| &waiting.append);
            let round = plan(&self.shared.state.read(), appends, self.writer(), Timestamp::now());
            match self.try_round(round.batch.as_ref(), round.needs_a_look(), &mut tries).await {
                Ok(Ended::Stands) => break Ok(round),
                Ok(Ended::Anew(held)) => {
                    held.inspect(|held| self.shared.leaders.late_behind(held.writer));
                }
                Err(trouble) => break Err(trouble),
            }
        };
        match ended {
            Ok(round) => answer(group, round),
            Err(trouble) => refuse(group, &self.shared.state.read(), &trouble, tries.in_limbo),
        }
    }

    fn writer(&self) -> Uuid {
        self.shared.leaders.writer
    }

    /// Has the leader append, if there is one; what it doesn't decide comes back. Gives back what is to be appended here.
    fn send_to_leader(&self, group: Vec<Waiting>) -> Vec<Waiting> {
        let Some((leader, others)) = self.shared.leaders.leader() else { return group };
        let mut here = Vec::new();
        for waiting in group {
            let permit = Arc::clone(&self.shared.leaders.under_way).try_acquire_owned();
            let (By::Whomever, Ok(permit)) = (waiting.by, permit) else {
                here.push(waiting);
                continue;
            };
            let (shared, others, commands) =
                (Arc::clone(&self.shared), Arc::clone(&others), self.commands.clone());
            tokio::spawn(async move {
                let sent = shared.leaders.send(leader, &*others, &waiting.append).await;
                shared.go_on(waiting, sent, &commands).await;
                drop(permit);
            });
        }
        here
    }

    /// Writes a mark into the log, once.
    async fn mark(&mut self, mark: &Mark) -> Result<Marked, Refused> {
        let mut tries = Tries::new(self.patience);
        // What was put and not heard of may stand, whatever is known of its slot since.
        let error = |trouble: Trouble, tries: &Tries| append_error(&trouble, tries.unheard);
        loop {
            self.overtake(&mut tries).await.map_err(|trouble| error(trouble, &tries))?;
            let (batch, refused) = match self.plan_mark(mark) {
                Ok(batch) => (batch, None),
                Err(refused) => (None, Some(refused)),
            };
            let ended = self.try_round(batch.as_ref(), batch.is_none(), &mut tries).await;
            let written = match ended.map_err(|trouble| error(trouble, &tries))? {
                Ended::Stands => refused.map_or(Ok(batch), Err)?,
                // The other marks are found in the state that they lead to; a step leads to one that refuses it.
                Ended::Anew(Some(held)) if self.is_own_step(&held, mark) => Some(held),
                Ended::Anew(_) => continue,
            };
            let step = written.and_then(|batch| match batch.record {
                Record::Step(step) => Some(step),
                _ => None,
            });
            return Ok(Marked { end: self.shared.state.read().end(), step });
        }
    }

    fn is_own_step(&self, held: &Batch, mark: &Mark) -> bool {
        matches!(mark, Mark::Step(new) if plan::is_step(held, self.writer(), new))
    }

    /// The batch that writes a mark, if one is needed. It is checked as all who will read it check it: what doesn't
    /// follow would damage the log for good.
    fn plan_mark(&self, mark: &Mark) -> Result<Option<Batch>, Refused> {
        let (state, writer) = (self.shared.state.read(), self.writer());
        let batch = match mark {
            Mark::Seal { epoch, why } => seal(&state, writer, *epoch, why)?,
            Mark::BeginEpoch { epoch, why } => begin_epoch(&state, writer, *epoch, why)?,
            Mark::Step(new) => Some(plan::step(&state, writer, new, Timestamp::now())?),
            Mark::Follow(lineage) => becoming(&state, writer, lineage)?,
            Mark::Copy(events) => copy(&state, writer, events)?,
            Mark::Journal(steps) => plan::journal(&state, writer, steps)?,
            Mark::OpenCopy { of, why } => open_copy(&state, writer, *of, why)?,
        };
        if let Some(batch) = &batch {
            state.check(batch)?;
        }
        Ok(batch)
    }

    /// Tries one round.
    async fn try_round(
        &mut self,
        batch: Option<&Batch>,
        needs_a_look: bool,
        tries: &mut Tries,
    ) -> Result<Ended, Trouble> {
        let mut turn = match batch {
            Some(batch) => after_commit(self.put(batch, tries).await?),
            None if needs_a_look => Turn::Look,
            None => Turn::Answer,
        };
        if turn == Turn::Look {
            let next = self.shared.state.read().next();
            turn = match tries.in_time(follow::read(&*self.shared.log, next)).await {
                Ok(found) => after_look(batch.is_some(), found),
                Err(Trouble::Away(error)) => {
                    tries.error = Some(error);
                    Turn::Again
                }
                Err(damaged) => return Err(damaged),
            };
        }
        match turn {
            Turn::Answer => {
                if let Some(batch) = batch {
                    self.fold(batch.clone())?;
                    self.keep_snapshot();
                }
                Ok(Ended::Stands)
            }
            Turn::Fold(existing) => {
                self.fold(existing.clone())?;
                // Whatever was put into that slot before has not won it, or was folded just now.
                (tries.in_limbo, tries.late) = (false, true);
                Ok(Ended::Anew(Some(existing)))
            }
            Turn::Look => unreachable!("a look has been taken"),
            Turn::Again => tries.pause().await.map(|()| Ended::Anew(None)),
        }
    }

    /// Where another node was quicker: folds all that others have committed meanwhile, because a try for every slot of
    /// theirs would be late for each of them.
    async fn overtake(&mut self, tries: &mut Tries) -> Result<(), Trouble> {
        if !std::mem::take(&mut tries.late) {
            return Ok(());
        }
        let deadline = tries.deadline;
        match tokio::time::timeout_at(deadline, self.catch_up()).await {
            Ok(Ok(_)) if Instant::now() < deadline => Ok(()),
            Ok(Err(Trouble::Away(error))) => {
                tries.error = Some(error);
                tries.pause().await
            }
            Ok(Err(damaged)) => Err(damaged),
            Ok(Ok(_)) | Err(_) => {
                let patience = self.patience;
                Err(Trouble::Away(LogError::new(
                    "the next slot",
                    format!(
                        "other nodes were quicker for {patience:?}; append through one of them, or try again"
                    ),
                )))
            }
        }
    }

    async fn put(&self, batch: &Batch, tries: &mut Tries) -> Result<Tried<Batch>, Trouble> {
        let put = self.shared.log.commit(batch.slot, batch.encode());
        // It may come through later than anybody waits for it.
        let late = |_| Committed::Unknown(tries.no_answer());
        match tokio::time::timeout_at(tries.deadline, put).await.unwrap_or_else(late) {
            Committed::Won => Ok(Tried::Won),
            Committed::Lost(bytes) => follow::decode(batch.slot, bytes).await.map(Tried::Holds),
            Committed::Unknown(error) => {
                (tries.in_limbo, tries.unheard) = (true, true);
                tries.error = Some(error);
                Ok(Tried::Unknown)
            }
        }
    }

    fn fold(&self, batch: Batch) -> Result<(), Trouble> {
        let slot = batch.slot;
        self.shared.fold(batch).map_err(Trouble::damaged(slot))
    }

    /// Keeps a snapshot now and then: who wins the slot with which one is due makes it. The larger the log
    /// the rarer, so that snapshots cost each slot about as much whatever the log's size.
    fn keep_snapshot(&mut self) {
        let next = self.shared.state.read().next();
        let due = self.snapshot_every.max(self.shared.state.read().head().0 / 256);
        let busy = self.snapshot.as_ref().is_some_and(|task| !task.is_finished());
        if busy || next.0 - self.last_snapshot.0 < due {
            return;
        }
        self.last_snapshot = next;
        let shared = Arc::clone(&self.shared);
        self.snapshot = Some(tokio::spawn(async move {
            let encoding = Arc::clone(&shared);
            let encoded = tokio::task::spawn_blocking(move || {
                let mut writer = SnapshotWriter::begin(&encoding.state.read());
                while writer.more(&encoding.state.read()) {}
                writer.end()
            });
            let Ok((before, bytes)) = encoded.await else { return };
            if let Err(error) = shared.log.keep_snapshot(before, bytes).await {
                tracing::warn!(%error, "a snapshot of the log's state could not be kept; a later one will be");
            }
        }));
    }
}

/// How long an append, or a mark, has been tried: whoever made it is answered in time, whatever the log does.
struct Tries {
    patience: Duration,
    deadline: Instant,
    pause: Duration,
    /// What the storage said last.
    error: Option<LogError>,
    /// Whether a batch of this round may be in its slot or come to be there, unknown to us.
    in_limbo: bool,
    /// Whether any batch was put of which nothing was heard.
    unheard: bool,
    /// Whether another batch was in the slot that was tried last.
    late: bool,
}

impl Tries {
    fn new(patience: Duration) -> Self {
        let deadline = Instant::now() + patience;
        Self {
            patience,
            deadline,
            pause: FIRST_PAUSE,
            error: None,
            in_limbo: false,
            unheard: false,
            late: false,
        }
    }

    fn no_answer(&self) -> LogError {
        let mut why = format!("nothing is known of it after {:?}", self.patience);
        if let Some(said) = &self.error {
            why = format!("{why}; what was said last: {said}");
        }
        LogError::new("the next slot", why)
    }

    /// An answer that comes after all patience is none.
    async fn in_time<T>(&self, answer: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
        let late = |_| Err(Trouble::Away(self.no_answer()));
        tokio::time::timeout_at(self.deadline, answer).await.unwrap_or_else(late)
    }

    async fn pause(&mut self) -> Result<(), Trouble> {
        if Instant::now() + self.pause > self.deadline {
            return Err(Trouble::Away(self.error.take().unwrap_or_else(|| self.no_answer())));
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LAST_PAUSE);
        Ok(())
    }
}

fn take_turns(first: Command, commands: &mut mpsc::Receiver<Command>) -> Turns {
    let mut turns = Turns::default();
    let (mut events, mut bytes) = (0, 0);
    let mut next = Some(first);
    while let Some(command) = next {
        match command {
            Command::Append(waiting) => {
                events += waiting.append.len();
                bytes += waiting.append.bytes();
                turns.appends.push(waiting);
            }
            Command::CatchUp(reply) => turns.looks.push(reply),
            Command::Mark(mark, reply) => {
                turns.mark = Some((mark, reply));
                break;
            }
            Command::Close => {
                turns.close = true;
                break;
            }
        }
        let full = events >= GROUP_EVENTS || bytes >= GROUP_BYTES;
        next = if full { None } else { commands.try_recv().ok() };
    }
    turns
}

fn answer(group: Vec<Waiting>, round: Round) {
    for (waiting, answer) in group.into_iter().zip(round.answers) {
        // Who asked may have stopped waiting; the append stands all the same.
        let _ = waiting.reply.send(match answer {
            Answer::Written(places) | Answer::StoredBefore(places) => Ok(Appended::new(places)),
            Answer::Refused(error) if waiting.by == By::ThisAfterAll => Err(AppendError::Unknown(
                format!(
                    "another node was asked to append it and hasn't answered; here it is refused: {error}"
                )
                .into(),
            )),
            Answer::Refused(error) => Err(error),
        });
    }
}

/// Tells a group that it wasn't decided. What is stored was stored before, whatever has become of the rest.
fn refuse(group: Vec<Waiting>, state: &State, trouble: &Trouble, in_limbo: bool) {
    for Waiting { append, by, reply } in group {
        // Who asked may have stopped waiting.
        let _ = reply.send(match plan::stored(state, &append) {
            Some(places) => Ok(Appended::new(places)),
            None => Err(append_error(trouble, in_limbo || by == By::ThisAfterAll)),
        });
    }
}

impl Waiting {
    /// Tells who waits that the store is closed.
    fn closed(self) {
        // Who asked may have stopped waiting.
        let _ = self.reply.send(Err(match self.by {
            By::ThisAfterAll => {
                AppendError::Unknown("the store was closed before another node answered".into())
            }
            By::Whomever | By::This => AppendError::Closed,
        }));
    }
}

impl Command {
    /// Tells who asked that the store is closed: nothing was done.
    fn refuse(self) {
        // Who asked may have stopped waiting.
        match self {
            Self::Append(waiting) => waiting.closed(),
            Self::CatchUp(reply) => drop(reply.send(Err(ReadError::Closed))),
            Self::Mark(_, reply) => drop(reply.send(Err(AppendError::Closed.into()))),
            Self::Close => {}
        }
    }
}

fn append_error(trouble: &Trouble, in_limbo: bool) -> AppendError {
    match trouble {
        _ if in_limbo => AppendError::Unknown(trouble.to_string().into()),
        Trouble::Away(error) => AppendError::Unavailable { reason: error.to_string() },
        damaged => AppendError::Storage(damaged.to_string().into()),
    }
}

pub(super) fn read_error(trouble: &Trouble) -> ReadError {
    match trouble {
        Trouble::Away(error) => ReadError::Unavailable { reason: error.to_string() },
        Trouble::Damaged { slot, fault } => {
            ReadError::Damaged { place: format!("slot {slot}"), reason: fault.to_string() }
        }
        Trouble::Missing { missing, .. } => {
            ReadError::Damaged { place: format!("slot {missing}"), reason: "it is missing".into() }
        }
    }
}

impl Shared {
    /// Adds the next slot's batch to the state, and tells the tail.
    pub(super) fn fold(&self, batch: Batch) -> Result<(), Fault> {
        // Only the committing task folds, so nothing comes between; and readers wait for no hash.
        self.state.read().check(&batch)?;
        self.state.write().add(&batch);
        self.tell(batch);
        Ok(())
    }

    /// Goes on with an append that was sent to the leader.
    async fn go_on(&self, mut waiting: Waiting, sent: Sent, commands: &mpsc::WeakSender<Command>) {
        let answer = match sent {
            Sent::Decided(Ok(appended)) => {
                // Whoever appended here also reads it here, as soon as it is folded.
                self.hint.notify_one();
                let seen = tokio::time::timeout(OWN_WRITE, self.tail.reached(appended.head)).await;
                if seen.is_err() {
                    tracing::debug!(head = %appended.head, "an append that the leader made takes long to be seen here");
                }
                Ok(appended)
            }
            Sent::Decided(Err(refusal)) => Err(refusal),
            Sent::NotThere | Sent::Unknown => {
                waiting.by = if matches!(sent, Sent::Unknown) { By::ThisAfterAll } else { By::This };
                let Some(commands) = commands.upgrade() else { return waiting.closed() };
                if let Err(mpsc::error::SendError(command)) = commands.send(Command::Append(waiting)).await {
                    command.refuse();
                }
                return;
            }
        };
        // Who asked may have stopped waiting; the append stands all the same.
        let _ = waiting.reply.send(answer);
    }

    /// Tells the tail of a batch that is folded.
    fn tell(&self, batch: Batch) {
        match &batch.record {
            // The tail goes on with the log that this one is a copy of, until it is opened.
            Record::Events { .. } if self.state.read().is_copying() => {}
            Record::Events { events, .. } => {
                if let Err(hole) = self.tail.publish(events) {
                    unreachable!("every batch is folded in order, and told of: {hole}");
                }
                self.remember(Arc::new(batch));
            }
            Record::EpochBegun { after, .. } => self.tail.adopt(batch.epoch, *after),
            _ => {}
        }
    }
}
