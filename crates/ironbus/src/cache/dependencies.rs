//! Which cached values an event makes stale: the rules, without I/O, tasks or locks.
//!
//! Invariants:
//! - a value is current if and only if it hangs in the index;
//! - a current value has not been passed by an event after the position that it was computed from that one
//!   of its filters matches;
//! - what can't be known counts as stale: a hole makes everything stale, and a value that was computed from
//!   so long ago that what has happened since is forgotten isn't admitted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::event::{Aggregate, Cursor, Epoch, Position, Sequence, SessionId, StoredEvent};
use crate::key::{EventFilter, Hanging, Index, KeyChunks};

/// What cached values depend on. Fed with every event of a log, in order, it says which values are stale.
///
/// It holds the keys of values and never the values; [`super::CachedViews`] puts a cache on top.
pub struct Dependencies<K> {
    index: Index<Hung<K>>,
    following: Option<Following>,
    /// Where the last events stood, the newest at the back, up to `following.seen`.
    recent: VecDeque<Place>,
    memory: usize,
}

struct Following {
    epoch: Epoch,
    seen: Position,
}

struct Place {
    aggregate: Aggregate,
    sequence: Sequence,
    session_id: Option<SessionId>,
}

/// An admitted value's place among the dependencies. Keep it beside the value and serve the value only while
/// it is current. A handle: cheap to clone.
pub struct Dependent<K>(Arc<Entry<K>>);

struct Entry<K> {
    key: K,
    computed_at: Position,
    depends_on: Box<[Dependency]>,
    current: AtomicBool,
}

struct Dependency {
    filter: EventFilter,
    place: AtomicUsize,
}

/// One dependency of one value, as it hangs in the index.
struct Hung<K> {
    entry: Arc<Entry<K>>,
    which: usize,
}

/// What an event made stale.
#[derive(Debug)]
pub enum Stale<K> {
    /// These values, each of which has just ceased to be current.
    Values(Vec<Dependent<K>>),
    /// Every value: there was a hole before the event.
    Everything,
}

/// Why a value isn't admitted. It is as good as any other answer to whoever computed it, but must not be
/// kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// An event that it depends on has come since.
    #[error("computed from position {computed_at}, and the event at {invalidated_at} has changed it since")]
    Stale {
        /// What it was computed from.
        computed_at: Position,
        /// The last event that invalidates it.
        invalidated_at: Position,
    },
    /// It was computed from so long ago that what has happened since is no longer known.
    #[error("computed from position {computed_at}; what happened up to {forgotten} is forgotten")]
    TooOld {
        /// What it was computed from.
        computed_at: Position,
        /// The last position that is forgotten.
        forgotten: Position,
    },
    /// It was computed from an earlier incarnation of the log.
    #[error("computed in epoch {computed_in}, but the log that is followed is in epoch {followed}")]
    EarlierEpoch {
        /// The epoch it was computed in.
        computed_in: Epoch,
        /// The epoch in which the log is followed.
        followed: Epoch,
    },
    /// It depends on nothing, so nothing would invalidate it.
    #[error("depends on nothing, so nothing would invalidate it")]
    NoDependencies,
    /// It depends on a session's events without being entitled to them, so none would invalidate it.
    #[error("depends on `{pattern}` without an entitlement to that session's events")]
    NotEntitled {
        /// The session's pattern.
        pattern: String,
    },
    /// The log isn't followed just now, so nothing would invalidate the value.
    #[error("the log isn't followed just now, so nothing would invalidate the value")]
    NotFollowing,
}

impl<K> Dependencies<K> {
    /// How many of the last events are remembered. A value that was computed from further back is refused
    /// ([`Refused::TooOld`]), whether or not one of the forgotten events matters to it.
    pub const MEMORY: usize = 4096;

    /// Nothing depends on anything, and no log is followed yet, so nothing is admitted.
    #[must_use]
    pub fn new() -> Self {
        Self::with_memory(Self::MEMORY)
    }

