//! Who computes what just now, so that a value which many ask for at once is computed once.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use parking_lot::Mutex;
use tokio::sync::watch;

/// The keys whose values are being computed.
pub(super) struct Flights<K>(Mutex<HashMap<K, watch::Receiver<()>>>);

/// Whose turn it is to compute a value.
pub(super) enum Turn<'a, K: Hash + Eq> {
    /// The caller's.
    Ours(Flight<'a, K>),
    /// Another's. The receiver changes when that one has computed, and is closed without a change when it
    /// gave up.
    Theirs(watch::Receiver<()>),
}

/// A computation under way; others wait until this is dropped.
pub(super) struct Flight<'a, K: Hash + Eq> {
    flights: &'a Flights<K>,
    key: K,
    done: watch::Sender<()>,
}

impl<K: Hash + Eq + Clone> Flights<K> {
    pub(super) fn turn<Q>(&self, key: &Q) -> Turn<'_, K>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let mut flights = self.0.lock();
        if let Some(theirs) = flights.get(key) {
            return Turn::Theirs(theirs.clone());
        }
        let (done, waiting) = watch::channel(());
        let key = key.to_owned();
        flights.insert(key.clone(), waiting);
        Turn::Ours(Flight { flights: self, key, done })
    }
}

impl<K: Hash + Eq> Flight<'_, K> {
    /// The value was computed, whatever came of it.
    pub(super) fn land(self) {
        self.done.send_replace(());
    }
}

impl<K: Hash + Eq> Drop for Flight<'_, K> {
    fn drop(&mut self) {
        self.flights.0.lock().remove(&self.key);
    }
}

impl<K> Default for Flights<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}
