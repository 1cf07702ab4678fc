//! The rows of a run as one page: a bar chart for every figure, in light and dark, with nothing to fetch or to run.

use std::fmt::Write;

use super::{Better, Machine, Part, Row};

const STYLE: &str = "\
:root{color-scheme:light dark;--back:#fff;--text:#1c2024;--soft:#5d666f;--line:#d9dee3;--ours:#2f6fd0;--other:#9aa5b1;\
--goal:#b3540a;--good:#1b7f4b}
@media (prefers-color-scheme:dark){:root{--back:#14181c;--text:#e6e9ec;--soft:#9aa5b1;--line:#313940;--ours:#6ba4f8;\
--other:#66717c;--goal:#f0a35e;--good:#5ecb93}}
body{margin:2rem auto;max-width:56rem;padding:0 1rem;background:var(--back);color:var(--text);font:16px/1.5 system-ui,sans-serif}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem}dt,.soft{color:var(--soft)}dd{margin:0}
h2{margin-top:2.5rem;border-bottom:1px solid var(--line)}figure{margin:1.5rem 0}figcaption{font-weight:600}
.soft{font-weight:400;font-size:.875rem}.good{color:var(--good)}.missed{color:var(--goal)}
svg{display:block;width:100%;height:auto;font:13px system-ui,sans-serif}text{fill:var(--text)}
.ours{fill:var(--ours)}.other{fill:var(--other)}.goal{stroke:var(--goal);stroke-width:2;stroke-dasharray:4 3}\
.goaltext{fill:var(--goal)}";

/// How wide a chart is, and where its bars begin and end.
const WIDTH: f64 = 800.0;
const FROM: f64 = 170.0;
const TO: f64 = 620.0;

/// A bar: what it is of, its figure, how that is shown, and its class.
struct Bar<'a> {
    name: &'a str,
    figure: f64,
    shown: String,
    class: &'static str,
}

/// The page.
#[must_use]
pub fn page(machine: &Machine, rows: &[Row]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>ironbus bench</title>\n<style>\n{STYLE}\n</style>\n<h1>ironbus bench</h1>\n<dl>\n"
    );
    for (name, value) in machine.pairs() {
        page += &format!("<dt>{name}</dt><dd>{}</dd>\n", escaped(&value));
    }
    page += "</dl>\n<p class=\"soft\">Medians of several turns, ours and what is beside it in turns. A ratio is that \
             of the turns, so that what else the machine does weighs on both alike.</p>\n";
    for part in Part::ALL {
        let mut of_part = rows.iter().filter(|row| row.part == part.name()).peekable();
        if of_part.peek().is_some() {
            page += &format!("<h2>{}</h2>\n", part.name());
        }
        of_part.for_each(|row| page += &figure(row));
    }
    page + "</html>\n"
}

fn figure(row: &Row) -> String {
    let better = match row.better {
        Better::More => "more is better",
        Better::Less => "less is better",
    };
    let mut text = format!(
        "<figure>\n<figcaption>{} <span class=\"soft\">{better}; durability {}",
        escaped(&row.what),
        row.durability.name()
    );
    if let Some(bytes) = row.payload_bytes {
        text += &format!(", payload {bytes} bytes");
    }
    if let Some(beside) = &row.beside {
        let what = escaped(&beside.what);
        text += &format!("; {} of {what}", beside.shown_ratio());
    }
    if let Some(goal) = row.goal {
        let (class, word) = if goal.beaten { ("good", "beaten") } else { ("missed", "not beaten") };
        text += &format!("; <span class=\"{class}\">goal {word}</span>");
    }
    text + "</span></figcaption>\n" + &chart(row) + "</figure>\n"
}

/// A bar for our figure, one for what is beside it, and a line for the goal.
fn chart(row: &Row) -> String {
    let mut bars =
        vec![Bar { name: "ironbus", figure: row.figure, shown: row.shown(row.figure), class: "ours" }];
    if let Some(beside) = &row.beside {
        let shown = row.shown(beside.figure);
        bars.push(Bar { name: "beside it", figure: beside.figure, shown, class: "other" });
    }
    let goal = row.goal.map(|goal| goal.figure);
    let most = bars.iter().map(|bar| bar.figure).chain(goal).fold(0.0, f64::max);
    let height = 30 * bars.len() + if goal.is_some() { 22 } else { 4 };
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">\n",
        escaped(&row.what)
    );
    for (number, bar) in bars.iter().enumerate() {
        let (top, long) = (30 * number + 4, length(bar.figure, most));
        let (line, after, class) = (top + 16, FROM + long + 8.0, bar.class);
        // Writing to a string doesn't fail.
        let _ = writeln!(
            svg,
            "<text x=\"0\" y=\"{line}\">{}</text><rect class=\"{class}\" x=\"{FROM}\" y=\"{top}\" width=\"{long:.1}\" \
             height=\"22\" rx=\"3\"/><text x=\"{after:.1}\" y=\"{line}\">{}</text>",
            bar.name,
            escaped(&bar.shown)
        );
    }
    if let Some(goal) = goal {
        let (at, end) = (FROM + length(goal, most), 30 * bars.len());
        let _ = writeln!(
            svg,
            "<line class=\"goal\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"0\" y2=\"{end}\"/>\
             <text class=\"goaltext\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">goal {}</text>",
            end + 16,
            escaped(&row.shown(goal))
        );
    }
    svg + "</svg>\n"
}

/// How long the bar of a figure is where this one's goes all the way; never so short that it isn't seen.
fn length(figure: f64, most: f64) -> f64 {
    let share = if most > 0.0 && figure.is_finite() { figure / most } else { 0.0 };
    (share * (TO - FROM)).max(2.0)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_figures() {
        assert_eq!(length(5.0, 5.0), TO - FROM);
        assert_eq!(length(2.5, 5.0), (TO - FROM) / 2.0);
        assert_eq!([length(0.0, 5.0), length(f64::NAN, 5.0), length(0.0, 0.0)], [2.0; 3]);
    }

    #[test]
    fn a_page_shows_the_machine_and_every_row_and_fetches_nothing() {
        let row = Row::new("store", "appends <&> \"more\"", &[1234.0], "events/s");
        let row = row.beside("raw", &[1234.0], &[617.0]).goal(1000.0);
        let page = page(&Machine::of(std::path::Path::new("/")), &[row]);
        for part in [
            "processors",
            "appends &lt;&amp;&gt; &quot;more&quot;",
            "2.00 ×",
            "goal beaten",
            ">1,234 events/s<",
        ] {
            assert!(page.contains(part), "{part} isn't in {page}");
        }
        assert_eq!(page.matches("<rect").count(), 2);
        for part in ["http://", "https://", "<script", "url(", "src="] {
            assert!(!page.contains(part), "{part}");
        }
    }
}
