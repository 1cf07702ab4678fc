//! Raw listeners of the bus, which may miss events, and of which only this is asked: nothing invented,
//! ascending within a subscription, and that what they missed can be counted.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use ironbus::bus::Heard;
use ironbus::{EventBus as _, EventFilter, Node, Position, StoredEvent};
use ironbus_testkit::check::Violation;
use ironbus_testkit::real_log::RealEvent;
use tokio::task::JoinHandle;

use crate::readers::pattern;

/// One listener: what each of its subscriptions heard, one after the other.
pub(crate) struct Listener {
    pub(crate) filter: EventFilter,
    heard: Mutex<Vec<Vec<Arc<StoredEvent>>>>,
}

impl Listener {
    pub(crate) fn heard(&self) -> Vec<Vec<Arc<StoredEvent>>> {
        self.heard.lock().expect("not poisoned").clone()
    }
}

pub(crate) struct Listeners {
    listeners: Vec<Arc<Listener>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Listeners {
    pub(crate) fn start(node: &Node, source: &[RealEvent], count: usize, chance: &mut fastrand::Rng) -> Self {
        let patterns = (0..count).map(|number| pattern(number, source, chance));
        let filters = patterns.map(|pattern| EventFilter::public(pattern.parse().expect("valid")));
        let listeners: Vec<_> =
            filters.map(|filter| Arc::new(Listener { filter, heard: Mutex::default() })).collect();
        let tasks = listeners.iter().map(|one| tokio::spawn(listen(node.clone(), Arc::clone(one)))).collect();
        Self { listeners, tasks }
    }

    pub(crate) fn end(self) -> Vec<Arc<Listener>> {
        for task in &self.tasks {
            task.abort();
        }
        self.listeners
    }
}

/// Listens, and subscribes again whenever the bus that it listens to carries no more.
async fn listen(node: Node, listener: Arc<Listener>) {
    loop {
        let mut events = node.bus().subscribe(listener.filter.clone());
        listener.heard.lock().expect("not poisoned").push(Vec::new());
        while let Some(heard) = events.next().await {
            if let Heard::Event(event) = heard {
                let mut all = listener.heard.lock().expect("not poisoned");
                all.last_mut().expect("pushed above").push(event);
            }
        }
    }
}

/// Checks what one subscription heard.
pub(crate) fn check_heard(
    filter: &EventFilter,
    heard: &[Arc<StoredEvent>],
    log: &[Arc<StoredEvent>],
) -> Result<(), Violation> {
    let mut previous = Position::START;
    for event in heard {
        let position = event.position;
        if position <= previous {
            return Err(Violation::OutOfOrder { previous, position });
        }
        previous = position;
        let held = position.0.checked_sub(1).and_then(|index| log.get(usize::try_from(index).ok()?));
        if held.ok_or(Violation::Invented(position))? != event {
            return Err(Violation::Altered(position));
        }
        if !filter.matches(event) {
            return Err(Violation::Unasked(position));
        }
    }
    Ok(())
}

/// How many matching events of the log none of the listener's subscriptions heard.
pub(crate) fn missed(listener: &Listener, log: &[Arc<StoredEvent>]) -> usize {
    let heard = listener.heard();
    let heard: HashSet<_> = heard.iter().flatten().map(|event| event.position).collect();
    let matching = log.iter().filter(|event| listener.filter.matches(event));
    matching.filter(|event| !heard.contains(&event.position)).count()
}
