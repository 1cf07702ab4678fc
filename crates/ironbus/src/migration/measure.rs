//! Figures over the last stretch of time, in bounded memory and without a clock of their own.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How long something took: the median and the 99th percentile, in seconds where they are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// Half of what was measured took no longer.
    #[serde(with = "seconds")]
    pub p50: Duration,
    /// 99 of 100 took no longer.
    #[serde(with = "seconds")]
    pub p99: Duration,
}

/// The last latencies. When full the oldest leaves, so that percentiles are those of the last
/// [`Latencies::KEPT`].
#[derive(Debug, Default)]
pub(super) struct Latencies(VecDeque<(Instant, Duration)>);

impl Latencies {
    const KEPT: usize = 4096;

    pub(super) fn push(&mut self, latency: Duration, at: Instant) {
        if self.0.len() == Self::KEPT {
            self.0.pop_front();
        }
        self.0.push_back((at, latency));
    }

    /// The percentiles of those measured since a moment; `None` if there are none.
    pub(super) fn since(&self, since: Instant) -> Option<Latency> {
        let mut sorted: Vec<_> =
            self.0.iter().filter(|(at, _)| *at >= since).map(|(_, latency)| *latency).collect();
        sorted.sort_unstable();
        let rank = |hundredths: usize| (sorted.len() * hundredths).div_ceil(100).saturating_sub(1);
        Some(Latency { p50: *sorted.get(rank(50))?, p99: *sorted.get(rank(99))? })
    }
}

/// Counts in slices of time, the newest last. Who owns them says which leave.
#[derive(Debug)]
pub(super) struct Slices<C> {
    width: Duration,
    slices: VecDeque<(Instant, C)>,
}

impl<C: Default> Slices<C> {
    /// How many slices a window is made of: what is said of one is true to within a thirtieth of it.
    pub(super) const PER_WINDOW: u32 = 30;

    pub(super) fn of_window(window: Duration) -> Self {
        Self { width: window / Self::PER_WINDOW, slices: VecDeque::new() }
    }

    /// The counts of the moment's slice. A moment before the last slice belongs to the last one.
    pub(super) fn at(&mut self, at: Instant) -> &mut C {
        let last = self.slices.back();
        if last.is_none_or(|(begin, _)| at.saturating_duration_since(*begin) >= self.width) {
            self.slices.push_back((at, C::default()));
        }
        &mut self.slices.back_mut().expect("pushed above where there was none").1
    }

    /// Takes the oldest slice away if it ended before a moment and the owner agrees.
    pub(super) fn leave(&mut self, before: Instant, agreed: impl FnOnce(&C) -> bool) -> Option<C> {
        let (begin, counts) = self.slices.front()?;
        if *begin + self.width > before || !agreed(counts) {
            return None;
        }
        self.slices.pop_front().map(|(_, counts)| counts)
    }

    /// When the oldest slice began.
    pub(super) fn begin(&self) -> Option<Instant> {
        self.slices.front().map(|(begin, _)| *begin)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &C> {
        self.slices.iter().map(|(_, counts)| counts)
    }

    /// The counts of the slices that began between two moments, the second not included.
    pub(super) fn between(&self, from: Instant, to: Instant) -> impl Iterator<Item = &C> {
        let begun = move |begin: &Instant| (from..to).contains(begin);
        self.slices.iter().filter(move |(begin, _)| begun(begin)).map(|(_, counts)| counts)
    }
}

/// Durations are written as seconds.
pub(super) mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::migration) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_secs_f64())
    }

    pub(in crate::migration) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_last_latencies_since_a_moment() {
        let (mut latencies, begin) = (Latencies::default(), Instant::now());
        assert_eq!(latencies.since(begin), None);
        let at = |n: u64| begin + Duration::from_secs(n);
        for n in 1..=100 {
            latencies.push(Duration::from_millis(n), at(n));
        }
        let percentiles =
            |p50, p99| Latency { p50: Duration::from_millis(p50), p99: Duration::from_millis(p99) };
        assert_eq!(latencies.since(begin), Some(percentiles(50, 99)));
        assert_eq!(latencies.since(at(91)), Some(percentiles(95, 100)));
        assert_eq!(latencies.since(at(100)), Some(percentiles(100, 100)));
        assert_eq!(latencies.since(at(101)), None);
        (0..Latencies::KEPT).for_each(|_| latencies.push(Duration::from_millis(7), at(101)));
        assert_eq!(latencies.since(begin), Some(percentiles(7, 7)), "older ones have left");
    }
}
