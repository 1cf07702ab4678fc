//! The journal of the migration: its steps are slots of the log, in one order with the appends.

use async_trait::async_trait;
use ironbus::store::{AppendError, Journal, JournalError, JournalPage, JournalStep, NewStep, ReadError};

use super::committer::Mark;
use super::plan::Refused;
use super::store::ZenohStorageEventStore;

#[async_trait]
impl Journal for ZenohStorageEventStore {
    /// That of the log itself, not only of what this node has followed so far.
    async fn journal(&self, last: usize) -> Result<JournalPage, ReadError> {
        self.catch_up().await?;
        let state = self.folded();
        let steps = state.steps();
        Ok(JournalPage {
            phase: state.phase(),
            taken: steps.last().map_or(0, |last| last.step),
            steps: steps[steps.len().saturating_sub(last)..].to_vec(),
        })
    }

    async fn record(&self, step: NewStep) -> Result<JournalStep, JournalError> {
        step.check()?;
        match self.mark(Mark::Step(step)).await {
            Ok(marked) => Ok(marked.step.expect("the mark was a step")),
            Err(Refused::Moved { expected, actual }) => Err(JournalError::Moved { expected, actual }),
            Err(Refused::Append(error)) => Err(journal_error(error)),
            Err(Refused::NotACopy(error)) => unreachable!("a step is no mark of a copy: {error}"),
        }
    }
}

fn journal_error(error: AppendError) -> JournalError {
    match error {
        AppendError::Superseded { reason } => JournalError::Superseded { reason },
        AppendError::Closed => JournalError::Closed,
        AppendError::Unknown(source) => JournalError::Unknown(source),
        error => JournalError::Storage(error.into()),
    }
}
