//! Decides whether nothing of an earlier run lives, from what was read. It reads nothing itself.
//!
//! Dead processes start no others, so what is proved once stays true.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    cgroup::CgroupState,
    look::{Environment, Gap, Look, Seen},
    place::Place,
    record::RunRecord,
};

/// What was read, after the `sharklock lock` of the earlier run had ended.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// Where this process is.
    pub place: Option<Place>,
    /// The run's cgroup, where it has one.
    pub cgroup: Option<CgroupState>,
    /// All processes.
    pub look: Look,
}

/// A process that lives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Living {
    /// Its number.
    pub pid: i32,
    /// Its program.
    pub name: String,
}

/// Why nothing is proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// This process cannot tell where it is.
    NoPlace,
    /// The run was on another machine, or the machine has no id to tell by.
    OtherMachine {
        /// Its name.
        host: String,
    },
    /// The run was in a container, or this process is: it may be on another machine.
    Container,
    /// The run's numbers of processes mean nothing here.
    OtherNamespace,
    /// The run's cgroup is not seen from here.
    OtherCgroups,
    /// The run's cgroup cannot be read.
    UnreadCgroup(String),
    /// The look may have missed somebody.
    Gap(Gap),
    /// The environments of these are not shown, and they may be of the run.
    Hidden(Vec<Living>),
}

impl Doubt {
    /// Whether another look may tell more.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Hidden(_) | Self::Gap(Gap::Restless))
    }
}

/// The judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing of the run lives.
    Ended,
    /// These live.
    Alive(Vec<Living>),
    /// It is not known.
    Unproved(Doubt),
}

/// Judges a run by the evidence.
pub fn judge(run: &RunRecord, evidence: &Evidence) -> Verdict {
    let Some(place) = &evidence.place else { return Verdict::Unproved(Doubt::NoPlace) };
    if place.boot != run.place.boot {
        return judge_by_boot(run, place);
    }
    // The mark is looked for in any case: who has it is of the run, whatever else is true.
    let mut living = marked(&evidence.look);
    match &evidence.cgroup {
        Some(CgroupState::Populated(members)) => {
            living.extend(members.iter().map(|&pid| named(pid, &evidence.look)));
            Verdict::Alive(living.into_iter().collect())
        }
        _ if !living.is_empty() && run.cgroup.is_some() => {
            Verdict::Alive(living.into_iter().collect())
        }
        Some(CgroupState::Empty) => Verdict::Ended,
        Some(CgroupState::Unread(why)) => Verdict::Unproved(Doubt::UnreadCgroup(why.clone())),
        Some(CgroupState::Elsewhere) => Verdict::Unproved(Doubt::OtherCgroups),
        None => judge_by_numbers(run, place, &evidence.look, living),
    }
}

/// No process outlives its machine. Which one that was cannot be told in a container, whose files and
/// names may go from machine to machine.
fn judge_by_boot(run: &RunRecord, place: &Place) -> Verdict {
    if !run.place.is_outermost() || !place.is_outermost() {
        return Verdict::Unproved(Doubt::Container);
    }
    match place.is_same_machine_as(&run.place) {
        true => Verdict::Ended,
        false => Verdict::Unproved(Doubt::OtherMachine { host: run.place.host.clone() }),
    }
}

fn judge_by_numbers(
    run: &RunRecord,
    place: &Place,
    look: &Look,
    mut living: BTreeSet<Living>,
) -> Verdict {
    if !place.shares_numbers_with(&run.place) {
        return match living.is_empty() {
            true => Verdict::Unproved(Doubt::OtherNamespace),
            false => Verdict::Alive(living.into_iter().collect()),
        };
    }
    let traces = Traces::of(run);
    let lives = |seen: &&Seen| !seen.process.ended && !seen.process.is_kernel;
    living.extend(
        look.seen.values().filter(lives).filter(|seen| traces.lead_to(seen, look)).map(living_of),
    );
    if !living.is_empty() {
        return Verdict::Alive(living.into_iter().collect());
    }
    if let Some(gap) = &look.gap {
        return Verdict::Unproved(Doubt::Gap(gap.clone()));
    }
    let is_hidden = |seen: &&Seen| seen.environment == Environment::Hidden;
    let hidden = look.seen.values().filter(lives).filter(is_hidden);
    let hidden: Vec<Living> =
        hidden.filter(|seen| may_descend(run, seen, look)).map(living_of).collect();
    match hidden.is_empty() {
        true => Verdict::Ended,
        false => Verdict::Unproved(Doubt::Hidden(hidden)),
    }
}

