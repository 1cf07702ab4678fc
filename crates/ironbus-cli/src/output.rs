//! What results look like: JSON lines for programs, tables for people.
//!
//! Invariant: no control character of stored data reaches a terminal, which would obey it.

use std::io::{BufWriter, IsTerminal, StdoutLock, Write};

use comfy_table::{Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};
use ironbus::StoredEvent;

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
}

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
        Self { table, columns }
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
                let aggregate = Cell::new(cut(&name(event), 32));
                vec![position, recorded, aggregate, sequence, kind, payload]
            }
            Columns::Aggregate => vec![sequence, position, recorded, kind, payload],
        };
        let mut row = comfy_table::Row::from(cells);
        row.max_height(1);
        self.table.add_row(row);
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

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_truncation_indicator("…");
    table
}

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

/// The width of the terminal, or 80.
pub(crate) fn width() -> usize {
    plain_table().width().map_or(80, usize::from)
}

fn name(event: &StoredEvent) -> String {
    format!("{}/{}", event.aggregate.aggregate_type(), event.aggregate.aggregate_id())
}

/// The text made safe and cut to a number of characters.
fn cut(text: &str, most: usize) -> String {
    let mut characters = text.chars();
    let start: String = characters.by_ref().take(most).collect();
    if characters.next().is_none() {
        return shown(&start);
    }
    let start: String = start.chars().take(most.saturating_sub(1)).collect();
    format!("{}…", shown(&start))
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
