//! The figures as an SVG: one panel per workload, one group of bars per number of clients, on a
//! logarithmic scale, since the systems lie apart by powers of ten.

use std::fmt::Write as _;

use crate::peers::{
    results::{Results, System},
    summary::{self, Cell},
};

const WIDTH: f64 = 760.0;
const PANEL: f64 = 260.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 36.0;
/// Below one per second there is nothing to see.
const DECADE_MIN: i32 = 1;

/// Of all systems, for `docs/benchmarks/peers.svg`.
pub fn svg(results: &Results) -> String {
    let cells = summary::cells(results);
    let titles = [(0, "own names: cycles per second"), (1, "one hot lock: hand-overs per second")];
    let panels: Vec<_> =
        titles.into_iter().filter(|(kind, _)| cells.keys().any(|(of, ..)| of == kind)).collect();
    let height = TOP + PANEL * panels.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    legend(&mut svg);
    for (place, (kind, title)) in panels.into_iter().enumerate() {
        let top = TOP + PANEL * place as f64;
        let panel: Vec<_> = cells
            .iter()
            .filter(|((of, ..), _)| *of == kind)
            .map(|((_, clients, system), cell)| (*clients, *system, *cell))
            .collect();
        draw(&mut svg, top, title, &panel);
    }
    svg.push_str("</svg>\n");
    svg
}

fn colour(system: System) -> &'static str {
    match system {
        System::Sharklock => "#0b6e99",
        System::Etcd => "#d98324",
        System::Zookeeper => "#7a9e3a",
        System::RedisAlways => "#b5493f",
        System::RedisMemory => "#d9a6a0",
    }
}

fn legend(svg: &mut String) {
    for (place, system) in System::ALL.into_iter().enumerate() {
        let (x, y) = (LEFT + 225.0 * (place % 3) as f64, 10.0 + 18.0 * (place / 3) as f64);
        let (fill, label) = (colour(system), system.label());
        push(
            svg,
            &format!(
                "<rect x=\"{x}\" y=\"{y}\" width=\"10\" height=\"10\" fill=\"{fill}\"/>\
                 <text x=\"{}\" y=\"{}\">{label}</text>\n",
                x + 15.0,
                y + 10.0
            ),
        );
    }
}

fn draw(svg: &mut String, top: f64, title: &str, panel: &[(u32, System, Cell)]) {
    let largest = panel.iter().map(|(.., cell)| cell.rate.max).fold(10.0, f64::max);
    let decade_max = (largest.log10().ceil() as i32).max(DECADE_MIN + 1);
    let (base, scale) = (top + PANEL - BOTTOM, PANEL - BOTTOM - 30.0);
    let decades = f64::from(decade_max - DECADE_MIN);
    let y = |rate: f64| {
        base - scale * (rate.max(1.0).log10() - f64::from(DECADE_MIN)).max(0.0) / decades
    };
    push(
        svg,
        &format!("<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{title}</text>\n", top + 14.0),
    );
    for decade in DECADE_MIN..=decade_max {
        let at = y(10_f64.powi(decade));
        push(
            svg,
            &format!(
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
                WIDTH - 20.0,
                LEFT - 6.0,
                at + 4.0,
                10_u64.pow(decade.unsigned_abs())
            ),
        );
    }
    let clients: std::collections::BTreeSet<u32> = panel.iter().map(|(n, ..)| *n).collect();
    let group = (WIDTH - 20.0 - LEFT) / clients.len().max(1) as f64;
    let bar = group * 0.8 / System::ALL.len() as f64;
    for (place, n) in clients.into_iter().enumerate() {
        let left = LEFT + group * (place as f64 + 0.1);
        let label = if n == 1 { "1 client".to_owned() } else { format!("{n} clients") };
        push(
            svg,
            &format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>\n",
                left + group * 0.4,
                base + 18.0
            ),
        );
        for (_, system, cell) in panel.iter().filter(|(of, ..)| *of == n) {
            let slot = System::ALL.iter().position(|of| of == system).unwrap_or_default();
            let x = left + bar * slot as f64;
            push(svg, &one_bar(x, bar, base, &y, *system, cell));
        }
    }
}

/// A bar to the median, and a line from the smallest to the largest.
fn one_bar(
    x: f64,
    bar: f64,
    base: f64,
    y: &impl Fn(f64) -> f64,
    system: System,
    cell: &Cell,
) -> String {
    let (top, middle) = (y(cell.rate.median), x + bar * 0.45);
    format!(
        "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\">\
         <title>{}: {:.0}</title></rect>\
         <line x1=\"{middle:.1}\" x2=\"{middle:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"black\"/>\
         <text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"9\">{:.0}</text>\n",
        bar * 0.9,
        base - top,
        colour(system),
        system.label(),
        cell.rate.median,
        y(cell.rate.max),
        y(cell.rate.min),
        y(cell.rate.max) - 3.0,
        cell.rate.median
    )
}

fn push(svg: &mut String, more: &str) {
    svg.write_str(more).expect("a String grows as needed");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_system_that_was_measured_has_its_bars() {
        let svg = svg(&summary::tests::results());
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        let bars = |system: System| svg.matches(&format!("<title>{}:", system.label())).count();
        assert_eq!((bars(System::Sharklock), bars(System::Etcd)), (2, 2));
        assert_eq!(bars(System::Zookeeper), 0);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
