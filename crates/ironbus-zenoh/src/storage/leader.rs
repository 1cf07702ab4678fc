//! A hint at who leads: the node that fills slots appends for the others too, so that they don't race it for every slot.
//!
//! A node that came late for a slot takes whoever filled it for the leader, and has its appends sent there. It goes on
//! with that as long as there are answers. Correctness never rests on it:
//! - what is sent carries its event ids, so that whatever isn't answered is appended here all the same, once;
//! - an append that was sent and isn't decided here either is *unknown*, also where it was refused here: it may come to
//!   be stored there later;
//! - a node appends itself what was sent to it, so nothing is sent on and round in a circle.

use std::sync::Arc;
use std::time::Duration;

use ironbus::store::{Append, AppendError, Appended, OtherWriters};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use uuid::Uuid;

/// How long the one who filled a slot is taken for the leader, and again after each answer of it.
const LEASE: Duration = Duration::from_secs(1);

/// How long nobody is taken for the leader after one that didn't answer.
const SHUN: Duration = Duration::from_secs(5);

/// How many appends may be under way to the leader. Further ones are appended here.
const UNDER_WAY: usize = 4096;

/// What a node knows of who leads.
pub(super) struct Leaders {
    /// This node's name in the batches that it writes.
    pub(super) writer: Uuid,
    others: RwLock<Option<Arc<dyn OtherWriters>>>,
    lead: Mutex<Lead>,
    pub(super) under_way: Arc<Semaphore>,
}

struct Lead {
    /// Who leads, and until when that is believed.
    leader: Option<(Uuid, Instant)>,
    shunned_until: Instant,
}

/// How an append goes on that was sent to the leader.
#[derive(Debug)]
pub(super) enum Sent {
    /// It was decided there.
    Decided(Result<Appended, AppendError>),
    /// Nothing was decided, and nothing will be.
    NotThere,
    /// Whether it is stored there, or will be, isn't known.
    Unknown,
}

impl Leaders {
    pub(super) fn new(writer: Uuid) -> Self {
        let lead = Lead { leader: None, shunned_until: Instant::now() };
        Self {
            writer,
            others: RwLock::default(),
            lead: Mutex::new(lead),
            under_way: Arc::new(Semaphore::new(UNDER_WAY)),
        }
    }

    pub(super) fn reach_by(&self, others: Arc<dyn OtherWriters>) {
        *self.others.write() = Some(others);
    }

    /// Another node was quicker.
    pub(super) fn late_behind(&self, writer: Uuid) {
        let (mut lead, now) = (self.lead.lock(), Instant::now());
        if writer != self.writer && now >= lead.shunned_until {
            lead.leader = Some((writer, now + LEASE));
        }
    }

    /// Who leads, and how it is reached.
    pub(super) fn leader(&self) -> Option<(Uuid, Arc<dyn OtherWriters>)> {
        let (leader, until) = self.lead.lock().leader?;
        if Instant::now() >= until {
            return None;
        }
        Some((leader, self.others.read().clone()?))
    }

    /// Has the leader append.
    pub(super) async fn send(&self, leader: Uuid, others: &dyn OtherWriters, append: &Append) -> Sent {
        let Some(answer) = others.append_at(leader, append).await else {
            let mut lead = self.lead.lock();
            (lead.leader, lead.shunned_until) = (None, Instant::now() + SHUN);
            return Sent::Unknown;
        };
        match answer {
            Ok(_)
            | Err(
                AppendError::Conflict { .. }
                | AppendError::EventIdReused { .. }
                | AppendError::PartlyStored { .. },
            ) => {
                let mut lead = self.lead.lock();
                lead.leader = lead.leader.map(|(leader, _)| (leader, Instant::now() + LEASE));
                Sent::Decided(answer)
            }
            Err(AppendError::Unknown(_)) => Sent::Unknown,
            Err(_) => Sent::NotThere,
        }
    }
}