fn marked(look: &Look) -> BTreeSet<Living> {
    let is_marked = |seen: &&Seen| seen.environment == Environment::Marked && !seen.process.ended;
    look.seen.values().filter(is_marked).map(living_of).collect()
}

fn living_of(seen: &Seen) -> Living {
    Living { pid: seen.process.pid.as_raw_pid(), name: seen.process.name.clone() }
}

/// A member of a cgroup; its number is 0 where it is in a namespace that is not seen from here.
fn named(pid: i32, look: &Look) -> Living {
    let name = look.seen.get(&pid).map(|seen| seen.process.name.clone());
    Living { pid, name: name.unwrap_or_else(|| "?".to_owned()) }
}

/// What the recorded processes leave behind in others.
struct Traces<'a> {
    since: u64,
    /// The recorded processes: number and start.
    members: BTreeMap<i32, u64>,
    /// Groups and sessions that began in the run. Their number is that of the process which began
    /// them, and is given to nobody as long as somebody is in them.
    groups: BTreeSet<i32>,
    sessions: BTreeSet<i32>,
    run: &'a RunRecord,
}

impl<'a> Traces<'a> {
    fn of(run: &'a RunRecord) -> Self {
        let mut groups: BTreeSet<i32> = run.members.iter().map(|member| member.group).collect();
        let mut sessions: BTreeSet<i32> = run.members.iter().map(|member| member.session).collect();
        for not_of_it in [0, run.outside.group] {
            groups.remove(&not_of_it);
        }
        for not_of_it in [0, run.outside.session] {
            sessions.remove(&not_of_it);
        }
        let members = run.members.iter().map(|member| (member.pid, member.start)).collect();
        Self { since: run.since, members, groups, sessions, run }
    }

    fn lead_to(&self, seen: &Seen, look: &Look) -> bool {
        let process = &seen.process;
        // Nothing of the run is older than it.
        if process.start < self.since {
            return false;
        }
        let is_member = self
            .members
            .get(&process.pid.as_raw_pid())
            .is_some_and(|&start| start == 0 || start == process.start);
        is_member
            || (self.groups.contains(&process.group) && !self.is_anew(process.group, look))
            || (self.sessions.contains(&process.session) && !self.is_anew(process.session, look))
    }

    /// Whether a number of a group or session has been given to a process that is not of the run, since
    /// the old group or session had ended.
    fn is_anew(&self, number: i32, look: &Look) -> bool {
        let recorded = self.members.get(&number);
        let Some(now) = look.seen.get(&number) else { return false };
        let is_same = recorded.is_none_or(|&start| start == 0 || start == now.process.start);
        now.process.start < self.run.since || !is_same
    }
}

