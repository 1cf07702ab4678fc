//! Fan-out within one process: from publishing to one subscription, and to 1,000 of one pattern; beside a raw
//! `tokio::sync::broadcast` and an `async-broadcast` with as many receivers. The code is that of `ironbus bench`.

use std::path::Path;
use std::sync::Arc;

use ironbus::StoredEvent;
use ironbus_cli::bench::fan_out::{Ours, ROUND, Reader, Side, turn_of};
use ironbus_cli::bench::figures::Turn;
use ironbus_cli::bench::stored;
use tokio::runtime::Runtime;
use tokio::sync::broadcast;

use crate::table::{Table, grouped, median, micros};

pub(crate) fn measure(runtime: &Runtime, place: &Path, quick: bool, table: &mut Table) {
    let folder = tempfile::tempdir_in(place).expect("a folder");
    let (store, events) = runtime.block_on(stored(folder.path(), 16 * ROUND, 1)).expect("stored");
    let turns = if quick { 3 } else { 7 };
    for (readers, count, alone) in [(1, events.len(), 5000), (1000, ROUND / 2, 500)] {
        let (mut ours, mut raw, mut other) = (Vec::new(), Vec::new(), Vec::new());
        for turn in 1..=turns {
            eprintln!("fan-out to {readers}: turn {turn} of {turns}");
            let (many, alone) = (&events[..count], &events[..alone]);
            let of_ours = runtime.block_on(turn_of(|| Ours::over(&store), readers, many, alone));
            ours.push(of_ours.expect("delivered"));
            let of_raw = turn_of(|| broadcast::Sender::new(ROUND), readers, many, alone);
            raw.push(runtime.block_on(of_raw).expect("delivered"));
            let of_other = turn_of(AsyncBroadcast::new, readers, many, alone);
            other.push(runtime.block_on(of_other).expect("delivered"));
        }
        let cell = |side: &[Turn]| {
            let of = |value: fn(&Turn) -> f64| median(side.iter().map(value).collect());
            let (p50, p99) = (micros(of(|turn| turn.p50)), micros(of(|turn| turn.p99)));
            format!("{} deliveries/s; an event alone: p50 {p50}, p99 {p99}", grouped(of(|turn| turn.rate)))
        };
        let what = match readers {
            1 => "fan-out within the process to 1 subscription".to_owned(),
            many => format!("the same to {} subscriptions of one pattern", grouped(many as f64)),
        };
        let beside =
            format!("raw `tokio::sync::broadcast`: {}; `async-broadcast`: {}", cell(&raw), cell(&other));
        table.row(&what, &cell(&ours), &beside);
    }
    runtime.block_on(store.close());
}

/// The channel of the crate `async-broadcast`, kept open by a receiver that takes nothing.
struct AsyncBroadcast {
    sender: async_broadcast::Sender<Arc<StoredEvent>>,
    _open: async_broadcast::InactiveReceiver<Arc<StoredEvent>>,
}

impl AsyncBroadcast {
    fn new() -> Self {
        let (sender, receiver) = async_broadcast::broadcast(ROUND);
        Self { sender, _open: receiver.deactivate() }
    }
}

impl Side for AsyncBroadcast {
    type Reader = AsyncReader;

    fn publish(&self, events: &[Arc<StoredEvent>]) {
        for event in events {
            self.sender.try_broadcast(Arc::clone(event)).expect("a round fits into the channel");
        }
    }

    fn reader(&self) -> AsyncReader {
        AsyncReader(self.sender.new_receiver())
    }

    fn reader_of(&self, _: usize) -> AsyncReader {
        self.reader()
    }
}

struct AsyncReader(async_broadcast::Receiver<Arc<StoredEvent>>);

impl Reader for AsyncReader {
    async fn next(&mut self) -> Arc<StoredEvent> {
        self.0.recv().await.expect("the channel is open")
    }
}
