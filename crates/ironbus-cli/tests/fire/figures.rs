//! The figures of a run: how much there was, and how long the longest pauses were.

use std::time::{Duration, Instant};

use crate::history::History;
use crate::places;
use crate::raw::missed;
use crate::readers::Got;
use crate::schedule::{Fire, Switch};

/// How long after a switch a pause counts as caused by it.
const AFTER: Duration = Duration::from_millis(500);

pub(crate) fn print(history: &History, fire: &Fire, wrote: Duration, waited: Duration) {
    let (log, written) = (&history.log, &history.written);
    let delivered: usize = history.subscriptions.iter().map(|one| one.got().events.len()).sum();
    let again = |here: bool| -> u64 {
        let ones = history.subscriptions.iter().filter(|one| (one.place == crate::HERE) == here);
        ones.map(|one| one.got().again).sum()
    };
    println!(
        "{} events in {wrote:.1?} ({:.0}/s) by {} appends, {} sent again; the slowest acknowledged after {:.1?}",
        log.len(),
        log.len() as f64 / wrote.as_secs_f64(),
        written.batches.len(),
        written.retried,
        written.slowest,
    );
    println!(
        "{} subscriptions got {delivered} events; SSE clients connected again {} times, streams tried again {} \
         times; all had everything {waited:.1?} after the last append",
        history.subscriptions.len(),
        again(false),
        again(true),
    );
    let heard: usize = history.heard.iter().flat_map(|one| one.heard()).map(|heard| heard.len()).sum();
    let subscribed: usize = history.heard.iter().map(|one| one.heard().len()).sum();
    let missed: usize = history.heard.iter().map(|one| missed(one, log)).sum();
    println!(
        "{} raw listeners heard {heard} events in {subscribed} subscriptions and missed {missed}",
        history.heard.len()
    );
    for kill in &fire.kills {
        let (down, ready) = (kill.listening - kill.at, kill.ready - kill.at);
        println!("{} killed: listening again after {down:.1?}, all nodes ready after {ready:.1?}", kill.node);
    }
    println!("longest pause of an events/** reader at each switch, and in as long a time before it, in ms:");
    let mut longest = None;
    for switch in &fire.switches {
        let pauses = Pauses::at(history, switch);
        let length = switch.until + AFTER - switch.from;
        let burns = fire.burns(switch.from - length, switch.until + AFTER);
        println!("  to {:<9} {pauses}{}", switch.to, if burns { "  (while a node came back)" } else { "" });
        if !burns {
            longest = longest.max(Some(pauses.longest().as_millis()));
        }
    }
    match longest {
        Some(longest) => {
            println!("longest pause at a switch where no process was killed: {longest} ms (goal: 100)");
        }
        None => println!("this time no switch was far from every kill"),
    }
}

/// The longest pause of each node's readers at a switch, and before it.
struct Pauses(Vec<(&'static str, Duration, Duration)>);

impl Pauses {
    fn at(history: &History, switch: &Switch) -> Self {
        let (from, until) = (switch.from, switch.until + AFTER);
        let before = from - (until - from);
        let pauses = places().map(|place| {
            let all = history.subscriptions.iter().filter(|one| one.pattern == "events/**");
            let here: Vec<_> = all.filter(|one| one.place == place).collect();
            let longest =
                |from, until| here.iter().map(|one| pause(&one.got(), from, until)).max().unwrap_or_default();
            (place, longest(from, until), longest(before, from))
        });
        Self(pauses.collect())
    }

    fn longest(&self) -> Duration {
        self.0.iter().map(|(_, at, _)| *at).max().unwrap_or_default()
    }
}

impl std::fmt::Display for Pauses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (place, at, before) in &self.0 {
            write!(f, "  {place} {} (before: {})", at.as_millis(), before.as_millis())?;
        }
        Ok(())
    }
}

/// The longest time between two events that came one after the other, of which at least a part lies within
/// a stretch.
fn pause(got: &Got, from: Instant, until: Instant) -> Duration {
    let pairs = got.at.windows(2).map(|pair| (pair[0], pair[1]));
    let touching = pairs.filter(|(earlier, later)| *later > from && *earlier < until);
    touching.map(|(earlier, later)| later - earlier).max().unwrap_or_default()
}
