//! The time line of a run as a picture: throughput of everything and of each range, faults as bars, changes
//! of leaders as marks.

use std::fmt::Write as _;
use std::time::Duration;

use super::fault::Breadth;
use super::report::Outcome;
use super::timeline::SLOT;

const LEFT: f64 = 110.0;
const WIDTH: f64 = 1_500.0;
const TOTAL_HEIGHT: f64 = 120.0;
const RANGE_HEIGHT: f64 = 34.0;
const BARS_HEIGHT: f64 = 30.0;
/// Columns of a row: a pixel each.
const COLUMNS: usize = 1_500;

/// Draws.
pub fn draw(outcome: &Outcome) -> String {
    let ranges = outcome.timeline.ranges.len();
    let height = 40.0 + BARS_HEIGHT + TOTAL_HEIGHT + RANGE_HEIGHT * ranges as f64 + 30.0;
    let length = outcome.plan.length.max(Duration::from_secs(1));
    let x = |at: Duration| LEFT + WIDTH * (at.as_secs_f64() / length.as_secs_f64()).min(1.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{:.0}\" height=\"{height:.0}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        LEFT + WIDTH + 20.0
    );
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"16\" font-size=\"13\">acknowledged operations per 100 ms; seed {}, {} faults; \
         gold: one node, red: a majority, blue: clients and operators</text>",
        outcome.plan.seed,
        outcome.done.len()
    );
    let bottom = height - 30.0;
    for (number, it) in (1..).zip(&outcome.done) {
        let (from, to) = (x(it.from), x(it.mended));
        let colour = match it.fault.kind.breadth() {
            Breadth::One => "#e0a800",
            Breadth::Many => "#d33",
            Breadth::None => "#58a",
        };
        let width = (to - from).max(1.0);
        let _ = writeln!(
            svg,
            "<g><title>{}</title><rect x=\"{from:.1}\" y=\"26\" width=\"{width:.1}\" height=\"{BARS_HEIGHT}\" \
             fill=\"{colour}\"/><rect x=\"{from:.1}\" y=\"56\" width=\"{width:.1}\" height=\"{:.0}\" \
             fill=\"{colour}\" opacity=\"0.12\"/></g>",
            escaped(&it.fault.to_string()),
            bottom - 56.0
        );
        // Two rows, so that neighbours can be told apart: the number stands in the table of the report.
        let row = if number % 2 == 0 { 36 } else { 46 };
        let _ = writeln!(svg, "<text x=\"{from:.1}\" y=\"{row}\" font-size=\"6\">{number}</text>");
    }
    let mut top = 40.0 + BARS_HEIGHT;
    row(&mut svg, "all", &outcome.timeline.total, top, TOTAL_HEIGHT - 8.0);
    top += TOTAL_HEIGHT;
    for range in &outcome.timeline.ranges {
        let name = escaped(&range.name());
        row(&mut svg, &name, &range.counts, top, RANGE_HEIGHT - 8.0);
        let changes = outcome.leaders.iter().filter(|it| it.range == range.range);
        for change in changes {
            let at = x(Duration::from_nanos(change.at.saturating_sub(outcome.begin)));
            let _ = writeln!(
                svg,
                "<path d=\"M{at:.1} {:.1}l-3 5h6z\" fill=\"#070\"><title>range {}: {}</title></path>",
                top + RANGE_HEIGHT - 8.0,
                change.range,
                escaped(if change.leader.is_empty() { "no leader" } else { &change.leader })
            );
        }
        top += RANGE_HEIGHT;
    }
    let step = [1, 5, 10, 30, 60, 300, 600].into_iter().find(|step| length.as_secs() / step <= 20);
    let step = step.unwrap_or(3_600);
    for mark in (0..=length.as_secs()).step_by(usize::try_from(step).expect("an hour at most")) {
        let at = x(Duration::from_secs(mark));
        let _ = writeln!(
            svg,
            "<text x=\"{at:.1}\" y=\"{:.0}\" text-anchor=\"middle\" fill=\"#555\">{mark} s</text>",
            height - 10.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Columns as high as their throughput; those without any are marked, however narrow they are.
fn row(svg: &mut String, name: &str, counts: &[u32], top: f64, height: f64) {
    let _ = writeln!(svg, "<text x=\"8\" y=\"{:.0}\">{name}</text>", top + height);
    if counts.is_empty() {
        return;
    }
    let columns = COLUMNS.min(counts.len());
    let of_column = |column: usize| {
        let (from, to) = (column * counts.len() / columns, (column + 1) * counts.len() / columns);
        &counts[from..to.max(from + 1)]
    };
    let means: Vec<f64> = (0..columns)
        .map(|column| {
            let counts = of_column(column);
            counts.iter().map(|it| f64::from(*it)).sum::<f64>() / counts.len() as f64
        })
        .collect();
    let most = means.iter().copied().fold(1.0, f64::max);
    let (base, wide) = (top + height, WIDTH / columns as f64);
    let (mut busy, mut silent) = (format!("M{LEFT} {base:.1}"), String::new());
    for (column, mean) in means.iter().enumerate() {
        let at = LEFT + wide * column as f64;
        let high = height * mean / most;
        let _ = write!(busy, "V{:.1}H{:.1}", base - high, at + wide);
        if of_column(column).contains(&0) {
            let _ = write!(silent, "M{at:.1} {base:.1}h{wide:.1}v2.5h-{wide:.1}z");
        }
    }
    let _ = write!(busy, "V{base:.1}z");
    let _ = writeln!(svg, "<path d=\"{busy}\" fill=\"#369\"/>");
    let _ = writeln!(svg, "<path d=\"{silent}\" fill=\"#c00\"/>");
    let _ = writeln!(
        svg,
        "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\" fill=\"#555\">{most:.0}/{} ms</text>",
        LEFT - 4.0,
        top + 10.0,
        SLOT.as_millis()
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}
