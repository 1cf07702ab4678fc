//! What results look like: JSON lines for programs, tables for people.
//!
//! Invariant: no control character of stored data reaches a terminal, which would obey it.

use std::io::{BufWriter, IsTerminal, StdoutLock, Write};
use std::os::fd::AsFd;

use comfy_table::{
    Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ironbus::StoredEvent;
use tokio::io::Interest;
use tokio::net::unix::pipe;

use crate::args;

/// How results are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// One JSON document a line.
    Lines,
    /// For people, on a terminal.
    Human,
}

impl Form {
    /// JSON where it was asked for or standard output is piped.
    pub(crate) fn choose(args: args::Form) -> Self {
        if args.json || !std::io::stdout().is_terminal() { Self::Lines } else { Self::Human }
    }
}

/// Standard output, written in large pieces.
pub(crate) type Out = BufWriter<StdoutLock<'static>>;

/// Standard output.
pub(crate) fn out() -> Out {
    BufWriter::with_capacity(64 * 1024, std::io::stdout().lock())
}

/// Who reads standard output, for a command that may have nothing to write for long.
pub(crate) struct Reader(Option<pipe::Sender>);

impl Reader {
    pub(crate) fn watch() -> Self {
        // Only watched, never written: so it may stay a blocking pipe. What can't be watched, such as a
        // file, has no reader that could go away.
        let pipe = std::io::stdout().as_fd().try_clone_to_owned();
        Self(pipe.and_then(pipe::Sender::from_owned_fd_unchecked).ok())
    }

    /// Returns once the other end of the pipe is closed, with the error that writing would give.
    pub(crate) async fn gone(&self) -> std::io::Error {
        let Some(pipe) = &self.0 else { return std::future::pending().await };
        match pipe.ready(Interest::ERROR).await {
            Ok(_) => std::io::ErrorKind::BrokenPipe.into(),
            Err(error) => error,
        }
    }
}

/// Writes an event as one line of JSON.
pub(crate) fn write_line(out: &mut impl Write, event: &StoredEvent) -> std::io::Result<()> {
    out.write_all(&event.json_line())?;
    out.write_all(b"\n")
}

/// A number with its noun: `1 event`, `65,533 events`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// A number with its thousands apart: `65,533`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A size in bytes as people say it: `12.3 MB`.
pub(crate) fn bytes(number: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    if number < 1000 {
        return format!("{number} B");
    }
    let mut size = number as f64 / 1000.0;
    let mut unit = 0;
    while size >= 999.95 && unit + 1 < units.len() {
        size /= 1000.0;
        unit += 1;
    }
    format!("{size:.1} {}", units[unit])
}

/// Text from elsewhere, made safe for a terminal.
pub(crate) fn shown(text: &str) -> String {
    // Beside control characters those that turn the direction of writing, which can hide what stands there.
    let harmful = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if harmful(c) { '\u{fffd}' } else { c }).collect()
}

/// The columns of a table of events.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Columns {
    /// Events of many aggregates.
    Log,
    /// Events of one aggregate.
    Aggregate,
}

/// Events as a table, one line each, as wide as the terminal.
pub(crate) struct EventTable {
    table: Table,
    columns: Columns,
    /// The longest name of an aggregate so far, in characters.
    longest: usize,
}

/// So much of an aggregate's name is shown also where payloads have little room for it.
const SHOWN_NAME: usize = 22;

