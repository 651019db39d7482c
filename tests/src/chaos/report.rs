//! The report of a run: what was done, what came of it, and what was demanded.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime};

use sharklock_history::Report as Judgement;

use super::diary::rfc3339;
use super::fault::{Breadth, Fault};
use super::plan::Plan;
use super::shell::Counted;
use super::timeline::{RangeLine, Span, Steadiness, Timeline};
use super::watch::{Blind, LeaderChange};

/// Of all tenths of a second with at most one node down, a range is to have a success in this share.
pub const BUSY_MIN: f64 = 0.95;
/// It is demanded of ranges that were watched for so long: in less, where the few strikes of a short run fell
/// decides. It is told of all.
const WATCHED_MIN: Duration = Duration::from_secs(300);
/// No range is to be silent for longer than this, with at most one node down.
pub const SILENCE_MAX: Duration = Duration::from_secs(4);
/// After a fault that takes a majority its ranges find their leaders again: these times are told apart.
const AFTER_MANY: Duration = Duration::from_secs(10);

/// Of the logs, what is shown before and after a moment at which something went wrong.
const BEFORE: Duration = Duration::from_secs(15);
const AFTER: Duration = Duration::from_secs(5);

/// A strike as it was done.
#[derive(Clone, Debug)]
pub struct Done {
    /// What.
    pub fault: Fault,
    /// When it began, after the begin of the run.
    pub from: Duration,
    /// When it was mended.
    pub mended: Duration,
    /// From the mending until every range granted a free lock.
    pub recovered: Duration,
    /// What else there is to say: an order in words, or why it was not done.
    pub remark: String,
    /// It was done.
    pub was_done: bool,
}

/// A promise that was broken, or something that the machine did not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When that was seen, after the begin of the run; `None`: it has no time, or several.
    pub at: Option<Duration>,
    /// What, in words.
    pub what: String,
}

