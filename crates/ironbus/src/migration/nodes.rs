//! The edge nodes: what each says of itself, and which of them are there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::measure::{Latencies, Latency, Slices, seconds};

/// What an edge node says of itself, about once a second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its name.
    pub node: String,
    /// How far back its counts reach: over its window, further in a quiet log, or since it joined.
    #[serde(rename = "covered_seconds", with = "seconds")]
    pub covered: Duration,
    /// How many positions Zenoh brought it in that time.
    pub by_zenoh: u64,
    /// How many it had to read from the log in that time, because Zenoh hadn't brought them.
    pub from_log: u64,
    /// How long events took to it.
    #[serde(rename = "latency_seconds")]
    pub latency: Option<Latency>,
    /// How many streams are open at it now.
    pub sse_clients: u64,
}

/// Counts on an edge node what its [`NodeReport`] says, over the same window as the store node compares: the
/// shortest stretch up to now that is as long as asked for and holds as many events as asked for.
///
/// In bounded memory: counts in slices of the window (at most 31, and one for each event that is asked for),
/// and the last 4,096 latencies.
#[derive(Debug)]
pub struct NodeMeter {
    window: Duration,
    min_events: u64,
    joined: Instant,
    slices: Slices<Heard>,
    /// How many positions the slices hold.
    counted: u64,
    latencies: Latencies,
}

#[derive(Debug, Default)]
struct Heard {
    by_zenoh: u64,
    from_log: u64,
}

impl Heard {
    fn count(&self) -> u64 {
        self.by_zenoh + self.from_log
    }
}

impl NodeMeter {
    /// A meter of a node that joined at a moment. The window should be the store node's
    /// ([`super::ParityOptions::window`] and [`super::ParityOptions::min_events`]).
    #[must_use]
    pub fn new(window: Duration, min_events: u64, joined: Instant) -> Self {
        let (slices, latencies) = (Slices::of_window(window), Latencies::default());
        Self { window, min_events, joined, slices, counted: 0, latencies }
    }

    /// Zenoh has brought a position, so long after it was recorded.
    pub fn heard(&mut self, latency: Duration, at: Instant) {
        self.slices.at(at).by_zenoh += 1;
        self.counted += 1;
        self.latencies.push(latency, at);
    }

    /// So many positions had to be read from the log, because Zenoh hadn't brought them. What a node reads
    /// to catch up when it joins isn't meant.
    pub fn read_from_log(&mut self, positions: u64, at: Instant) {
        self.slices.at(at).from_log += positions;
        self.counted += positions;
    }

    /// What the node says of itself now.
    pub fn report(&mut self, node: impl Into<String>, sse_clients: u64, at: Instant) -> NodeReport {
        let since = at.checked_sub(self.window).map_or(self.joined, |begin| begin.max(self.joined));
        let (counted, enough) = (&mut self.counted, self.min_events);
        while let Some(left) = self.slices.leave(since, |left| *counted - left.count() >= enough) {
            *counted -= left.count();
        }
        let since = self.slices.begin().map_or(since, |begin| begin.clamp(self.joined, since));
        NodeReport {
            node: node.into(),
            covered: at.saturating_duration_since(since),
            by_zenoh: self.slices.iter().map(|heard| heard.by_zenoh).sum(),
            from_log: self.slices.iter().map(|heard| heard.from_log).sum(),
            latency: self.latencies.since(since),
            sse_clients,
        }
    }
}

/// The edge nodes that were heard of lately.
#[derive(Debug)]
pub struct Nodes {
    silence: Duration,
    reports: BTreeMap<String, (Instant, NodeReport)>,
}

impl Nodes {
    /// So many nodes are remembered. When a further one comes, the one that was silent for the longest is
    /// forgotten.
    pub const MOST: usize = 1024;

    /// No nodes yet. One that says nothing for as long as `silence` isn't there any more.
    #[must_use]
    pub fn new(silence: Duration) -> Self {
        Self { silence, reports: BTreeMap::new() }
    }