    fn with_memory(memory: usize) -> Self {
        Self { index: Index::default(), following: None, recent: VecDeque::new(), memory }
    }

    /// The log is followed from here on: [`Self::apply`] will be given every event after `from`. What was
    /// current before is stale.
    pub fn follow(&mut self, from: Cursor) {
        self.lose();
        self.following = Some(Following { epoch: from.epoch, seen: from.position });
    }

    /// The log isn't followed any more: everything is stale, and nothing is admitted.
    pub fn lose(&mut self) {
        self.index.all(&mut |hung| hung.entry.current.store(false, Ordering::Release));
        self.index = Index::default();
        self.recent.clear();
        self.following = None;
    }

    /// Up to where the log has been seen; `None` while it isn't followed. A value that is computed from now
    /// on is computed from here at the least.
    #[must_use]
    pub fn seen(&self) -> Option<Cursor> {
        let following = self.following.as_ref()?;
        Some(Cursor { epoch: following.epoch, position: following.seen })
    }

    /// How many dependencies current values have in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether nothing depends on anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the next event. One that was seen already changes nothing; one that doesn't follow the last
    /// makes everything stale.
    pub fn apply(&mut self, event: &StoredEvent) -> Stale<K> {
        let mut stale = Vec::new();
        let Some(following) = &mut self.following else { return Stale::Values(stale) };
        if event.position <= following.seen {
            return Stale::Values(stale);
        }
        if event.position != following.seen.next() {
            let epoch = following.epoch;
            self.follow(Cursor { epoch, position: event.position });
            return Stale::Everything;
        }
        following.seen = event.position;
        if self.recent.len() == self.memory {
            self.recent.pop_front();
        }
        self.recent.push_back(Place {
            aggregate: event.aggregate.clone(),
            sequence: event.sequence,
            session_id: event.session_id.clone(),
        });
        self.index.matching(KeyChunks::of(event).as_slice(), &mut |hung| {
            // A value that two of its patterns match is found twice, and ceases to be current once.
            if hung.is_invalidated_by(event) && hung.entry.current.swap(false, Ordering::Release) {
                stale.push(Dependent(Arc::clone(&hung.entry)));
            }
        });
        stale.iter().for_each(|dependent| self.unhang(dependent));
        Stale::Values(stale)
    }

    /// Lets a value in that was computed from the log (or from what was built of it) as it was at
    /// `computed_at`, or refuses it. From now on it is current until an event after `computed_at` comes that
    /// one of `depends_on` lets pass.
    ///
    /// # Errors
    ///
    /// [`Refused`] when it is stale already, or when that can't be known.
    pub fn admit(
        &mut self,
        key: K,
        depends_on: Vec<EventFilter>,
        computed_at: Cursor,
    ) -> Result<Dependent<K>, Refused> {
        self.check(&depends_on, computed_at)?;
        let place = || AtomicUsize::new(0);
        let depends_on = depends_on.into_iter().map(|filter| Dependency { filter, place: place() });
        let entry = Arc::new(Entry {
            key,
            computed_at: computed_at.position,
            depends_on: depends_on.collect(),
            current: AtomicBool::new(true),
        });
        for (which, dependency) in entry.depends_on.iter().enumerate() {
            self.index.insert(&dependency.filter.pattern, Hung { entry: Arc::clone(&entry), which });
        }
        Ok(Dependent(entry))
    }

    fn check(&self, depends_on: &[EventFilter], computed_at: Cursor) -> Result<(), Refused> {
        let Some(Following { epoch: followed, seen }) = self.following else {
            return Err(Refused::NotFollowing);
        };
        if depends_on.is_empty() {
            return Err(Refused::NoDependencies);
        }
        let silent = |filter: &&EventFilter| {
            filter.pattern.only_session().is_some_and(|session| !filter.entitlement.allows(Some(&session)))
        };
        if let Some(filter) = depends_on.iter().find(silent) {
            return Err(Refused::NotEntitled { pattern: filter.pattern.to_string() });
        }
        if computed_at.epoch < followed {
            return Err(Refused::EarlierEpoch { computed_in: computed_at.epoch, followed });
        }
        let computed_at = computed_at.position;
        let forgotten = Position(seen.0 - self.recent.len() as u64);
        if computed_at < forgotten {
            return Err(Refused::TooOld { computed_at, forgotten });
        }
        let since = seen.0.saturating_sub(computed_at.0);
        for (place, back) in self.recent.iter().rev().zip(0..since) {
            if depends_on.iter().any(|filter| place.is_matched_by(filter)) {
                return Err(Refused::Stale { computed_at, invalidated_at: Position(seen.0 - back) });
            }
        }
        Ok(())
    }

