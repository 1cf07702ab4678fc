//! Names that many events have: kept once and shared.

use std::array;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::Aggregate;

/// The names that were met lately. A name has one place, found by its hash; another that has the same place
/// takes it over, so it is bounded, and what is shared is only ever a saving.
#[derive(Debug)]
pub struct Names {
    places: [Option<Arc<str>>; Self::PLACES],
    hashing: RandomState,
}

impl Default for Names {
    fn default() -> Self {
        Self { places: array::from_fn(|_| None), hashing: RandomState::new() }
    }
}

impl Names {
    const PLACES: usize = 256;

    /// Longer ones aren't kept: no event has one, but what isn't an event may.
    const LONGEST: usize = Aggregate::MAX_ID_BYTES;

    /// The name, shared with whom it was last given to where that is still known.
    pub(super) fn shared(&mut self, name: &str) -> Arc<str> {
        if name.len() > Self::LONGEST {
            return name.into();
        }
        let at = self.hashing.hash_one(name) as usize % Self::PLACES;
        match &self.places[at] {
            Some(kept) if **kept == *name => Arc::clone(kept),
            _ => Arc::clone(self.places[at].insert(name.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shared_with_itself_alone_also_when_others_took_its_place_and_a_long_one_with_none() {
        let mut names = Names::default();
        let first = names.shared("Todo");
        assert!(Arc::ptr_eq(&first, &names.shared("Todo")));
        for round in 0..3 {
            for n in 0..2000 {
                let name = format!("id-{n}");
                assert_eq!(*names.shared(&name), name, "round {round}");
            }
        }
        assert_eq!(*names.shared("Todo"), *first);
        let long = "x".repeat(Names::LONGEST + 1);
        assert!(!Arc::ptr_eq(&names.shared(&long), &names.shared(&long)));
    }
}