impl Failure {
    /// Without a time, or with times in its words.
    pub fn at_no_time(what: String) -> Self {
        Self { at: None, what }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some(at) => write!(f, "{:.1} s: {}", at.as_secs_f64(), self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// Everything that a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// What was planned.
    pub plan: Plan,
    /// What was done.
    pub done: Vec<Done>,
    /// Throughput.
    pub timeline: Timeline,
    /// Who led when; times on the clock of the history.
    pub leaders: Vec<LeaderChange>,
    /// When nobody could tell who leads.
    pub blind: Vec<Blind>,
    /// The begin of the run on that clock.
    pub begin: u64,
    /// The same by the clock of the day.
    pub began_at: SystemTime,
    /// Grants of each process of clients.
    pub grants: BTreeMap<String, u64>,
    /// The verdict on the history.
    pub judgement: Judgement,
    /// How long the judges took.
    pub judged_in: Duration,
    /// What the resource of slow holders saw.
    pub resource: serde_json::Value,
    /// The counter of shells.
    pub counted: Counted,
    /// Ranges at the end.
    pub ranges: usize,
    /// Everything that went wrong.
    pub failures: Vec<Failure>,
}

impl Outcome {
    /// The times in which more than one node was down.
    pub fn many(&self) -> Vec<Span> {
        let many = self.done.iter().filter(|it| it.fault.kind.breadth() == Breadth::Many);
        many.map(|it| (it.from, it.mended + AFTER_MANY.max(it.recovered))).collect()
    }

    /// How steadily each range was served with at most one node down.
    pub fn steadiness(&self) -> Vec<(&RangeLine, Steadiness)> {
        let many = self.many();
        let ranges = self.timeline.ranges.iter();
        ranges.filter_map(|range| Some((range, range.steadiness(&many)?))).collect()
    }

    /// What was struck at a moment of the run, in words.
    fn struck_at(&self, at: Duration) -> String {
        let struck = self.done.iter().rev().find(|it| it.from <= at);
        struck.map_or_else(String::new, |it| {
            format!("{:.1} s after the begin of `{}`", (at - it.from).as_secs_f64(), it.fault)
        })
    }

    /// Adds what was demanded of the time line and is not so.
    pub fn demand_steadiness(&mut self) {
        let mut found = Vec::new();
        for (range, it) in self.steadiness() {
            let name = range.name();
            if it.counted >= WATCHED_MIN && it.busy < BUSY_MIN {
                let (busy, least) = (it.busy * 100.0, BUSY_MIN * 100.0);
                let what = format!(
                    "range {name}: a success in {busy:.1} % of tenths of a second, and not in \
                     {least:.0} %; this was the longest silence"
                );
                found.push(Failure { at: Some(it.silence_from), what });
            }
            if it.silence > SILENCE_MAX {
                let (long, after) = (it.silence.as_secs_f64(), self.struck_at(it.silence_from));
                let what = format!("range {name}: silent for {long:.1} s, {after}");
                found.push(Failure { at: Some(it.silence_from), what });
            }
        }
        self.failures.extend(found);
    }

    /// The report as Markdown; `picture` is the file of the time line.
    pub fn markdown(&self, picture: &str) -> String {
        let mut text = String::new();
        let _ = self.write_head(&mut text, picture);
        let _ = self.write_failures(&mut text);
        let _ = self.write_ranges(&mut text);
        let _ = self.write_strikes(&mut text);
        let _ = self.write_leaders(&mut text);
        text
    }

    fn write_head(&self, to: &mut String, picture: &str) -> std::fmt::Result {
        let Self { plan, judgement, timeline, .. } = self;
        let length = plan.length.as_secs_f64();
        let struck = self.done.iter().filter(|it| it.was_done).count();
        let changes = self.leaders.iter().filter(|it| !it.leader.is_empty()).count();
        writeln!(to, "# Chaos on Compose: {:.0} minutes, seed {}\n", length / 60.0, plan.seed)?;
        writeln!(to, "`{}`: {}.\n", plan.command(), self.verdict())?;
        writeln!(to, "| | |\n|---|---|")?;
        writeln!(to, "| begun | {} |", rfc3339(self.began_at))?;
        writeln!(to, "| faults done | {struck} of {} |", self.done.len())?;
        if !plan.left_out.is_empty() {
            let names: Vec<_> = plan.left_out.iter().map(|kind| kind.name()).collect();
            writeln!(to, "| left out: this machine lacks what they need | {} |", names.join(", "))?;
        }
        writeln!(to, "| acknowledged operations | {} |", timeline.operations)?;
        writeln!(to, "| history | {} |", judgement.counts)?;
        writeln!(to, "| violations | {} |", judgement.violations_count)?;
        writeln!(to, "| judged in | {:.1} s |", self.judged_in.as_secs_f64())?;
        writeln!(to, "| ranges at the end | {} |", self.ranges)?;
        let grants = self.grants.iter().map(|(label, grants)| format!("{label} {grants}"));
        writeln!(to, "| grants | {} |", grants.collect::<Vec<_>>().join(", "))?;
        writeln!(to, "| leaders seen | {changes} |")?;
        let number = |name: &str| self.resource[name].as_u64().unwrap_or(0);
        let (writes, refused) = (number("writes"), number("refused"));
        writeln!(
            to,
            "| writes of slow holders | {writes}, and {refused} refused by their tokens |"
        )?;
        let Counted { tried, done, counter } = self.counted;
        writeln!(to, "| shell counter | {counter}, after {done} of {tried} runs that said done |")?;
        let slowest = self.done.iter().map(|it| it.recovered).max().unwrap_or_default();
        writeln!(to, "| slowest recovery after a mending | {:.1} s |", slowest.as_secs_f64())?;
        writeln!(to, "\n![time line]({picture})\n")?;
        Ok(())
    }

    fn write_failures(&self, to: &mut String) -> std::fmt::Result {
        if self.failures.is_empty() {
            return Ok(());
        }
        writeln!(to, "## What went wrong\n")?;
        for failure in &self.failures {
            let at = failure.at.map(|at| format!("{}, ", rfc3339(self.began_at + at)));
            writeln!(to, "- {}{failure}", at.unwrap_or_default())?;
        }
        // What leads to something comes before it, and is seen when it has come to something.
        let around = self.failures.iter().find_map(|it| it.at).unwrap_or_default();
        let from = self.began_at + around.saturating_sub(BEFORE);
        let to_see = self.began_at + around + AFTER;
        writeln!(
            to,
            "\nTo see the first moment, of servers and of the run itself, in the directory of this report:\n\n\
             ```sh\nawk -v from={} -v to={} \\\n  '$1 >= from && $1 < to {{ print FILENAME \": \" $0 }}' \
             run.log logs/*.log\n```\n\n\
             Seconds count from the begin. Times of 10 digits and more are nanoseconds on the clock of the\n\
             histories, which stood at {} then; `histories/` has what each client saw, by that clock.\n",
            rfc3339(from),
            rfc3339(to_see),
            self.begin
        )
    }

    /// Whether everything was as promised, in words.
    pub fn verdict(&self) -> String {
        match self.failures.len() {
            0 => "all promises were kept".to_owned(),
            count => format!("**{count} promises were broken**"),
        }
    }

    fn write_ranges(&self, to: &mut String) -> std::fmt::Result {
        writeln!(to, "## Ranges\n")?;
        writeln!(
            to,
            "Times with a majority down, and 10 s after, are not counted, nor is what came before a"
        )?;
        writeln!(to, "range was there.\n")?;
        writeln!(
            to,
            "| range | there from | tenths of a second with a success | longest silence | |"
        )?;
        writeln!(to, "|---|---|---|---|---|")?;
        for (range, it) in self.steadiness() {
            writeln!(
                to,
                "| {} | {:.1} s | {:.2} % | {:.1} s at {:.1} s | {} |",
                range.name(),
                range.born.as_secs_f64(),
                it.busy * 100.0,
                it.silence.as_secs_f64(),
                it.silence_from.as_secs_f64(),
                self.struck_at(it.silence_from)
            )?;
        }
        writeln!(to)
    }

    fn write_leaders(&self, to: &mut String) -> std::fmt::Result {
        writeln!(to, "\n## Leaders\n")?;
        writeln!(to, "`leaders.csv` has each change, as seen every half a second.")?;
        if !self.blind.is_empty() {
            writeln!(to, "Looks that failed:\n")?;
            writeln!(to, "| from | until | why, at last |\n|---|---|---|")?;
        }
        for it in &self.blind {
            let [from, until] = [it.from, it.until].map(|at| self.seconds(at));
            let why = it.why.replace(['|', '\n'], " ");
            writeln!(to, "| {from:.1} | {until:.1} | {why} |")?;
        }
        Ok(())
    }

    /// All changes of leaders as comma-separated values: at which second, the range, who leads it then.
    pub fn leaders_csv(&self) -> String {
        let mut text = "at,range,leader\n".to_owned();
        for it in &self.leaders {
            let leader = if it.leader.is_empty() { "nobody" } else { &it.leader };
            let _ = writeln!(text, "{:.1},{},{leader}", self.seconds(it.at), it.range);
        }
        text
    }

    /// A time on the clock of the histories, from the begin of the run.
    fn seconds(&self, at: u64) -> f64 {
        Duration::from_nanos(at.saturating_sub(self.begin)).as_secs_f64()
    }

    fn write_strikes(&self, to: &mut String) -> std::fmt::Result {
        writeln!(to, "## Faults\n")?;
        writeln!(to, "The picture has their numbers.\n")?;
        writeln!(to, "| | from | until | fault | recovered in | |\n|---|---|---|---|---|---|")?;
        for (number, it) in (1..).zip(&self.done) {
            let (from, until) = (it.from.as_secs_f64(), it.mended.as_secs_f64());
            let recovered = it.recovered.as_secs_f64();
            let remark = it.remark.replace(['|', '\n'], " ");
            writeln!(
                to,
                "| {number} | {from:.1} | {until:.1} | {} | {recovered:.2} s | {remark} |",
                it.fault
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sharklock_history::check;

    use super::super::fault::{Act, Kind, Service, Topology};
    use super::super::minima::missing;
    use super::super::svg;
    use super::*;

    const SECOND: usize = 10;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn range(range: u64, start: &str, counts: Vec<u32>) -> RangeLine {
        RangeLine { range, start: start.to_owned(), born: Duration::ZERO, counts }
    }

    /// A minute in which range 1 was silent from `from` on for five seconds, after a fault of this kind that
    /// began at 20 s.
    fn outcome(kind: Kind, from: usize) -> Outcome {
        outcome_of(60, kind, from)
    }

    fn outcome_of(seconds: usize, kind: Kind, from: usize) -> Outcome {
        let mut counts = vec![3; seconds * SECOND];
        counts[from * SECOND..(from + 5) * SECOND].fill(0);
        let act = Act::One(Service("data-2".to_owned()));
        let fault = Fault { kind, act };
        let done = Done {
            fault,
            from: secs(20),
            mended: secs(23),
            recovered: secs(1),
            remark: "a | b".to_owned(),
            was_done: true,
        };
        let plan = Plan::draw(7, secs(60), &Topology::of_compose(), &[]);
        let mut outcome = Outcome {
            plan,
            done: vec![done],
            timeline: Timeline {
                total: vec![6; seconds * SECOND],
                ranges: vec![range(1, "", counts), range(2, "g1/", vec![3; seconds * SECOND])],
                operations: 3_600,
            },
            leaders: vec![LeaderChange { at: 3_000_000_077, range: 2, leader: String::new() }],
            blind: vec![Blind {
                from: 4_000_000_077,
                until: 5_500_000_077,
                why: "a | b".to_owned(),
            }],
            begin: 77,
            began_at: SystemTime::UNIX_EPOCH + secs(1_000_000_000),
            grants: BTreeMap::from([("own-1".to_owned(), 20), ("hot-1".to_owned(), 21)]),
            judgement: check(&[]),
            judged_in: secs(2),
            resource: serde_json::json!({"writes": 5, "refused": 2, "faults": []}),
            counted: Counted { tried: 3, done: 2, counter: 3 },
            ranges: 8,
            failures: Vec::new(),
        };
        outcome.demand_steadiness();
        outcome
    }

    #[test]
    fn a_silence_with_one_node_down_is_told_with_what_was_struck_then() {
        let outcome = outcome(Kind::Kill, 21);
        let told = "21.0 s: range 1: silent for 5.0 s, 1.0 s after the begin of `kill data-2`";
        let failures: Vec<_> = outcome.failures.iter().map(ToString::to_string).collect();
        assert!(failures.iter().any(|it| it == told), "{failures:?}");
        assert_eq!(failures.len(), 1, "{failures:?}");
        let text = outcome.markdown("report.svg");
        assert!(text.contains("**1 promises were broken**") && text.contains(told), "{text}");
        assert!(text.contains("| 91.67 % | 5.0 s at 21.0 s |"), "{text}");
        // From before the fault on, which began a second before the silence.
        let window = "awk -v from=2001-09-09T01:46:46.000Z -v to=2001-09-09T01:47:06.000Z";
        assert!(text.contains(window) && text.contains("stood at 77 then"), "{text}");
        assert!(text.contains(&format!("- 2001-09-09T01:47:01.000Z, {told}")), "{text}");
    }

    #[test]
    fn a_range_that_was_watched_for_long_is_to_be_served_nearly_always() {
        let mut outcome = outcome_of(300, Kind::Kill, 21);
        let counts = &mut outcome.timeline.ranges[0].counts;
        // Four seconds of each of five minutes, which is no silence that is too long.
        for minute in 0..5 {
            counts[(minute * 60 + 30) * SECOND..(minute * 60 + 34) * SECOND].fill(0);
        }
        outcome.failures.clear();
        outcome.demand_steadiness();
        let failures: Vec<_> = outcome.failures.iter().map(ToString::to_string).collect();
        let told = |it: &String| it.contains("range 1: a success in 91.7 % of tenths");
        assert!(failures.iter().any(told), "{failures:?}");
    }

    #[test]
    fn a_silence_without_a_majority_does_not_count() {
        let outcome = outcome(Kind::KillAll, 21);
        assert_eq!(outcome.failures, []);
        assert_eq!(missing(&outcome), Vec::<String>::new());
        let text = outcome.markdown("report.svg");
        assert!(text.contains("all promises were kept") && text.contains("| 3600 |"), "{text}");
        assert!(text.contains("| 1 | 20.0 | 23.0 | kill-all data-2 | 1.00 s | a   b |"), "{text}");
        assert!(text.contains("| 4.0 | 5.5 | a   b |"), "{text}");
        assert_eq!(outcome.leaders_csv(), "at,range,leader\n3.0,2,nobody\n");
        let picture = svg::draw(&outcome);
        assert!(picture.contains(">1</text>"), "the fault has its number");
        assert_eq!(picture.matches("<title>kill-all data-2</title>").count(), 1);
        assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
    }

    #[test]
    fn where_little_was_done_that_is_told() {
        let mut little = outcome(Kind::PauseClient, 21);
        little.grants.insert("hot-1".to_owned(), 19);
        little.resource = serde_json::json!({"writes": 0, "refused": 0});
        little.counted.done = 0;
        little.ranges = 7;
        let done = little.done[0].clone();
        let refused = |kind| Done {
            was_done: false,
            fault: Fault { kind, ..done.fault.clone() },
            ..done.clone()
        };
        little.done.extend([Kind::Move, Kind::Move, Kind::Move, Kind::Split].map(refused));
        let told = missing(&little);
        let expected = [
            "hot-1 had 19 grants, and not 20",
            "no slow holder",
            "slow holders were paused 1 times",
            "no shell",
            "there are 7 ranges",
            "of 3 times move none was done",
        ];
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.starts_with(expected), "{told}");
        }
        little.plan.length = secs(3_600);
        assert!(missing(&little).iter().any(|it| it == "3600 operations, and not 1000000"));
        assert!(missing(&little).iter().any(|it| it == "1 faults were done, and not 200"));
    }
}
