//! Figures, and how people read them.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// The median of several turns; not a number where there are none.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A time in microseconds, as people read it.
#[must_use]
pub fn micros(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.2} µs"),
        10.0..1000.0 => format!("{value:.0} µs"),
        _ => format!("{:.1} ms", value / 1000.0),
    }
}

/// A whole number with its thousands apart.
#[must_use]
pub fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let parts: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    parts.join(",")
}

/// So many in this time come to how many in a second.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub fn per_second(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// The nanoseconds since then.
#[must_use]
pub fn nanos(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// For times in nanoseconds, to three digits.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits")
}

/// What one turn of one side came to: how many in a second, and times in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// How many in a second.
    pub rate: f64,
    /// The time that half of them took at the most.
    pub p50: f64,
    /// The time that all but one in a hundred took at the most.
    pub p99: f64,
}

impl Turn {
    /// So many in this time, whose own times in nanoseconds were these.
    #[must_use]
    pub fn of(count: u64, took: Duration, latencies: &Histogram<u64>) -> Self {
        Self::at(per_second(count, took), latencies)
    }

    /// The same where the rate was measured apart from the times.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub fn at(rate: f64, latencies: &Histogram<u64>) -> Self {
        let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
        Self { rate, p50: at(0.5), p99: at(0.99) }
    }
}

/// The resident memory of this process in bytes; `None` where the system doesn't say it as Linux does.
#[must_use]
pub fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_a_turn_that_there_was() {
        assert_eq!(median(vec![9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median(vec![1.0]), 1.0);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn figures_read_as_people_write_them() {
        assert_eq!([0.42, 42.4, 1500.0].map(micros), ["0.42 µs", "42 µs", "1.5 ms"]);
        assert_eq!([0.0, 999.4, 1000.0, 1_234_567.0].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
