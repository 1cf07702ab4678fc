//! What hangs on the patterns that match a key: a tree over the chunks of all patterns. The tail's readers
//! hang on one, and a cache's entries.
//!
//! The cost of an event grows with the patterns that match it, not with all patterns: a literal chunk is
//! one look-up, and only `**` tries several depths.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::pattern::{KeyPattern, PatternChunk, sub_wild_matches};

/// What can hang on a pattern.
pub(crate) trait Hanging {
    /// Where in its node of the index it stands, so that it leaves without a search; only the index reads
    /// and writes it. Whoever hangs on several patterns has a place for each.
    fn place(&self) -> &AtomicUsize;
}

pub(crate) struct Index<T> {
    root: Node<T>,
    len: usize,
}

struct Node<T> {
    literal: HashMap<Box<str>, Node<T>>,
    any: Option<Box<Node<T>>>,
    any_number: Option<Box<Node<T>>>,
    sub_wild: Vec<(Box<str>, Node<T>)>,
    hanging: Vec<T>,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self { root: Node::default(), len: 0 }
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self {
            literal: HashMap::new(),
            any: None,
            any_number: None,
            sub_wild: Vec::new(),
            hanging: Vec::new(),
        }
    }
}

impl<T: Hanging> Index<T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn insert(&mut self, pattern: &KeyPattern, one: T) {
        let mut node = &mut self.root;
        for chunk in pattern.chunks() {
            node = node.child_mut(chunk);
        }
        one.place().store(node.hanging.len(), Ordering::Relaxed);
        node.hanging.push(one);
        self.len += 1;
    }

    /// Removes what was hung on this pattern; says whether it was still there.
    pub(crate) fn remove(&mut self, pattern: &KeyPattern, one: &T) -> bool {
        let removed = self.root.remove(pattern.chunks(), one.place());
        self.len -= usize::from(removed);
        removed
    }

    /// Calls `found` for everything whose pattern matches the key. A pattern with several `**` may be
    /// found more than once for one key.
    pub(crate) fn matching<K: AsRef<str>>(&self, key: &[K], found: &mut impl FnMut(&T)) {
        self.root.walk(key, found);
    }

    pub(crate) fn all(&self, found: &mut impl FnMut(&T)) {
        self.root.all(found);
    }
}

impl<T: Hanging> Node<T> {
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

    /// Removes what has this place at the end of the path, and every node that is left with nothing in it.
    fn remove(&mut self, path: &[PatternChunk], place: &AtomicUsize) -> bool {
        let Some((chunk, rest)) = path.split_first() else {
            let at = place.load(Ordering::Relaxed);
            if !self.hanging.get(at).is_some_and(|found| std::ptr::eq(found.place(), place)) {
                return false;
            }
            self.hanging.swap_remove(at);
            if let Some(moved) = self.hanging.get(at) {
                moved.place().store(at, Ordering::Relaxed);
            }
            return true;
        };
        match chunk {
            PatternChunk::Literal(text) => {
                let Some(child) = self.literal.get_mut(text) else { return false };
                let removed = child.remove(rest, place);
                if child.is_empty() {
                    self.literal.remove(text);
                }
                removed
            }
            PatternChunk::Any => remove_below(&mut self.any, rest, place),
            PatternChunk::AnyNumber => remove_below(&mut self.any_number, rest, place),
            PatternChunk::SubWild(text) => {
                let Some(at) = self.sub_wild.iter().position(|(known, _)| known == text) else {
                    return false;
                };
                let removed = self.sub_wild[at].1.remove(rest, place);
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
        self.hanging.is_empty() && self.is_leaf()
    }

    fn walk<K: AsRef<str>>(&self, key: &[K], found: &mut impl FnMut(&T)) {
        if let Some(below) = &self.any_number {
            if below.is_leaf() {
                below.hanging.iter().for_each(&mut *found);
            } else {
                (0..=key.len()).for_each(|skip| below.walk(&key[skip..], found));
            }
        }
        let Some((first, rest)) = key.split_first() else {
            self.hanging.iter().for_each(found);
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

    fn all(&self, found: &mut impl FnMut(&T)) {
        self.hanging.iter().for_each(&mut *found);
        let below = self.literal.values();
        let below = below.chain(self.sub_wild.iter().map(|(_, node)| node));
        let below = below.chain(self.any.as_deref()).chain(self.any_number.as_deref());
        below.for_each(|node| node.all(found));
    }
}

fn remove_below<T: Hanging>(
    child: &mut Option<Box<Node<T>>>,
    rest: &[PatternChunk],
    place: &AtomicUsize,
) -> bool {
    let Some(node) = child else { return false };
    let removed = node.remove(rest, place);
    if node.is_empty() {
        *child = None;
    }
    removed
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    struct One {
        pattern: KeyPattern,
        place: AtomicUsize,
    }

    impl Hanging for Arc<One> {
        fn place(&self) -> &AtomicUsize {
            &self.place
        }
    }

    fn chunk() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["events", "session", "a", "b", "ab", "1", "*", "**", "$*b", "a$*", "a$*b"])
    }

    fn key() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", "acb", "1", "session"]), 3..=5)
            .prop_map(|chunks| format!("events/{}", chunks.join("/")))
    }

    proptest! {
        /// The tree finds what hangs on a pattern if and only if it matches, before and after others left.
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
            let mut all: Vec<_> =
                parsed.map(|pattern| Arc::new(One { pattern, place: AtomicUsize::new(0) })).collect();
            all.iter().for_each(|one| index.insert(&one.pattern, Arc::clone(one)));
            for round in 0..2 {
                for key in &keys {
                    let chunks: Vec<&str> = key.split('/').collect();
                    let mut found = Vec::new();
                    index.matching(&chunks, &mut |one| found.push(Arc::as_ptr(one)));
                    found.sort_unstable();
                    found.dedup();
                    let mut expected: Vec<_> =
                        all.iter().filter(|one| one.pattern.matches_key(key)).map(Arc::as_ptr).collect();
                    expected.sort_unstable();
                    prop_assert_eq!(&found, &expected, "key {}, round {}", key, round);
                }
                let mut at = 0;
                all.retain(|one| {
                    at += 1;
                    !(leave[at - 1] && index.remove(&one.pattern, one))
                });
                prop_assert_eq!(index.len(), all.len());
                let mut walked = 0;
                index.all(&mut |_| walked += 1);
                prop_assert_eq!(walked, all.len());
            }
            for one in &all {
                prop_assert!(index.remove(&one.pattern, one));
                prop_assert!(!index.remove(&one.pattern, one), "it has left already");
            }
            prop_assert!(index.root.is_empty(), "an empty index keeps no nodes");
        }
    }
}
