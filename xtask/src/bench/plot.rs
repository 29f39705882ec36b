//! Every run as a dot: one strip for each row that is measured in milliseconds, on a logarithmic scale, with its bars.

use std::fmt::Write;

use super::report::{Report, median};
use super::rows;

const LEFT: f64 = 330.0;
const WIDTH: f64 = 620.0;
const STRIP: f64 = 34.0;
const TOP: f64 = 30.0;
/// The scale, in milliseconds.
const LEAST: f64 = 1.0;
const MOST: f64 = 10_000.0;

fn x(ms: f64) -> f64 {
    LEFT + WIDTH * (ms.clamp(LEAST, MOST) / LEAST).log10() / (MOST / LEAST).log10()
}

/// The picture.
pub fn strips(report: &Report) -> String {
    let strips: Vec<_> = rows::all()
        .filter_map(|row| Some((row, report.rows.get(row.name)?)))
        .flat_map(|(row, result)| row.metrics.iter().map(move |metric| (row, metric, result.sorted(metric.fact))))
        .filter(|(_, metric, runs)| metric.fact.ends_with("_ms") && !runs.is_empty())
        .collect();
    #[allow(clippy::cast_precision_loss, reason = "a few strips")]
    let height = TOP + STRIP * strips.len() as f64 + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{:.0}\" height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        LEFT + WIDTH + 20.0
    );
    for ms in [1.0, 10.0, 100.0, 1_000.0, 10_000.0] {
        let _ = writeln!(
            svg,
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{TOP}\" y2=\"{height:.0}\" stroke=\"#ddd\"/>\
             <text x=\"{0:.1}\" y=\"18\" text-anchor=\"middle\" fill=\"#555\">{ms:.0} ms</text>",
            x(ms)
        );
    }
    let mut y = TOP + STRIP / 2.0;
    for (row, metric, runs) in &strips {
        let _ = writeln!(
            svg,
            "<text x=\"8\" y=\"{:.1}\">{} {}</text>",
            y + 4.0,
            row.name,
            metric.fact.trim_end_matches("_ms")
        );
        for (bar, colour) in [(metric.median, "#2a7"), (metric.max, "#c33")] {
            if let Some(bar) = bar {
                let (low, high) = (y - STRIP * 0.4, y + STRIP * 0.4);
                let _ = writeln!(
                    svg,
                    "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{low:.1}\" y2=\"{high:.1}\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                    x(bar)
                );
            }
        }
        for (index, ms) in runs.iter().enumerate() {
            #[allow(clippy::cast_precision_loss, reason = "seven places")]
            let spread = (index % 7) as f64 * 2.5 - 7.5;
            let _ = writeln!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\" fill=\"#357\" fill-opacity=\"0.6\"/>",
                x(*ms),
                y + spread
            );
        }
        if let Some(middle) = median(runs) {
            let _ =
                writeln!(svg, "<path d=\"M {0:.1} {1:.1} l -4 7 l 8 0 z\" fill=\"#000\"/>", x(middle), y + STRIP * 0.2);
        }
        y += STRIP;
    }
    svg.push_str("</svg>\n");
    svg
}
