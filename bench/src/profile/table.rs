//! The figures as Markdown.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::profile::figures::{Figures, Profile};

/// Functions that are told of each load.
const FUNCTIONS_MAX: usize = 25;
/// A longer name of a function is cut.
const NAME_MAX: usize = 84;

/// Everything, for a page of docs/benchmarks.
pub fn markdown(profile: &Profile) -> String {
    let mut text = String::new();
    let _ = write_all(&mut text, profile);
    text
}

fn write_all(to: &mut String, profile: &Profile) -> std::fmt::Result {
    let Profile { version, cpus, part_s, trace_every, loads: all } = profile;
    writeln!(
        to,
        "# Where the time of a cycle goes\n\n\
         Made by `scripts/profile.sh` of {version} on {cpus} cores, which three servers with all roles\n\
         and the load share. A cycle is an acquire and its release, a commit is a Raft entry of the leader.\n\
         Each load is only counted for {part_s} s; then functions are sampled for as long, then system calls\n\
         counted, since `perf` takes time itself. F is the median `fdatasync` of 512 bytes beside the run.\n\
         One acquire in {trace_every} is traced."
    )?;
    section(
        to,
        all,
        "Loads",
        &[
            ("cycles per second", |it| format!("{:.0}", it.cycles_per_s)),
            ("cycle, p50", |it| ms(it.cycle.p50_us)),
            ("cycle, p99", |it| ms(it.cycle.p99_us)),
            ("acquire, p50", |it| ms(it.acquire.p50_us)),
            ("failed calls, in all parts", |it| it.failed_calls.to_string()),
            ("F, disk idle", |it| ms(it.f_us)),
            ("F, under the load", |it| ms(it.f_loaded_us)),
            ("commits per second", |it| format!("{:.0}", it.commits_per_s)),
            ("commands per commit", |it| format!("{:.1}", it.commands_per_commit)),
        ],
    )?;
    section(
        to,
        all,
        "Of one commit",
        &[
            ("wake-ups of servers' threads", |it| format!("{:.1}", it.wakeups_per_commit)),
            ("syncs of stores", |it| format!("{:.1}", it.syncs_per_commit)),
            ("messages between stores", |it| format!("{:.1}", it.messages_per_commit)),
            ("system calls of servers", |it| call(it, "all")),
        ],
    )?;
    section(
        to,
        all,
        "Of one cycle",
        &[
            ("processor time of servers", |it| us(it.servers_us_per_cycle)),
            ("processor time of the load", |it| us(it.load_us_per_cycle)),
            ("packets over loopback", |it| format!("{:.1}", it.packets_per_cycle)),
            ("bytes over loopback", |it| format!("{:.0}", it.bytes_per_cycle)),
            ("bytes to disks", |it| format!("{:.0}", it.written_per_cycle)),
        ],
    )?;
    section(
        to,
        all,
        "The way of an acquire until it is granted or queued, medians",
        &[
            ("in the gateway and behind it", |it| ms(it.budget.gateway)),
            ("of that outside of the store", |it| ms(it.budget.to_store)),
            ("waiting for a place in an entry", |it| ms(it.budget.queue)),
            ("commit: syncs, and to a follower and back", |it| ms(it.budget.commit)),
            ("the sync of a store", |it| ms(it.sync_us)),
            ("apply until the answer", |it| ms(it.budget.apply)),
            ("acquires that were followed", |it| it.budget.acquires.to_string()),
        ],
    )?;
    threads(to, all)?;
    calls(to, all)?;
    all.iter().try_for_each(|figures| functions(to, figures))
}

