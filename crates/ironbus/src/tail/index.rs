//! Which readers wait for an event: a tree over the chunks of their patterns.
//!
//! The cost of an event grows with the patterns that match it, not with all patterns: a literal chunk is
//! one look-up, and only `**` tries several depths.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::slot::Slot;
use crate::key::{KeyPattern, PatternChunk, sub_wild_matches};

#[derive(Default)]
pub(super) struct Index {
    root: Node,
    len: usize,
}

#[derive(Default)]
struct Node {
    literal: HashMap<Box<str>, Node>,
    any: Option<Box<Node>>,
    any_number: Option<Box<Node>>,
    sub_wild: Vec<(Box<str>, Node)>,
    slots: Vec<Arc<Slot>>,
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, slot: Arc<Slot>) {
        let mut node = &mut self.root;
        for chunk in slot.filter().pattern.chunks() {
            node = node.child_mut(chunk);
        }
        slot.place.store(node.slots.len(), Ordering::Relaxed);
        node.slots.push(slot);
        self.len += 1;
    }

    pub(super) fn remove(&mut self, slot: &Arc<Slot>) {
        let pattern: &KeyPattern = &slot.filter().pattern;
        if self.root.remove(pattern.chunks(), slot) {
            self.len -= 1;
        }
    }

    /// Calls `found` for every slot whose pattern matches the key. A pattern with several `**` may be
    /// found more than once for one key.
    pub(super) fn matching<K: AsRef<str>>(&self, key: &[K], found: &mut impl FnMut(&Arc<Slot>)) {
        self.root.walk(key, found);
    }

    pub(super) fn all(&self, found: &mut impl FnMut(&Arc<Slot>)) {
        self.root.all(found);
    }
}

impl Node {
    fn child_mut(&mut self, chunk: &PatternChunk) -> &mut Self {
        match chunk {
            PatternChunk::Literal(text) => self.literal.entry(text.clone()).or_default(),
            PatternChunk::Any => self.any.get_or_insert_default(),
            PatternChunk::AnyNumber => self.any_number.get_or_insert_default(),
            PatternChunk::SubWild(text) => {
                let known = self.sub_wild.iter().position(|(known, _)| known == text);
                let at = known.unwrap_or_else(|| {
                    self.sub_wild.push((text.clone(), Self::default()));
                    self.sub_wild.len() - 1
                });
                &mut self.sub_wild[at].1
            }
        }
    }

    /// Removes the slot at the end of the path, and every node that is left with nothing in it.
    fn remove(&mut self, path: &[PatternChunk], slot: &Arc<Slot>) -> bool {
        let Some((chunk, rest)) = path.split_first() else {
            let place = slot.place.load(Ordering::Relaxed);
            if !self.slots.get(place).is_some_and(|found| Arc::ptr_eq(found, slot)) {
                return false;
            }
            self.slots.swap_remove(place);
            if let Some(moved) = self.slots.get(place) {
                moved.place.store(place, Ordering::Relaxed);
            }
            return true;
        };
        match chunk {
            PatternChunk::Literal(text) => {
                let Some(child) = self.literal.get_mut(text) else { return false };
                let removed = child.remove(rest, slot);
                if child.is_empty() {
                    self.literal.remove(text);
                }
                removed
            }
            PatternChunk::Any => remove_below(&mut self.any, rest, slot),
            PatternChunk::AnyNumber => remove_below(&mut self.any_number, rest, slot),
            PatternChunk::SubWild(text) => {
                let Some(at) = self.sub_wild.iter().position(|(known, _)| known == text) else {
                    return false;
                };
                let removed = self.sub_wild[at].1.remove(rest, slot);
                if self.sub_wild[at].1.is_empty() {
                    self.sub_wild.swap_remove(at);
                }
                removed
            }
        }
    }

    fn is_leaf(&self) -> bool {
        self.literal.is_empty() && self.any.is_none() && self.any_number.is_none() && self.sub_wild.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.is_leaf()
    }

    fn walk<K: AsRef<str>>(&self, key: &[K], found: &mut impl FnMut(&Arc<Slot>)) {
        if let Some(below) = &self.any_number {
            if below.is_leaf() {
                below.slots.iter().for_each(&mut *found);
            } else {
                (0..=key.len()).for_each(|skip| below.walk(&key[skip..], found));
            }
        }
        let Some((first, rest)) = key.split_first() else {
            self.slots.iter().for_each(found);
            return;
        };
        let first = first.as_ref();
        if let Some(below) = self.literal.get(first) {
            below.walk(rest, found);
        }
        if let Some(below) = &self.any {
            below.walk(rest, found);
        }
        for (pattern, below) in &self.sub_wild {
            if sub_wild_matches(pattern.as_bytes(), first.as_bytes()) {
                below.walk(rest, found);
            }
        }
    }

    fn all(&self, found: &mut impl FnMut(&Arc<Slot>)) {
        self.slots.iter().for_each(&mut *found);
        let below = self.literal.values();
        let below = below.chain(self.sub_wild.iter().map(|(_, node)| node));
        let below = below.chain(self.any.as_deref()).chain(self.any_number.as_deref());
        below.for_each(|node| node.all(found));
    }
}

fn remove_below(child: &mut Option<Box<Node>>, rest: &[PatternChunk], slot: &Arc<Slot>) -> bool {
    let Some(node) = child else { return false };
    let removed = node.remove(rest, slot);
    if node.is_empty() {
        *child = None;
    }
    removed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::{EventFilter, KeyPattern};

    fn chunk() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["events", "session", "a", "b", "ab", "1", "*", "**", "$*b", "a$*", "a$*b"])
    }

    fn key() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", "acb", "1", "session"]), 3..=5)
            .prop_map(|chunks| format!("events/{}", chunks.join("/")))
    }

    proptest! {
        /// The tree finds a slot if and only if its pattern matches, before and after others left.
        #[test]
        fn the_tree_agrees_with_matching_one_by_one(
            patterns in prop::collection::vec(prop::collection::vec(chunk(), 1..6), 1..40),
            keys in prop::collection::vec(key(), 1..20),
            leave in prop::collection::vec(any::<bool>(), 40),
        ) {
            let mut index = Index::default();
            let parsed = patterns.iter().filter_map(|chunks| {
                KeyPattern::parse(&format!("events/{}", chunks.join("/"))).ok()
            });
            let mut slots: Vec<_> =
                parsed.map(|pattern| Slot::new(EventFilter::public(pattern))).collect();
            slots.iter().for_each(|slot| index.insert(Arc::clone(slot)));
            for round in 0..2 {
                for key in &keys {
                    let chunks: Vec<&str> = key.split('/').collect();
                    let mut found = Vec::new();
                    index.matching(&chunks, &mut |slot| found.push(Arc::as_ptr(slot)));
                    found.sort_unstable();
                    found.dedup();
                    let mut expected: Vec<_> = slots
                        .iter()
                        .filter(|slot| slot.filter().pattern.matches_key(key))
                        .map(Arc::as_ptr)
                        .collect();
                    expected.sort_unstable();
                    prop_assert_eq!(&found, &expected, "key {}, round {}", key, round);
                }
                let mut at = 0;
                slots.retain(|slot| {
                    at += 1;
                    if leave[at - 1] {
                        index.remove(slot);
                    }
                    !leave[at - 1]
                });
                prop_assert_eq!(index.len(), slots.len());
            }
            slots.iter().for_each(|slot| index.remove(slot));
            prop_assert!(index.root.is_empty(), "an empty index keeps no nodes");
        }
    }
}
