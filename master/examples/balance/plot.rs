//! The picture: how far the furthest store is from the mean, minute by minute.

use std::fmt::Write as _;

use super::{measure::Balance, story::Story};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 56.0;
const TOP: f64 = 56.0;
/// Percent at the top of the picture.
const MOST: f64 = 100.0;

/// As an SVG file, the same for the same story.
pub fn svg(story: &Story) -> String {
    let end = story.minutes.last().map_or(1.0, |(minute, _)| *minute).max(1.0);
    let x = |minute: f64| LEFT + minute / end * WIDTH;
    // What is small is drawn larger, or nothing could be seen of the end.
    let scale = |percent: f64| (1.0 + percent.min(MOST)).ln() / (1.0 + MOST).ln();
    let y = |percent: f64| TOP + HEIGHT - scale(percent) * HEIGHT;
    let (width, height) = (LEFT + WIDTH + 24.0, TOP + HEIGHT + 48.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"18\" font-size=\"14\">How far the furthest store is from the mean, in \
         percent, by minute</text>\n"
    );
    for percent in [0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0] {
        let (at, dash) = (y(percent), if percent == 5.0 { "6 4" } else { "1 4" });
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#888\" stroke-dasharray=\"{dash}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{percent}</text>",
            LEFT + WIDTH,
            LEFT - 6.0,
            at + 4.0
        );
    }
    for (at, scene) in story.scenes.iter().enumerate() {
        let (left, low) = (x(scene.from), if at % 2 == 0 { 34.0 } else { 48.0 });
        let _ = writeln!(
            out,
            "<path d=\"M{left:.1} {low}V{:.1}\" stroke=\"#bbb\"/>\
             <text x=\"{:.1}\" y=\"{low}\">{}</text>\
             <text x=\"{left:.1}\" y=\"{:.1}\">{:.0}</text>",
            TOP + HEIGHT,
            left + 3.0,
            scene.what,
            TOP + HEIGHT + 16.0,
            scene.from
        );
    }
    type Line = (&'static str, &'static str, fn(&Balance) -> f64);
    let lines: [Line; 3] = [
        ("replicas", "#1f77b4", |it| it.replicas.percent()),
        ("leaders", "#d62728", |it| it.leaders.percent()),
        ("load", "#2ca02c", |it| it.load.percent()),
    ];
    for (at, (name, colour, percent)) in lines.into_iter().enumerate() {
        let points = story.minutes.iter();
        let points = points.map(|(minute, it)| format!("{:.1},{:.1}", x(*minute), y(percent(it))));
        let points = points.collect::<Vec<_>>().join(" ");
        let (left, low) = (LEFT + 110.0 * at as f64, TOP + HEIGHT + 38.0);
        let _ = writeln!(
            out,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\
             <path d=\"M{left} {low}h24\" stroke=\"{colour}\" stroke-width=\"3\"/>\
             <text x=\"{}\" y=\"{}\">{name}</text>",
            left + 30.0,
            low + 4.0
        );
    }
    out.push_str("</svg>\n");
    out
}
