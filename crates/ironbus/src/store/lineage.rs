//! The epochs of a log, and which positions of older epochs still mean something.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::event::{Cursor, Epoch, Position};

/// When an epoch began: the positions after `after` were written in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: Epoch,
    /// The log's head when it began.
    pub after: Position,
}

/// A log's epochs in ascending order; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage(Arc<[EpochStart]>);

/// Why a cursor can't be resumed. The reader must forget what it has and begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResetReason {
    /// The cursor's epoch never was an epoch of this log.
    #[error("the cursor's epoch {epoch} is not of this log, whose epoch is {current}")]
    ForeignEpoch {
        /// The cursor's epoch.
        epoch: Epoch,
        /// The epoch in force.
        current: Epoch,
    },
    /// The cursor is beyond what its epoch wrote into this log (after a restore from a backup, say).
    #[error("the cursor's position {position} is beyond {end}, where this log's part of epoch {epoch} ends")]
    BeyondEnd {
        /// The cursor's epoch.
        epoch: Epoch,
        /// The cursor's position.
        position: Position,
        /// The last position that the epoch wrote.
        end: Position,
    },
}

impl Lineage {
    /// A lineage of these epochs; `None` if there are none or they don't ascend from 1.
    #[must_use]
    pub fn new(starts: Vec<EpochStart>) -> Option<Self> {
        let ascending =
            starts.windows(2).all(|pair| pair[0].epoch < pair[1].epoch && pair[0].after <= pair[1].after);
        let counted = starts.first().is_some_and(|first| first.epoch.0 > 0);
        (ascending && counted).then(|| Self(starts.into()))
    }

    /// The epoch in force.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.0[self.0.len() - 1].epoch
    }

    /// The epochs, in ascending order.
    #[must_use]
    pub fn starts(&self) -> &[EpochStart] {
        &self.0
    }

    /// The last position that this lineage has kept of what was written up to the end of `epoch`, one
    /// before that in force: nothing of an epoch that it doesn't know.
    #[must_use]
    pub fn kept_of(&self, epoch: Epoch) -> Position {
        let at = self.0.iter().position(|start| start.epoch == epoch);
        at.and_then(|at| self.0.get(at + 1)).map_or(Position::START, |next| next.after)
    }

    /// Whether a reader may go on after `cursor` in this log, whose head is `head`.
    ///
    /// # Errors
    ///
    /// [`ResetReason`] if the cursor is from another history than this log's.
    pub fn check(&self, cursor: Cursor, head: Position) -> Result<(), ResetReason> {
        let Some(at) = self.0.iter().position(|start| start.epoch == cursor.epoch) else {
            return Err(ResetReason::ForeignEpoch { epoch: cursor.epoch, current: self.epoch() });
        };
        let end = self.0.get(at + 1).map_or(head, |next| next.after);
        if cursor.position > end {
            return Err(ResetReason::BeyondEnd { epoch: cursor.epoch, position: cursor.position, end });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(epoch: u64, position: u64) -> Cursor {
        Cursor { epoch: Epoch(epoch), position: Position(position) }
    }

    #[test]
    fn a_cursor_is_good_as_far_as_its_epoch_wrote_into_this_log() {
        let start = |epoch, after| EpochStart { epoch: Epoch(epoch), after: Position(after) };
        let lineage = Lineage::new(vec![start(1, 0), start(3, 100)]).expect("ascending");
        let check = |epoch, position| lineage.check(cursor(epoch, position), Position(150));
        assert_eq!(check(1, 100), Ok(()));
        assert!(matches!(check(1, 101), Err(ResetReason::BeyondEnd { end: Position(100), .. })));
        assert!(matches!(check(2, 1), Err(ResetReason::ForeignEpoch { current: Epoch(3), .. })));
        assert_eq!(check(3, 150), Ok(()));
        assert!(matches!(check(3, 151), Err(ResetReason::BeyondEnd { end: Position(150), .. })));
        assert_eq!(Lineage::new(vec![start(3, 0), start(1, 0)]), None);
        assert_eq!(Lineage::new(vec![start(0, 0)]), None);
    }
}
