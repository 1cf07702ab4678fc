//! A log out of a copy, at any place.

use std::sync::Arc;

use super::{Found, LogPlace, LogPlaces, MoveError};
use crate::event::{Epoch, Position};
use crate::key::EventFilter;
use crate::store::sqlite::{Copied, RESTORED, restored_epoch};
use crate::store::{CopyFailure, CopyOf, EpochStart, EventStore, Lineage, Log, LogCopy, LogEnd, ReadError};
use crate::tail::{RingLimits, Tail};

/// How many events are copied at a time.
const PAGE: u64 = 4096;

/// Makes a log at `to`, where there is none, out of a copy of one, which nobody appends to. It begins an epoch that the
/// lost log can't have begun ([`restored_epoch`]), so that no reader takes positions of that for its own. `progress` is
/// told how many of how many events are copied.
///
/// # Errors
///
/// [`MoveError`]. What is at `to` then accepts no appends, and has to be moved away.
pub async fn restore(
    places: &dyn LogPlaces,
    copy: &dyn Log,
    to: &LogPlace,
    mut progress: impl FnMut(u64, u64),
) -> Result<Copied, MoveError> {
    let head = copy.head().await?;
    let chain = copy.chain_at(head.position).await?.ok_or_else(|| cut(head.position, head.position))?;
    let lineage = lost_after(&head.lineage, head.position);
    let end = LogEnd { epoch: lineage.epoch(), head: head.position, chain };
    let steps = copy.journal(usize::MAX).await?.steps;
    let not_empty = |reason: String| CopyFailure::NotACopy { place: to.to_string(), reason };
    let tail = Arc::new(Tail::new(Epoch(0), Position::START, RingLimits::default()));
    let of = CopyOf { store_id: head.store_id, lineage };
    let Found::Copy(mut made) = places.copy(to, &of, tail).await? else {
        return Err(not_empty("it accepts appends itself".into()).into());
    };
    let made_so_far = made.end().head;
    let filled = if made_so_far > Position::START {
        let reason = format!("it holds {made_so_far} events already, and a restore overwrites nothing");
        Err(not_empty(reason).into())
    } else {
        fill(&mut *made, copy, end.head, &mut progress).await
    };
    if let Err(error) = filled {
        made.close().await;
        return Err(error);
    }
    // Refused where the hash over all isn't that of the copy.
    let log = made.open(end, steps, RESTORED).await?;
    let epoch = log.head().await?.lineage.epoch();
    log.close().await;
    let chain = blake3::Hash::from_bytes(end.chain).to_hex().to_string();
    Ok(Copied { events: end.head.0, head: end.head, epoch, chain })
}

async fn fill(
    made: &mut dyn LogCopy,
    copy: &dyn Log,
    head: Position,
    progress: &mut impl FnMut(u64, u64),
) -> Result<(), MoveError> {
    while made.end().head < head {
        let after = made.end().head;
        progress(after.0, head.0);
        let limit = usize::try_from(PAGE.min(head.0 - after.0)).expect("a page fits into memory");
        let page = EventStore::read(copy, after, &EventFilter::everything(), limit).await?;
        if page.events.is_empty() {
            return Err(cut(after, head).into());
        }
        made.add(page.events).await?;
    }
    progress(head.0, head.0);
    Ok(())
}

fn cut(at: Position, head: Position) -> ReadError {
    ReadError::Unavailable { reason: format!("the copy goes to position {head}, and reads end at {at}") }
}

/// The epochs of a copy and the one in which the log was lost, which no one has seen: what is restored begins the next.
fn lost_after(lineage: &Lineage, head: Position) -> Lineage {
    let lost = Epoch(restored_epoch().0.saturating_sub(1).max(lineage.epoch().0 + 1));
    let mut starts = lineage.starts().to_vec();
    starts.push(EpochStart { epoch: lost, after: head });
    Lineage::new(starts).expect("it ascends")
}