impl EventTable {
    pub(crate) fn new(columns: Columns) -> Self {
        let mut table = plain_table();
        let names: &[&str] = match columns {
            Columns::Log => &["POSITION", "RECORDED", "AGGREGATE", "SEQ", "TYPE", "PAYLOAD"],
            Columns::Aggregate => &["SEQ", "POSITION", "RECORDED", "TYPE", "PAYLOAD"],
        };
        table.set_header(names.iter().map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
        // Half a number or half a time says nothing: names and payloads give way instead.
        for (name, column) in names.iter().zip(table.column_iter_mut()) {
            if ["POSITION", "RECORDED", "SEQ"].contains(name) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        Self { table, columns, longest: 0 }
    }

    pub(crate) fn push(&mut self, event: &StoredEvent) {
        let number = |number: u64| Cell::new(number).set_alignment(CellAlignment::Right);
        let (position, sequence) = (number(event.position.0), number(event.sequence.0));
        let recorded = Cell::new(event.recorded_at.strftime("%Y-%m-%d %H:%M:%S"));
        let kind = Cell::new(cut(&event.event_type, 28));
        // More than a terminal is wide is never seen, and a megabyte of it takes long to measure.
        let payload = Cell::new(cut(event.payload.as_str(), 400));
        let cells = match self.columns {
            Columns::Log => {
                let name = cut(&name(event), 32);
                self.longest = self.longest.max(name.chars().count());
                vec![position, recorded, Cell::new(name), sequence, kind, payload]
            }
            Columns::Aggregate => vec![sequence, position, recorded, kind, payload],
        };
        let mut row = comfy_table::Row::from(cells);
        row.max_height(1);
        self.table.add_row(row);
        if let (Columns::Log, Some(column)) = (self.columns, self.table.column_mut(2)) {
            let least = self.longest.min(SHOWN_NAME);
            // With the space on both sides of it.
            let least = u16::try_from(least + 2).expect("a short name");
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(least)));
        }
    }
}

impl std::fmt::Display for EventTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in self.table.lines() {
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Names and values, one pair a line.
pub(crate) fn pairs(rows: &[(&str, String)]) -> String {
    let mut table = plain_table();
    for (name, value) in rows {
        table.add_row([Cell::new(name).add_attribute(Attribute::Bold), Cell::new(shown(value))]);
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// A table with a bold head; what doesn't fit into a line is wrapped.
pub(crate) fn table<const N: usize>(
    names: &[&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = plain_table();
    table.set_header(names.iter().map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
    for row in rows {
        table.add_row(row.iter().map(|cell| Cell::new(shown(cell))));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_truncation_indicator("…");
    // A terminal that says 0 doesn't know.
    if table.width() == Some(0) {
        table.set_width(WIDTH);
    }
    table
}

/// How many columns a terminal is taken to have that doesn't say it.
const WIDTH: u16 = 80;

/// One event on one line, for a table without end.
pub(crate) fn event_line(event: &StoredEvent, width: usize) -> String {
    let line = format!(
        "{:>8}  {}  {:<28}  {:<20}  {}",
        event.position.0,
        event.recorded_at.strftime("%H:%M:%S"),
        cut(&format!("{}/{}", name(event), event.sequence), 28),
        cut(&event.event_type, 20),
        cut(event.payload.as_str(), 400),
    );
    cut(&line, width)
}

/// The width of the terminal, in columns.
pub(crate) fn width() -> usize {
    plain_table().width().unwrap_or(WIDTH).into()
}

fn name(event: &StoredEvent) -> String {
    format!("{}/{}", event.aggregate.aggregate_type(), event.aggregate.aggregate_id())
}

/// The text made safe and cut to a number of characters.
pub(crate) fn cut(text: &str, most: usize) -> String {
    let mut characters = text.chars();
    let start: String = characters.by_ref().take(most).collect();
    if characters.next().is_none() {
        return shown(&start);
    }
    let start: String = start.chars().take(most.saturating_sub(1)).collect();
    format!("{}…", shown(&start))
}

/// Shows how many of how many events are done, on a terminal.
pub(crate) fn events_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let visible = std::io::stderr().is_terminal();
    bar.set_draw_target(if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() });
    let style =
        ProgressStyle::with_template("{bar:24} {percent:>3}%  {human_pos} events  {per_sec}  {eta} left");
    bar.set_style(style.expect("the template is well-formed"));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(
            [0, 999, 1000, 65_533, 1_000_000].map(grouped),
            ["0", "999", "1,000", "65,533", "1,000,000"]
        );
        assert_eq!((count(1, "event"), count(2, "event")), ("1 event".into(), "2 events".into()));
        assert_eq!(
            [999, 1000, 999_949, 999_950, 12_300_000].map(bytes),
            ["999 B", "1.0 kB", "999.9 kB", "1.0 MB", "12.3 MB"]
        );
    }

    #[test]
    fn what_a_terminal_would_obey_is_not_shown() {
        assert_eq!(shown("a\u{1b}[2Jb\u{9b}c\u{202e}d é"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d é");
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("abcd", 4), "abcd");
    }
}