/// Whether somebody whose environment is hidden may be of the run. Those through whom it descends are
/// its parent, that one's parent and so on: who has lost a parent is given to one from whom that parent
/// descended. So the first who is older than the run must be one from whom the run descends.
fn may_descend(run: &RunRecord, seen: &Seen, look: &Look) -> bool {
    let mut process = &seen.process;
    if process.start < run.since {
        return false;
    }
    for _ in 0..=look.seen.len() {
        if process.start < run.since {
            let number = process.pid.as_raw_pid();
            return number == 1 || run.outside.ancestors.contains(&(number, process.start));
        }
        match look.seen.get(&process.parent) {
            Some(parent) => process = &parent.process,
            // It has ended since, or is outside of this namespace.
            None => return true,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::kept::{
        cgroup::{Cgroup, View},
        record::tests::record,
    };
    use crate::lock::proc::Process;

    /// A process of this number, start and parent, in the group and session of its own number.
    fn process(pid: i32, start: u64, parent: i32) -> Seen {
        let process = Process::hidden(pid, parent).expect("a number above 0");
        let name = format!("p{pid}");
        let process = Process { start, group: pid, session: pid, name, ..process };
        Seen { process, environment: Environment::Unmarked }
    }

    fn look(all: impl IntoIterator<Item = Seen>) -> Look {
        let ours = [process(1, 3, 0), process(42, 100, 1), process(50, 200, 1)];
        let all = ours.into_iter().chain(all);
        Look { seen: all.map(|seen| (seen.process.pid.as_raw_pid(), seen)).collect(), gap: None }
    }

    fn evidence(all: impl IntoIterator<Item = Seen>) -> Evidence {
        Evidence { place: Some(record().place), cgroup: None, look: look(all) }
    }

    fn by_numbers(all: impl IntoIterator<Item = Seen>) -> Verdict {
        judge(&record(), &evidence(all))
    }

    fn alive(pids: &[i32]) -> Verdict {
        let living = pids.iter().map(|&pid| Living { pid, name: format!("p{pid}") });
        Verdict::Alive(living.collect())
    }

    fn hidden(seen: Seen) -> Seen {
        Seen { environment: Environment::Hidden, ..seen }
    }

    #[test]
    fn a_recorded_process_lives_if_number_and_start_are_its_own() {
        assert_eq!(by_numbers([]), Verdict::Ended);
        assert_eq!(by_numbers([process(70, 5_001, 1)]), alive(&[70]));
        assert_eq!(by_numbers([process(70, 5_002, 1)]), Verdict::Ended, "the number is another's");
        let mut ended = process(70, 5_001, 1);
        ended.process.ended = true;
        assert_eq!(by_numbers([ended]), Verdict::Ended, "nobody has reaped it yet");
    }

    #[test]
    fn a_recorded_process_whose_start_was_hidden_lives_if_its_number_does() {
        let mut run = record();
        run.members[0].start = 0;
        let of = |seen| judge(&run, &evidence([seen]));
        assert_eq!(of(process(70, 9_000, 1)), alive(&[70]));
        assert_eq!(of(process(70, 4_999, 1)), Verdict::Ended, "it is older than the run");
    }

    #[test]
    fn whoever_has_the_mark_is_of_the_run() {
        let marked = Seen { environment: Environment::Marked, ..process(80, 9_000, 1) };
        assert_eq!(by_numbers([marked.clone()]), alive(&[80]));
        // Also where the cgroup is empty, or numbers mean nothing: somebody has moved it.
        let view = View { mount: "/sys/fs/cgroup".into(), root: 1 };
        let cgroup = Some(Cgroup { view, path: "/sys/fs/cgroup/run".into() });
        let run = RunRecord { cgroup, ..record() };
        let seen = Evidence { cgroup: Some(CgroupState::Empty), ..evidence([marked.clone()]) };
        assert_eq!(judge(&run, &seen), alive(&[80]));
        let place = Place { pid_namespace: 5, ..record().place };
        let seen = Evidence { place: Some(place), ..evidence([marked]) };
        assert_eq!(judge(&record(), &seen), alive(&[80]));
    }

    #[test]
    fn who_is_in_a_group_or_session_of_the_run_is_of_it() {
        let in_group = |start| {
            let mut seen = process(81, start, 1);
            seen.process.group = 70;
            seen
        };
        assert_eq!(by_numbers([in_group(9_000)]), alive(&[81]));
        assert_eq!(by_numbers([in_group(4_999)]), Verdict::Ended, "it is older than the run");
        // The number of the group has been given to a new process, which began a new group.
        assert_eq!(by_numbers([in_group(9_000), process(70, 8_000, 1)]), Verdict::Ended);
        // The session in which the run began is not the run's.
        let mut beside = process(82, 9_000, 42);
        beside.process.session = 41;
        assert_eq!(by_numbers([beside]), Verdict::Ended);
        let mut run = record();
        run.members[0].session = 70;
        let mut in_session = process(83, 9_000, 1);
        in_session.process.session = 70;
        assert_eq!(judge(&run, &evidence([in_session])), alive(&[83]));
    }

    #[test]
    fn who_is_hidden_is_in_doubt_only_where_it_may_descend_from_the_run() {
        let doubt = |pids: &[i32]| match alive(pids) {
            Verdict::Alive(living) => Verdict::Unproved(Doubt::Hidden(living)),
            other => other,
        };
        // Given to the first process, or to one from whom the run descends.
        assert_eq!(by_numbers([hidden(process(90, 9_000, 1))]), doubt(&[90]));
        assert_eq!(by_numbers([hidden(process(90, 9_000, 42))]), doubt(&[90]));
        assert_eq!(
            by_numbers([hidden(process(90, 9_000, 91)), process(91, 8_000, 42)]),
            doubt(&[90])
        );
        // Its parent has ended between two looks.
        assert_eq!(by_numbers([hidden(process(90, 9_000, 99))]), doubt(&[90]));
        assert_eq!(by_numbers([hidden(process(1, 3, 0))]), Verdict::Ended);
        // Older than the run, or started by somebody who has nothing to do with it.
        assert_eq!(by_numbers([hidden(process(90, 4_999, 1))]), Verdict::Ended);
        assert_eq!(by_numbers([hidden(process(90, 9_000, 50))]), Verdict::Ended);
        assert_eq!(
            by_numbers([hidden(process(90, 9_000, 91)), process(91, 8_000, 50)]),
            Verdict::Ended
        );
        let mut kernel = hidden(process(90, 9_000, 1));
        kernel.process.is_kernel = true;
        assert_eq!(by_numbers([kernel]), Verdict::Ended);
    }

    #[test]
    fn a_look_with_a_gap_proves_nothing() {
        for gap in [Gap::HiddenProcesses, Gap::Restless, Gap::Failed("no memory".to_owned())] {
            let look = Look { gap: Some(gap.clone()), ..look([]) };
            let seen = Evidence { look, ..evidence([]) };
            assert_eq!(judge(&record(), &seen), Verdict::Unproved(Doubt::Gap(gap)));
        }
    }

    #[test]
    fn another_boot_of_the_same_machine_has_ended_all() {
        let there = record().place;
        let boot = "another".to_owned();
        let of = |place: Place| {
            judge(&record(), &Evidence { place: Some(place), ..evidence([process(70, 5_001, 1)]) })
        };
        assert_eq!(of(Place { boot: boot.clone(), ..there.clone() }), Verdict::Ended);
        let elsewhere = Verdict::Unproved(Doubt::OtherMachine { host: "host-3".to_owned() });
        let machine = Some("cd".repeat(16));
        assert_eq!(of(Place { boot: boot.clone(), machine, ..there.clone() }), elsewhere);
        let host = "host-4".to_owned();
        assert_eq!(of(Place { boot: boot.clone(), host, ..there.clone() }), elsewhere);
        let container = Place { boot: boot.clone(), pid_namespace: 4_026_532_200, ..there.clone() };
        assert_eq!(of(container), Verdict::Unproved(Doubt::Container));
        // Without an id nobody knows which machine it was.
        let mut run = record();
        run.place.machine = None;
        let here = Place { boot, machine: None, ..there };
        let seen = Evidence { place: Some(here), ..evidence([]) };
        assert_eq!(judge(&run, &seen), elsewhere);
        let nowhere = Evidence { place: None, ..evidence([]) };
        assert_eq!(judge(&record(), &nowhere), Verdict::Unproved(Doubt::NoPlace));
    }

    #[test]
    fn numbers_of_another_namespace_prove_nothing() {
        for place in [
            Place { pid_namespace: 4_026_532_200, ..record().place },
            Place { time_namespace: 4_026_532_201, ..record().place },
        ] {
            let seen = Evidence { place: Some(place), ..evidence([]) };
            assert_eq!(judge(&record(), &seen), Verdict::Unproved(Doubt::OtherNamespace));
        }
    }

    #[test]
    fn a_cgroup_decides_whatever_the_processes_are_called() {
        let view = View { mount: "/sys/fs/cgroup".into(), root: 1 };
        let cgroup = Some(Cgroup { view, path: "/sys/fs/cgroup/run".into() });
        let run = RunRecord { cgroup, ..record() };
        let of = |state: CgroupState, place: Place| {
            let all = [process(70, 5_001, 1), hidden(process(90, 9_000, 1))];
            let evidence = evidence(all);
            judge(&run, &Evidence { cgroup: Some(state), place: Some(place), ..evidence })
        };
        let here = record().place;
        let container = Place { pid_namespace: 4_026_532_200, ..record().place };
        assert_eq!(of(CgroupState::Empty, here.clone()), Verdict::Ended);
        assert_eq!(of(CgroupState::Empty, container), Verdict::Ended, "it is seen from there, too");
        assert_eq!(of(CgroupState::Populated(vec![70]), here.clone()), alive(&[70]));
        let unnamed = Verdict::Alive(vec![Living { pid: 0, name: "?".to_owned() }]);
        assert_eq!(of(CgroupState::Populated(vec![0]), here.clone()), unnamed);
        assert_eq!(of(CgroupState::Populated(vec![]), here.clone()), alive(&[]));
        let elsewhere = Verdict::Unproved(Doubt::OtherCgroups);
        assert_eq!(of(CgroupState::Elsewhere, here.clone()), elsewhere);
        let unread = Verdict::Unproved(Doubt::UnreadCgroup("EIO".to_owned()));
        assert_eq!(of(CgroupState::Unread("EIO".to_owned()), here), unread);
    }
}