    /// Forgets a value that left its cache; from now on it isn't current.
    pub fn remove(&mut self, dependent: &Dependent<K>) {
        if dependent.0.current.swap(false, Ordering::Release) {
            self.unhang(dependent);
        }
    }

    fn unhang(&mut self, Dependent(entry): &Dependent<K>) {
        for (which, dependency) in entry.depends_on.iter().enumerate() {
            let hung = Hung { entry: Arc::clone(entry), which };
            self.index.remove(&dependency.filter.pattern, &hung);
        }
    }
}

impl<K> Default for Dependencies<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K> Dependent<K> {
    /// The value's key.
    #[must_use]
    pub fn key(&self) -> &K {
        &self.0.key
    }

    /// Whether no event that was applied so far makes the value stale.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.0.current.load(Ordering::Acquire)
    }
}

impl<K> Hung<K> {
    fn dependency(&self) -> &Dependency {
        &self.entry.depends_on[self.which]
    }

    /// Whether an event whose key the pattern matches makes the value stale: what it was computed from may
    /// be ahead of what has been seen.
    fn is_invalidated_by(&self, event: &StoredEvent) -> bool {
        event.position > self.entry.computed_at
            && self.dependency().filter.entitlement.allows(event.session_id.as_ref())
    }
}

impl<K> Hanging for Hung<K> {
    fn place(&self) -> &AtomicUsize {
        &self.dependency().place
    }
}

impl Place {
    fn is_matched_by(&self, filter: &EventFilter) -> bool {
        filter.matches_place(&self.aggregate, self.sequence, self.session_id.as_ref())
    }
}

impl<K> Clone for Dependent<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: std::fmt::Debug> std::fmt::Debug for Dependent<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dependent")
            .field("key", &self.0.key)
            .field("computed_at", &self.0.computed_at)
            .field("current", &self.is_current())
            .finish_non_exhaustive()
    }
}