    /// Takes a node's report.
    pub fn report(&mut self, report: NodeReport, at: Instant) {
        self.reports.retain(|_, (said, _)| at.saturating_duration_since(*said) < self.silence);
        if self.reports.len() >= Self::MOST && !self.reports.contains_key(&report.node) {
            let longest = self.reports.iter().min_by_key(|(_, (said, _))| *said);
            if let Some(node) = longest.map(|(node, _)| node.clone()) {
                self.reports.remove(&node);
            }
        }
        self.reports.insert(report.node.clone(), (at, report));
    }

    /// A node has said that it goes.
    pub fn left(&mut self, node: &str) {
        self.reports.remove(node);
    }

    /// The last report of every node that is there, by name.
    pub fn present(&self, at: Instant) -> impl Iterator<Item = &NodeReport> {
        self.told(at).map(|(_, report)| report)
    }

    /// As [`Self::present`], each with the moment when it was told.
    pub(super) fn told(&self, at: Instant) -> impl Iterator<Item = (Instant, &NodeReport)> {
        let there = move |said: &Instant| at.saturating_duration_since(*said) < self.silence;
        self.reports.values().filter(move |(said, _)| there(said)).map(|(said, report)| (*said, report))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(n: f64) -> Duration {
        Duration::from_secs_f64(n)
    }

    #[test]
    fn a_meter_counts_over_its_window_or_since_the_node_joined() {
        let joined = Instant::now();
        let mut meter = NodeMeter::new(second(30.0), 0, joined);
        meter.read_from_log(5, joined + second(1.0));
        (2..12).for_each(|n| meter.heard(second(0.001), joined + second(f64::from(n))));
        let report = meter.report("a", 3, joined + second(12.0));
        assert_eq!((report.covered, report.by_zenoh, report.from_log), (second(12.0), 10, 5));
        assert_eq!(report.sse_clients, 3);
        let report = meter.report("a", 0, joined + second(32.5));
        assert_eq!((report.covered, report.from_log), (second(30.5), 0), "what was read has left the window");
        assert_eq!(report.by_zenoh, 10);
        let report = meter.report("a", 0, joined + second(60.0));
        assert_eq!((report.by_zenoh, report.latency), (0, None));
    }

    #[test]
    fn in_a_quiet_log_a_meter_reaches_back_to_as_many_events_as_are_asked_for() {
        let joined = Instant::now();
        let mut meter = NodeMeter::new(second(30.0), 5, joined);
        meter.read_from_log(3, joined + second(1.0));
        (2..12).for_each(|n| meter.heard(second(0.001), joined + second(f64::from(n))));
        let report = meter.report("a", 0, joined + second(90.0));
        assert_eq!((report.by_zenoh, report.from_log), (5, 0), "the last five are enough");
        assert_eq!(report.covered, second(83.0));
        meter.heard(second(0.001), joined + second(91.0));
        let report = meter.report("a", 0, joined + second(92.0));
        assert_eq!((report.by_zenoh, report.covered), (5, second(84.0)));
    }

    #[test]
    fn a_node_that_is_silent_or_said_good_bye_is_not_there_and_too_many_are_not_remembered() {
        let begin = Instant::now();
        let mut nodes = Nodes::new(second(10.0));
        let mut say = |node: &str, at| {
            let report = NodeMeter::new(second(30.0), 0, begin).report(node, 0, at);
            nodes.report(report, at);
        };
        say("b", begin);
        say("a", begin + second(5.0));
        say("c", begin + second(5.0));
        nodes.left("c");
        let there =
            |nodes: &Nodes, at| nodes.present(at).map(|report| report.node.clone()).collect::<Vec<_>>();
        assert_eq!(there(&nodes, begin + second(9.0)), ["a", "b"]);
        assert_eq!(there(&nodes, begin + second(10.0)), ["a"]);
        for n in 0..=Nodes::MOST {
            let report =
                NodeMeter::new(second(30.0), 0, begin).report(n.to_string(), 0, begin + second(11.0));
            nodes.report(report, begin + second(11.0));
        }
        let there = there(&nodes, begin + second(11.0));
        assert_eq!((there.len(), there.contains(&"a".into())), (Nodes::MOST, false));
    }
}