/// A figure of a load, as it is shown.
type Row = (&'static str, fn(&Figures) -> String);

fn section(to: &mut String, all: &[Figures], title: &str, rows: &[Row]) -> std::fmt::Result {
    head(to, all, title)?;
    for (name, figure) in rows {
        line(to, name, all.iter().map(figure))?;
    }
    Ok(())
}

fn head(to: &mut String, all: &[Figures], title: &str) -> std::fmt::Result {
    writeln!(to, "\n## {title}\n")?;
    line(to, "", all.iter().map(|figures| figures.load.clone()))?;
    line(to, "---", all.iter().map(|_| "---:".to_owned()))
}

fn line(to: &mut String, name: &str, cells: impl Iterator<Item = String>) -> std::fmt::Result {
    write!(to, "| {name} |")?;
    cells.into_iter().try_for_each(|cell| write!(to, " {cell} |"))?;
    writeln!(to)
}

/// What each kind of the servers' threads takes; those that take most in any load come first.
fn threads(to: &mut String, all: &[Figures]) -> std::fmt::Result {
    head(to, all, "Servers' threads: processor time per cycle, wake-ups per commit")?;
    let most = |kind: &str| {
        all.iter()
            .filter_map(|it| it.threads.get(kind))
            .map(|it| it.us_per_cycle)
            .fold(0.0, f64::max)
    };
    let mut kinds: Vec<&String> = all.iter().flat_map(|it| it.threads.keys()).collect();
    kinds.sort_by(|one, other| most(other).total_cmp(&most(one)).then(one.cmp(other)));
    kinds.dedup();
    for kind in kinds {
        let cell = |it: &Figures| match it.threads.get(kind) {
            Some(of) => format!("{}, {:.2}", us(of.us_per_cycle), of.wakeups_per_commit),
            None => String::new(),
        };
        line(to, &format!("`{kind}`"), all.iter().map(cell))?;
    }
    Ok(())
}

fn calls(to: &mut String, all: &[Figures]) -> std::fmt::Result {
    head(to, all, "System calls of the servers per commit")?;
    let mut most: BTreeMap<&str, f64> = BTreeMap::new();
    for (name, count) in all.iter().filter_map(|it| it.calls_per_commit.as_ref()).flatten() {
        let known = most.entry(name).or_default();
        *known = known.max(*count);
    }
    let mut names: Vec<(&str, f64)> = most.into_iter().filter(|(_, most)| *most >= 0.05).collect();
    names.sort_by(|one, other| other.1.total_cmp(&one.1));
    for (name, _) in names {
        line(to, &format!("`{name}`"), all.iter().map(|it| call(it, name)))?;
    }
    for figures in all {
        for why in &figures.not_measured {
            writeln!(to, "\n{}: not measured: {why}", figures.load)?;
        }
    }
    Ok(())
}

fn functions(to: &mut String, figures: &Figures) -> std::fmt::Result {
    let Some(functions) = &figures.functions else { return Ok(()) };
    writeln!(to, "\n## Functions: {}\n", figures.load)?;
    writeln!(
        to,
        "Processor time per cycle, of servers and load together; `[k]` is the kernel's.\n"
    )?;
    writeln!(to, "| | |\n|---:|---|")?;
    for (name, time) in functions.iter().take(FUNCTIONS_MAX) {
        let cut: String = name.chars().take(NAME_MAX).collect();
        writeln!(to, "| {} | `{}` |", us(*time), cut.replace('|', " "))?;
    }
    Ok(())
}

fn call(figures: &Figures, name: &str) -> String {
    let counts = figures.calls_per_commit.as_ref();
    counts.and_then(|it| it.get(name)).map_or_else(|| "-".to_owned(), |count| format!("{count:.1}"))
}

fn us(microseconds: f64) -> String {
    format!("{microseconds:.1} µs")
}

fn ms(microseconds: f64) -> String {
    format!("{:.2} ms", microseconds / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        profile::{budget::Budget, figures::OfThreads},
        report::Latencies,
    };

    fn figures(load: &str) -> Figures {
        let kind = |us_per_cycle| OfThreads { us_per_cycle, wakeups_per_commit: 1.5 };
        Figures {
            load: load.to_owned(),
            cycles_per_s: 1_234.4,
            cycle: Latencies { p50_us: 1_500.0, ..Latencies::default() },
            acquire: Latencies::default(),
            failed_calls: 0,
            f_us: 240.0,
            f_loaded_us: 0.0,
            commits_per_s: 0.0,
            commands_per_commit: 0.0,
            wakeups_per_commit: 0.0,
            syncs_per_commit: 0.0,
            messages_per_commit: 0.0,
            packets_per_cycle: 0.0,
            bytes_per_cycle: 0.0,
            written_per_cycle: 0.0,
            servers_us_per_cycle: 0.0,
            load_us_per_cycle: 0.0,
            threads: [("few".to_owned(), kind(1.0)), ("most".to_owned(), kind(9.0))].into(),
            sync_us: 0.0,
            budget: Budget::default(),
            calls_per_commit: Some([("futex".to_owned(), 3.0), ("all".to_owned(), 8.0)].into()),
            functions: Some(vec![("a::b".to_owned(), 2.0)]),
            not_measured: Vec::new(),
        }
    }

    #[test]
    fn loads_stand_side_by_side_and_what_takes_most_comes_first() {
        let failed = Figures {
            calls_per_commit: None,
            functions: None,
            not_measured: vec!["system calls: no perf".to_owned()],
            ..figures("hot lock, 64")
        };
        let text = markdown(&Profile {
            version: "sharklock 0.0.0".to_owned(),
            cpus: 2,
            part_s: 10.0,
            trace_every: 16,
            loads: vec![figures("own names, 1"), failed],
        });
        for expected in [
            "|  | own names, 1 | hot lock, 64 |\n| --- | ---: | ---: |\n",
            "| cycles per second | 1234 | 1234 |\n",
            "| cycle, p50 | 1.50 ms | 1.50 ms |\n",
            "| system calls of servers | 8.0 | - |\n",
            "| `most` | 9.0 µs, 1.50 | 9.0 µs, 1.50 |\n| `few` |",
            "| `all` | 8.0 | - |\n| `futex` | 3.0 | - |\n\nhot lock, 64: not measured: system calls: no perf\n",
            "| 2.0 µs | `a::b` |\n",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
        assert!(!text.contains("## Functions: hot lock, 64"), "{text}");
    }
}
