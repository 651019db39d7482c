//! The figures as Markdown.

use std::fmt::Write as _;

use crate::peers::{
    results::{Results, System},
    summary::{self, Cell, Spread},
};

/// Everything, for `docs/benchmarks/peers.md`.
pub fn markdown(results: &Results) -> String {
    let mut text = String::new();
    head(&mut text, results);
    let cells = summary::cells(results);
    for (kind, title) in [
        (
            0,
            "Own names: each client acquires and releases 16 names of its own, one after the other",
        ),
        (1, "Hot lock: all clients take turns on one name"),
    ] {
        let rows: Vec<_> = cells.iter().filter(|((of, ..), _)| *of == kind).collect();
        if rows.is_empty() {
            continue;
        }
        push(&mut text, &format!("\n## {title}\n\n{}", columns(kind)));
        for ((_, clients, system), cell) in rows {
            push(&mut text, &row(kind, *clients, *system, cell));
        }
    }
    failover(&mut text, results);
    text
}

fn head(text: &mut String, results: &Results) {
    push(
        text,
        &format!(
            "# SharkLock beside etcd, ZooKeeper and Redis\n\n\
             Made by `scripts/bench-peers.sh` on {} cores, which the servers and the load share; {} \
             rounds, in each of which every system has its turn, started anew; {} s measured after \
             {} s of warm-up. Medians over the rounds, and (smallest–largest). Ratios are SharkLock's \
             figure over the other's, within a round. F is the median `fdatasync` of 512 bytes in the \
             same run; a round trip of one byte over loopback takes {:.0} µs. Redis is one process \
             without a replica: it can lose acknowledged locks, and its hot lock is not fair.\n\n",
            results.cpus,
            results.rounds,
            results.measured_s,
            results.warmup_s,
            results.round_trip_us
        ),
    );
    for (system, version) in &results.versions {
        push(text, &format!("- {}: {version}\n", system.label()));
    }
}

fn columns(kind: u8) -> &'static str {
    match kind {
        0 => {
            "| clients | system | cycles/s | SharkLock is × | cycle p50 ms | × | p99 ms | F µs |\n\
             |---|---|---|---|---|---|---|---|\n"
        }
        _ => {
            "| clients | system | hand-overs/s | SharkLock is × | wait p99 ms | fairness (Jain) | F µs |\n\
             |---|---|---|---|---|---|---|\n"
        }
    }
}

fn row(kind: u8, clients: u32, system: System, cell: &Cell) -> String {
    let rate = spread(cell.rate, 0);
    let ratio = cell.rate_ratio.map_or_else(String::new, |ratio| spread(ratio, 1));
    let (label, f) = (system.label(), spread(cell.f_us, 0));
    if kind == 0 {
        let p50 = spread(cell.p50_ms, 2);
        let p50_ratio = cell.p50_ratio.map_or_else(String::new, |ratio| spread(ratio, 2));
        let p99 = spread(cell.p99_ms, 1);
        return format!(
            "| {clients} | {label} | {rate} | {ratio} | {p50} | {p50_ratio} | {p99} | {f} |\n"
        );
    }
    let p99 = spread(cell.p99_ms, 0);
    let jain = cell.jain.map_or_else(String::new, |jain| format!("{:.3}", jain.median));
    format!("| {clients} | {label} | {rate} | {ratio} | {p99} | {jain} | {f} |\n")
}

fn failover(text: &mut String, results: &Results) {
    let failovers = summary::failovers(results);
    if failovers.is_empty() {
        return;
    }
    push(
        text,
        "\n## SIGKILL of the leader under load\n\n\
         | system | first new grant after ms | longest time without an answer ms |\n|---|---|---|\n",
    );
    for (system, (first, gap)) in failovers {
        let first = first.map_or_else(|| "none".to_owned(), |first| spread(first, 0));
        push(text, &format!("| {} | {first} | {} |\n", system.label(), spread(gap, 0)));
    }
}

/// `median (smallest–largest)`.
fn spread(Spread { median, min, max }: Spread, digits: usize) -> String {
    format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
}

fn push(text: &mut String, more: &str) {
    text.write_str(more).expect("a String grows as needed");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_stands_in_its_row_with_spread_and_ratio() {
        let text = markdown(&summary::tests::results());
        let row = "| 64 | etcd, 3 nodes | 375 (250–500) | 5.0 (4.0–6.0) |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("| etcd, 3 nodes | 1500 (1500–1500) | 1400 (1400–1400) |"), "{text}");
        assert!(text.contains("2 cores") && text.contains("- etcd, 3 nodes: 3.4"), "{text}");
        let widths: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with('|'))
            .map(|line| line.matches('|').count())
            .collect();
        assert!(widths.iter().all(|width| [9, 8, 4].contains(width)), "{widths:?}");
    }
}
