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

/// There may be two for each reader, so it is small: most of them have one thing hanging, or one below.
struct Node<T> {
    hanging: Vec<T>,
    below: Option<Box<Below<T>>>,
    /// Apart from the others: what nearly all patterns end in.
    any_number: Option<Box<Node<T>>>,
}

struct Below<T> {
    literal: HashMap<Box<str>, Node<T>>,
    any: Option<Node<T>>,
    sub_wild: Vec<(Box<str>, Node<T>)>,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self { root: Node::default(), len: 0 }
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { hanging: Vec::new(), below: None, any_number: None }
    }
}

impl<T> Default for Below<T> {
    fn default() -> Self {
        Self { literal: HashMap::new(), any: None, sub_wild: Vec::new() }
    }
}

impl<T> Below<T> {
    fn is_empty(&self) -> bool {
        self.literal.is_empty() && self.any.is_none() && self.sub_wild.is_empty()
    }
}

impl<T: Hanging> Index<T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn insert(&mut self, pattern: &KeyPattern, one: T) {
        let mut node = &mut self.root;
        for chunk in pattern.chunks() {
            node = node.child_mut(&chunk);
        }
        one.place().store(node.hanging.len(), Ordering::Relaxed);
        node.hanging.push(one);
        self.len += 1;
    }

    /// Removes what was hung on this pattern; says whether it was still there.
    pub(crate) fn remove(&mut self, pattern: &KeyPattern, one: &T) -> bool {
        let removed = self.root.remove(&pattern.chunks(), one.place());
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
        if let PatternChunk::AnyNumber = chunk {
            return self.any_number.get_or_insert_default();
        }
        let below = self.below.get_or_insert_default();
        match chunk {
            PatternChunk::Literal(text) => below.literal.entry(text.clone()).or_default(),
            PatternChunk::Any => below.any.get_or_insert_default(),
            PatternChunk::SubWild(text) => {
                let known = below.sub_wild.iter().position(|(known, _)| known == text);
                let at = known.unwrap_or_else(|| {
                    below.sub_wild.push((text.clone(), Self::default()));
                    below.sub_wild.len() - 1
                });
                &mut below.sub_wild[at].1
            }
            PatternChunk::AnyNumber => unreachable!("looked at before"),
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
        if let PatternChunk::AnyNumber = chunk {
            let Some(node) = &mut self.any_number else { return false };
            let removed = node.remove(rest, place);
            if node.is_empty() {
                self.any_number = None;
            }
            return removed;
        }
        let Some(below) = &mut self.below else { return false };
        let removed = below.remove(chunk, rest, place);
        if below.is_empty() {
            self.below = None;
        }
        removed
    }

    fn is_leaf(&self) -> bool {
        self.below.is_none() && self.any_number.is_none()
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
        let (first, Some(below)) = (first.as_ref(), &self.below) else { return };
        if let Some(below) = below.literal.get(first) {
            below.walk(rest, found);
        }
        if let Some(below) = &below.any {
            below.walk(rest, found);
        }
        for (pattern, below) in &below.sub_wild {
            if sub_wild_matches(pattern.as_bytes(), first.as_bytes()) {
                below.walk(rest, found);
            }
        }
    }

    fn all(&self, found: &mut impl FnMut(&T)) {
        self.hanging.iter().for_each(&mut *found);
        if let Some(below) = &self.below {
            let nodes = below.literal.values().chain(below.sub_wild.iter().map(|(_, node)| node));
            nodes.chain(&below.any).for_each(|node| node.all(found));
        }
        if let Some(below) = &self.any_number {
            below.all(found);
        }
    }
}

impl<T: Hanging> Below<T> {
    fn remove(&mut self, chunk: &PatternChunk, rest: &[PatternChunk], place: &AtomicUsize) -> bool {
        match chunk {
            PatternChunk::Literal(text) => {
                let Some(child) = self.literal.get_mut(text) else { return false };
                let removed = child.remove(rest, place);
                if child.is_empty() {
                    self.literal.remove(text);
                }
                removed
            }
            PatternChunk::Any => {
                let Some(node) = &mut self.any else { return false };
                let removed = node.remove(rest, place);
                if node.is_empty() {
                    self.any = None;
                }
                removed
            }
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
            PatternChunk::AnyNumber => unreachable!("it hangs on the node itself"),
        }
    }
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