impl<K> std::fmt::Debug for Dependencies<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dependencies")
            .field("seen", &self.seen())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::test_event;
    use crate::key::Entitlement;

    fn event(position: u64, kind: &str, id: &str, session: Option<&str>) -> StoredEvent {
        let session = session.map(|id| SessionId::new(id).expect("valid"));
        let aggregate = Aggregate::new(kind, id).expect("valid");
        let event = test_event(aggregate, Sequence(position), session);
        StoredEvent { position: Position(position), ..event }
    }

    fn on(pattern: &str) -> EventFilter {
        EventFilter::public(pattern.parse().expect(pattern))
    }

    fn of_session(pattern: &str) -> EventFilter {
        on(pattern).entitled(Entitlement::session(SessionId::new("s").expect("valid")))
    }

    fn at(position: u64) -> Cursor {
        Cursor { epoch: Epoch(2), position: Position(position) }
    }

    fn followed_from(position: u64) -> Dependencies<&'static str> {
        let mut dependencies = Dependencies::new();
        dependencies.follow(at(position));
        dependencies
    }

    fn stale_keys(stale: Stale<&'static str>) -> Vec<&'static str> {
        let Stale::Values(dependents) = stale else { panic!("there was no hole") };
        assert!(dependents.iter().all(|dependent| !dependent.is_current()));
        dependents.iter().map(|dependent| *dependent.key()).collect()
    }

    #[test]
    fn an_event_invalidates_what_depends_on_it_once_and_nothing_else() {
        let mut dependencies = followed_from(0);
        let both = vec![on("events/Todo/**"), on("events/Todo/1/**"), on("events/**/Todo/**")];
        dependencies.admit("both", both, at(0)).expect("nothing has happened");
        let other = dependencies.admit("other", vec![on("events/Todo/2/**")], at(0)).expect("the same");
        assert_eq!(dependencies.len(), 4);
        assert_eq!(stale_keys(dependencies.apply(&event(1, "Todo", "1", None))), ["both"]);
        assert_eq!(stale_keys(dependencies.apply(&event(2, "Todo", "1", None))), [""; 0]);
        assert!(other.is_current());
        assert_eq!(dependencies.len(), 1, "all places of what is stale were given up");
    }

    #[test]
    fn a_value_from_before_an_invalidation_is_not_admitted_after_it() {
        let mut dependencies = followed_from(0);
        for position in 1..=3 {
            dependencies.apply(&event(position, "Todo", if position == 2 { "1" } else { "2" }, None));
        }
        let mut admit = |position| dependencies.admit("one", vec![on("events/Todo/1/**")], at(position));
        let (computed_at, invalidated_at) = (Position(1), Position(2));
        assert_eq!(admit(1).expect_err("stale"), Refused::Stale { computed_at, invalidated_at });
        assert!(admit(2).is_ok(), "the event at 2 is in it, and the one at 3 doesn't matter");
    }

    #[test]
    fn a_value_from_ahead_of_what_has_been_seen_survives_what_it_includes() {
        let mut dependencies = followed_from(0);
        dependencies.admit("one", vec![on("events/Todo/**")], at(2)).expect("ahead");
        for position in 1..=2 {
            assert_eq!(stale_keys(dependencies.apply(&event(position, "Todo", "1", None))), [""; 0]);
        }
        assert_eq!(stale_keys(dependencies.apply(&event(3, "Todo", "1", None))), ["one"]);
    }

    #[test]
    fn a_value_from_before_what_is_remembered_is_refused_rather_than_trusted() {
        let mut dependencies = Dependencies::with_memory(3);
        dependencies.follow(at(10));
        let admit = |dependencies: &mut Dependencies<&'static str>, position| {
            dependencies.admit("one", vec![on("events/Todo/1/**")], at(position)).map(|_| ())
        };
        let too_old = |computed_at, forgotten| {
            Err(Refused::TooOld { computed_at: Position(computed_at), forgotten: Position(forgotten) })
        };
        assert_eq!(admit(&mut dependencies, 9), too_old(9, 10), "it isn't known what came before");
        for position in 11..=14 {
            dependencies.apply(&event(position, "Todo", "2", None));
        }
        assert_eq!(admit(&mut dependencies, 10), too_old(10, 11));
        assert_eq!(admit(&mut dependencies, 11), Ok(()));
    }

    #[test]
    fn a_hole_makes_everything_stale_and_what_is_repeated_nothing() {
        let mut dependencies = followed_from(0);
        let kept = dependencies.admit("one", vec![on("events/Todo/1/**")], at(1)).expect("ahead");
        dependencies.apply(&event(1, "Todo", "1", None));
        dependencies.apply(&event(1, "Todo", "1", None));
        assert!(kept.is_current());
        assert!(matches!(dependencies.apply(&event(3, "Todo", "2", None)), Stale::Everything));
        assert!(!kept.is_current() && dependencies.is_empty());
        let refused = dependencies.admit("one", vec![on("events/Todo/1/**")], at(2));
        assert!(matches!(refused, Err(Refused::TooOld { .. })), "{refused:?}");
        assert_eq!(dependencies.seen(), Some(at(3)));
    }

    #[test]
    fn nothing_is_admitted_while_no_log_is_followed_or_from_an_earlier_incarnation() {
        let mut dependencies = Dependencies::new();
        let admit = |dependencies: &mut Dependencies<&'static str>, computed_at| {
            dependencies.admit("one", vec![on("events/Todo/**")], computed_at)
        };
        assert_eq!(admit(&mut dependencies, at(5)).expect_err("not yet"), Refused::NotFollowing);
        dependencies.follow(at(5));
        let kept = admit(&mut dependencies, at(5)).expect("followed");
        let earlier = Cursor { epoch: Epoch(1), position: Position(9) };
        let refused = Refused::EarlierEpoch { computed_in: Epoch(1), followed: Epoch(2) };
        assert_eq!(admit(&mut dependencies, earlier).expect_err("another history"), refused);
        dependencies.lose();
        assert!(!kept.is_current(), "although no event has invalidated it");
        assert_eq!(admit(&mut dependencies, at(5)).expect_err("lost"), Refused::NotFollowing);
        assert_eq!(stale_keys(dependencies.apply(&event(6, "Todo", "1", None))), [""; 0]);
    }

    #[test]
    fn a_session_s_events_invalidate_only_what_is_entitled_to_them() {
        let mut dependencies = followed_from(0);
        dependencies.admit("public", vec![on("events/**")], at(0)).expect("nothing has happened");
        dependencies.admit("session", vec![of_session("events/**")], at(0)).expect("the same");
        let refused = dependencies.admit("for ever", vec![], at(0));
        assert_eq!(refused.err(), Some(Refused::NoDependencies));
        let refused = dependencies.admit("deaf", vec![on("events/session/s/**")], at(0));
        assert_eq!(refused.err(), Some(Refused::NotEntitled { pattern: "events/session/s/**".into() }));
        let told = |dependencies: &mut Dependencies<_>, position, session| {
            stale_keys(dependencies.apply(&event(position, "Todo", "1", session)))
        };
        assert_eq!(told(&mut dependencies, 1, Some("t")), [""; 0]);
        assert_eq!(told(&mut dependencies, 2, Some("s")), ["session"]);
        dependencies.admit("public, later", vec![on("events/**")], at(0)).expect("not its events");
        let refused = dependencies.admit("session, later", vec![of_session("events/**")], at(1));
        assert!(matches!(refused, Err(Refused::Stale { invalidated_at: Position(2), .. })));
        let mut public = told(&mut dependencies, 3, None);
        public.sort_unstable();
        assert_eq!(public, ["public", "public, later"]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Append(usize),
        Apply,
        Repeat(prop::sample::Index),
        Hole,
        Lose,
        Follow(prop::sample::Index),
        /// Depends on these filters, and was computed from here.
        Admit(Vec<usize>, prop::sample::Index),
        Remove(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        let index = any::<prop::sample::Index>;
        prop_oneof![
            8 => (0..6_usize).prop_map(Step::Append),
            8 => Just(Step::Apply),
            1 => index().prop_map(Step::Repeat),
            1 => Just(Step::Hole),
            1 => Just(Step::Lose),
            2 => index().prop_map(Step::Follow),
            8 => (prop::collection::vec(0..7_usize, 0..3), index()).prop_map(|(on, at)| Step::Admit(on, at)),
            1 => index().prop_map(Step::Remove),
        ]
    }

    fn filters() -> [EventFilter; 7] {
        [
            on("events/A/**"),
            on("events/A/1/**"),
            on("events/**"),
            on("events/*/2/*"),
            of_session("events/session/s/**"),
            of_session("**/A/**"),
            on("**/B/**/1/**"),
        ]
    }

    /// A value as the model keeps it: by the whole log it knows whether it is stale.
    struct Kept {
        dependent: Dependent<usize>,
        depends_on: Vec<EventFilter>,
        computed_at: Position,
        /// It was removed, or everything was lost.
        gone: bool,
    }

    const MEMORY: usize = 5;

    proptest! {
        /// Current is exactly what was let in and neither was removed or lost nor has been passed by an
        /// event that matters; let in is exactly what is known to be so.
        #[test]
        fn current_is_what_no_event_has_changed(steps in prop::collection::vec(step(), 1..120)) {
            let kinds =
                [("A", "1", None), ("A", "2", None), ("B", "1", None), ("B", "2", None), ("A", "1", Some("s")),
                 ("A", "2", Some("t"))];
            let mut dependencies = Dependencies::with_memory(MEMORY);
            let mut log: Vec<StoredEvent> = Vec::new();
            let mut kept: Vec<Kept> = Vec::new();
            // From where the log is followed, and up to where it was seen.
            let mut followed: Option<(u64, u64)> = None;
            for step in steps {
                let mut all_gone = false;
                match step {
                    Step::Append(kind) => {
                        let (aggregate_type, id, session) = kinds[kind];
                        log.push(event(log.len() as u64 + 1, aggregate_type, id, session));
                    }
                    Step::Apply => {
                        let next = followed.and_then(|(_, seen)| log.get(usize::try_from(seen).ok()?));
                        if let (Some(event), Some((_, seen))) = (next, &mut followed) {
                            *seen += 1;
                            prop_assert!(matches!(dependencies.apply(event), Stale::Values(_)));
                        }
                    }
                    Step::Repeat(which) => if let Some((_, seen @ 1..)) = followed {
                        let again = &log[which.index(usize::try_from(seen).expect("short"))];
                        prop_assert!(matches!(dependencies.apply(again), Stale::Values(none) if none.is_empty()));
                    }
                    Step::Hole => if let Some((from, seen)) = &mut followed && *seen + 2 <= log.len() as u64 {
                        *seen += 2;
                        *from = *seen;
                        all_gone = true;
                        let beyond = &log[usize::try_from(*seen).expect("short") - 1];
                        prop_assert!(matches!(dependencies.apply(beyond), Stale::Everything));
                    }
                    Step::Lose => {
                        dependencies.lose();
                        (followed, all_gone) = (None, true);
                    }
                    Step::Follow(from) => {
                        let from = from.index(log.len() + 1) as u64;
                        dependencies.follow(at(from));
                        (followed, all_gone) = (Some((from, from)), true);
                    }
                    Step::Admit(which, from) => {
                        let depends_on: Vec<_> = which.iter().map(|which| filters()[*which].clone()).collect();
                        let computed_at = from.index(log.len() + 1) as u64;
                        let admitted = dependencies.admit(0, depends_on.clone(), at(computed_at));
                        let known = followed.is_some_and(|(from, seen)| {
                            computed_at >= from.max(seen.saturating_sub(MEMORY as u64))
                        });
                        let seen = followed.map_or(0, |(_, seen)| seen);
                        let changed = is_changed(&log, &depends_on, Position(computed_at), seen);
                        prop_assert_eq!(admitted.is_ok(), known && !changed && !depends_on.is_empty(), "{:?}", admitted);
                        let computed_at = Position(computed_at);
                        kept.extend(
                            admitted.ok().map(|dependent| Kept { dependent, depends_on, computed_at, gone: false }),
                        );
                    }
                    Step::Remove(which) => if !kept.is_empty() {
                        let count = kept.len();
                        let one = &mut kept[which.index(count)];
                        dependencies.remove(&one.dependent);
                        one.gone = true;
                    }
                }
                let mut hanging = 0;
                for one in &mut kept {
                    one.gone |= all_gone;
                    let seen = followed.map_or(0, |(_, seen)| seen);
                    one.gone |= is_changed(&log, &one.depends_on, one.computed_at, seen);
                    prop_assert_eq!(one.dependent.is_current(), !one.gone, "{:?}", one.dependent);
                    hanging += if one.gone { 0 } else { one.depends_on.len() };
                }
                prop_assert_eq!(dependencies.len(), hanging);
                prop_assert_eq!(dependencies.seen().map(|seen| seen.position.0), followed.map(|(_, seen)| seen));
            }
        }
    }

    fn is_changed(log: &[StoredEvent], depends_on: &[EventFilter], computed_at: Position, seen: u64) -> bool {
        let since = log.iter().filter(|event| event.position > computed_at && event.position.0 <= seen);
        since.into_iter().any(|event| depends_on.iter().any(|filter| filter.matches(event)))
    }
}
