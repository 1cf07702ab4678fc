//! The checker: what everybody saw, compared with the log.

use std::sync::Arc;

use ironbus::{Position, StoredEvent};
use ironbus_testkit::check::{Violation, check_acknowledged, check_batches, check_log, check_subscription};

use crate::raw::{Listener, check_heard};
use crate::readers::Subscription;
use crate::writers::Written;

/// What happened, as everybody saw it.
pub(crate) struct History {
    pub(crate) log: Vec<Arc<StoredEvent>>,
    pub(crate) written: Written,
    pub(crate) subscriptions: Vec<Arc<Subscription>>,
    pub(crate) heard: Vec<Arc<Listener>>,
}

impl History {
    /// Every promise that wasn't kept, with whom.
    pub(crate) fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut note = |who: &str, checked: Result<(), Violation>| {
            found.extend(checked.err().map(|violation| format!("{who}: {violation}")));
        };
        note("the log", check_log(&self.log));
        note("the writers", check_acknowledged(&self.written.acknowledged, &self.log));
        note("the writers", check_batches(self.written.batches.iter().map(Vec::as_slice), &self.log));
        for one in &self.subscriptions {
            let who = format!("{} on {}", one.pattern, one.place);
            note(&who, self.check(one, &one.got().events));
        }
        for one in &self.heard {
            for heard in one.heard() {
                note(&format!("a listener to {:?}", one.filter), check_heard(&one.filter, &heard, &self.log));
            }
        }
        for one in &self.subscriptions {
            let faults = one.got().faults.clone();
            found
                .extend(faults.into_iter().map(|fault| format!("{} on {}: {fault}", one.pattern, one.place)));
        }
        if self.log.len() != self.written.acknowledged.len() {
            let (log, acknowledged) = (self.log.len(), self.written.acknowledged.len());
            found.push(format!("the log holds {log} events, and {acknowledged} were acknowledged"));
        }
        found
    }

    fn check(&self, one: &Subscription, got: &[Arc<StoredEvent>]) -> Result<(), Violation> {
        let head = self.log.last().map_or(Position::START, |event| event.position);
        check_subscription(&one.filter(), Position::START, head, got, &self.log)
    }

    /// Breaks this very history in every way that matters, and expects the checker to say so.
    pub(crate) fn a_wrong_history_would_be_noticed(&self) {
        // Those of all nodes that got much.
        for one in self.subscriptions.iter().filter(|one| one.got().events.len() > 2).take(8) {
            let got = one.got().events.clone();
            let middle = got.len() / 2;
            let broken = |change: &dyn Fn(&mut Vec<Arc<StoredEvent>>)| {
                let mut copy = got.clone();
                change(&mut copy);
                self.check(one, &copy)
            };
            let (here, next) = (got[middle - 1].position, got[middle].position);
            assert_eq!(broken(&|_| {}), Ok(()));
            assert_eq!(broken(&|got| drop(got.remove(middle))), Err(Violation::Missing(next)));
            assert_eq!(
                broken(&|got| drop(got.pop())),
                Err(Violation::Missing(got[got.len() - 1].position)),
                "the last one"
            );
            assert_eq!(
                broken(&|got| got.insert(middle, Arc::clone(&got[middle]))),
                Err(Violation::Repeated(next))
            );
            let swapped = Violation::OutOfOrder { previous: next, position: here };
            assert_eq!(broken(&|got| got.swap(middle - 1, middle)), Err(swapped));
        }
        let last = *self.written.acknowledged.iter().max_by_key(|one| one.position).expect("there is one");
        let shorter = &self.log[..self.log.len() - 1];
        assert_eq!(check_acknowledged(&self.written.acknowledged, shorter), Err(Violation::Lost(last)));
        let mut holed = self.log.clone();
        holed.remove(self.log.len() / 2);
        assert!(matches!(check_log(&holed), Err(Violation::Hole { .. })));
        let all = ironbus::EventFilter::everything();
        let swapped = [Arc::clone(&self.log[1]), Arc::clone(&self.log[0])];
        assert!(matches!(check_heard(&all, &swapped, &self.log), Err(Violation::OutOfOrder { .. })));
        let invented = check_heard(&all, &self.log[self.log.len() - 1..], shorter);
        assert_eq!(invented, Err(Violation::Invented(last.position)));
    }
}
