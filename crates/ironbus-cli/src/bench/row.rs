//! What a run tells: one figure a row, with all that it takes to judge it.

use serde::Serialize;

use super::figures::{grouped, median, micros};

/// Microseconds.
pub(super) const MICROS: &str = "µs";

/// A figure, what it is compared with, and what it has to beat.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The part of the run that it belongs to.
    pub part: &'static str,
    /// What was measured.
    pub what: String,
    /// The median of the turns.
    pub figure: f64,
    /// What it counts.
    pub unit: &'static str,
    /// Whether more of it or less of it is better.
    pub better: Better,
    /// What an event survives at the moment when it counts as done.
    pub durability: Durability,
    /// How long the payload of each event is; nothing where there are no events.
    pub payload_bytes: Option<usize>,
    /// The same done otherwise, in turns with ours.
    pub beside: Option<Beside>,
    /// What the project set out to beat.
    pub goal: Option<Goal>,
}

/// In which direction a figure is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// The more the better.
    More,
    /// The less the better.
    Less,
}

/// What an event survives at the moment when it counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// It is handed on, not stored.
    None,
    /// A power cut: it is synced to the disk before it is acknowledged.
    Full,
}

impl Durability {
    /// As tables show it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Full => "FULL",
        }
    }
}

/// What a figure is compared with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Beside {
    /// What did the same.
    pub what: String,
    /// The median of its turns.
    pub figure: f64,
    /// Our figure divided by its, turn by turn; the median of these.
    pub ratio: f64,
}

/// A figure that ours has to beat.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Goal {
    /// The figure of the project's mission.
    pub figure: f64,
    /// Whether ours is better.
    pub beaten: bool,
}

impl Row {
    /// A row of the median of these turns, which nothing is compared with yet.
    pub(super) fn new(
        part: &'static str,
        what: impl Into<String>,
        turns: &[f64],
        unit: &'static str,
    ) -> Self {
        let better = if matches!(unit, MICROS | "s" | "bytes") { Better::Less } else { Better::More };
        Self {
            part,
            what: what.into(),
            figure: median(turns.to_vec()),
            unit,
            better,
            durability: Durability::None,
            payload_bytes: Some(super::payload().as_str().len()),
            beside: None,
            goal: None,
        }
    }

    /// The same for events that are synced.
    pub(super) fn synced(mut self) -> Self {
        self.durability = Durability::Full;
        self
    }

    /// The same where no event is told.
    pub(super) fn without_events(mut self) -> Self {
        self.payload_bytes = None;
        self
    }

    /// The same, beside what did it otherwise in as many turns.
    pub(super) fn beside(mut self, what: impl Into<String>, ours: &[f64], theirs: &[f64]) -> Self {
        let figure = median(theirs.to_vec());
        self.beside = Some(Beside { what: what.into(), figure, ratio: ratio(ours, theirs) });
        self
    }

    /// The same, with the mission's figure.
    pub(super) fn goal(mut self, figure: f64) -> Self {
        let beaten = match self.better {
            Better::More => self.figure > figure,
            Better::Less => self.figure < figure,
        };
        self.goal = Some(Goal { figure, beaten });
        self
    }

    /// A figure of this row with its unit, as people read it.
    #[must_use]
    pub fn shown(&self, figure: f64) -> String {
        match self.unit {
            MICROS => micros(figure),
            "s" => format!("{figure:.2} s"),
            unit => format!("{} {unit}", grouped(figure)),
        }
    }
}

impl Beside {
    /// The ratio as people read it: `0.95 ×`, `1,234 ×`.
    #[must_use]
    pub fn shown_ratio(&self) -> String {
        if self.ratio < 100.0 {
            format!("{:.2} ×", self.ratio)
        } else {
            format!("{} ×", grouped(self.ratio))
        }
    }
}

/// The median of what ours is of theirs, turn by turn: what weighs on a turn weighs on both alike.
fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    median(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_taken_turn_by_turn() {
        // The second turn was slow for both, and says the same.
        assert_eq!(ratio(&[2.0, 20.0, 2.0], &[4.0, 40.0, 4.0]), 0.5);
        let row = Row::new("part", "what", &[2.0, 20.0, 2.0], MICROS).beside("raw", &[2.0], &[4.0]);
        let beside = row.beside.as_ref().expect("it was said");
        assert_eq!((beside.figure, beside.shown_ratio()), (4.0, "0.50 ×".into()));
        assert_eq!(Beside { ratio: 1234.4, ..beside.clone() }.shown_ratio(), "1,234 ×");
    }

    #[test]
    fn a_goal_is_beaten_by_less_time_and_by_more_events() {
        let beaten = |unit, figure: f64, goal| {
            Row::new("part", "what", &[figure], unit).goal(goal).goal.expect("it was said").beaten
        };
        assert!(beaten(MICROS, 0.9, 1.0) && !beaten(MICROS, 1.1, 1.0));
        assert!(beaten("events/s", 1.1, 1.0) && !beaten("events/s", 0.9, 1.0));
        assert!(!beaten("events/s", f64::NAN, 1.0), "what isn't known beats nothing");
    }

    #[test]
    fn a_figure_is_shown_with_its_unit() {
        let row = |unit| Row::new("part", "what", &[1234.0], unit);
        assert_eq!(row("events/s").shown(1234.0), "1,234 events/s");
        assert_eq!(row(MICROS).shown(1234.0), "1.2 ms");
        assert_eq!(row("s").shown(0.123), "0.12 s");
    }
}
