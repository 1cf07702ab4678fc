//! The curves as a picture: one small chart for each, both axes logarithmic, so that an exponent is a slope.

use std::fmt::Write;

use super::{Curve, time};

const WIDTH: f64 = 380.0;
const HEIGHT: f64 = 230.0;
/// What the plot leaves free: left, top, right, below.
const FREE: [f64; 4] = [62.0, 44.0, 22.0, 34.0];

pub(super) fn draw(curves: &[Curve]) -> String {
    let rows = curves.len().div_ceil(2) as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0} {:.0}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"11\">\n<title>How costs grow</title>\n<style>text {{ fill: #1f2933 }} .line {{ fill: none; \
         stroke: #2563eb; stroke-width: 2 }} .dot {{ fill: #2563eb }} .grid {{ stroke: #8884; stroke-width: 1 }} \
         .paper {{ fill: #fff }} @media (prefers-color-scheme: dark) {{ text {{ fill: #e5e7eb }} .paper {{ fill: \
         #111827 }} .line {{ stroke: #60a5fa }} .dot {{ fill: #60a5fa }} }}</style>\n<rect class=\"paper\" \
         width=\"100%\" height=\"100%\"/>\n",
        2.0 * WIDTH,
        rows * HEIGHT
    );
    for (number, curve) in curves.iter().enumerate() {
        let (column, row) = (number % 2, number / 2);
        let place = (column as f64 * WIDTH, row as f64 * HEIGHT);
        writeln!(out, "<g transform=\"translate({:.0} {:.0})\">", place.0, place.1).expect("memory takes it");
        chart(&mut out, curve);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

/// A power of ten in few letters.
fn short(size: f64) -> String {
    match size {
        ..1e3 => format!("{size:.0}"),
        ..1e6 => format!("{:.0} K", size / 1e3),
        _ => format!("{:.0} M", size / 1e6),
    }
}

fn chart(out: &mut String, curve: &Curve) {
    let [left, top, right, below] = FREE;
    let (wide, high) = (WIDTH - left - right, HEIGHT - top - below);
    let decades = |values: &mut dyn Iterator<Item = f64>| {
        let (mut least, mut most) = (f64::MAX, f64::MIN);
        values.for_each(|value| (least, most) = (least.min(value.log10()), most.max(value.log10())));
        (least.floor(), most.ceil().max(least.floor() + 1.0))
    };
    let across = decades(&mut curve.points.iter().map(|(size, _)| *size));
    // At least three decades, so that what is flat looks flat.
    let (low, high_decade) = decades(&mut curve.points.iter().map(|(_, cost)| *cost));
    let up = (low, high_decade.max(low + 3.0));
    let x = |size: f64| left + wide * (size.log10() - across.0) / (across.1 - across.0);
    let y = |cost: f64| top + high * (1.0 - (cost.log10() - up.0) / (up.1 - up.0));
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("<text x=\"{left:.0}\" y=\"18\" font-weight=\"600\">{}</text>", curve.what));
    line(format!("<text x=\"{left:.0}\" y=\"33\">by {}; exponent {:.2}</text>", curve.of, curve.exponent()));
    for decade in up.0 as i32..=up.1 as i32 {
        let (cost, at) = (10_f64.powi(decade), y(10_f64.powi(decade)));
        line(format!("<path class=\"grid\" d=\"M{left:.0} {at:.1}h{wide:.0}\"/>"));
        line(format!(
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 6.0,
            at + 4.0,
            time(cost)
        ));
    }
    for decade in across.0 as i32..=across.1 as i32 {
        let size = 10_f64.powi(decade);
        line(format!(
            "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
            x(size),
            HEIGHT - below + 18.0,
            short(size)
        ));
    }
    let points: Vec<String> =
        curve.points.iter().map(|(size, cost)| format!("{:.1} {:.1}", x(*size), y(*cost))).collect();
    line(format!("<path class=\"line\" d=\"M{}\"/>", points.join("L")));
    for (size, cost) in &curve.points {
        line(format!("<circle class=\"dot\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>", x(*size), y(*cost)));
    }
}
