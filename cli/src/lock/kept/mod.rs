//! `sharklock lock NAME --keep --state-file F -- CMD`: a lock that outlives a crash of this process.
//!
//! The command's next run begins when it is proved that nothing of the run before lives, and not
//! before. Until then nothing is done to the lock, which stays kept.

mod beginning;
mod cgroup;
mod file;
mod look;
mod place;
mod proof;
mod record;
mod recorder;
mod refusal;
mod taking_back;

use std::{cell::Cell, time::Duration};

use sharklock_client::{Client, Condition, Guard, LeaseRule, LockMode, LostReason, Unreclaimed};
use tokio::time::{Instant, sleep};

pub use self::{
    beginning::Beginning,
    recorder::Recorder,
    refusal::{may_stay, not_opened, stays_kept},
};
use self::{
    file::{RecordFile, Recorded},
    look::look,
    place::Place,
    proof::{Evidence, Verdict, judge},
    record::RunRecord,
};
use super::notices::Notices;
use crate::{
    args::LockArgs,
    exit::{Failure, INTERNAL, LOCK_USAGE, LOST},
};

/// How long a start waits for the end of what an earlier run left: when a `sharklock lock` was killed,
/// the kernel kills the command's first process after it.
const SETTLES_MAX: Duration = Duration::from_secs(2);
/// A start that waits for longer says so.
const SILENCE_MAX: Duration = Duration::from_millis(200);
/// Between two looks at all processes.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A kept lock: its state file is open, and belongs to this process alone.
#[derive(Debug)]
pub struct Keep {
    file: RecordFile,
    name: String,
    mode: LockMode,
    recorded: Recorded,
    unreclaimed: Vec<Unreclaimed>,
    /// The lock may be this session's again any moment: nothing may give it back.
    taking_back: Cell<bool>,
}

impl Keep {
    /// What contradicts `--keep`.
    pub fn check(args: &LockArgs) -> Result<(), Failure> {
        if !args.keep {
            return Ok(());
        }
        let contradicts = |option: &str, why: &str, hint: &str| {
            let error = format!("--keep cannot go with {option}");
            Err(Failure::new(LOCK_USAGE, error).cause(why).hint(hint))
        };
        let ends_early = "a kept lock ends only with its command, or when an operator ends it";
        if args.max_hold.is_some() {
            return contradicts("--max-hold", ends_early, "leave one of the two out");
        }
        if args.ask_grace.is_some() {
            return contradicts("--ask-grace", ends_early, "leave one of the two out");
        }
        if args.leave_descendants {
            return contradicts(
                "--leave-descendants",
                "what is left running could not be told from the rest of a run that crashed",
                "leave one of the two out, or end what is left with --end-descendants",
            );
        }
        if args.command.is_empty() {
            let error = "--keep needs a command";
            return Err(Failure::new(LOCK_USAGE, error)
                .cause("whether others have stopped after a crash cannot be proved")
                .hint(format!("sharklock lock {} --keep --state-file F -- CMD", args.name)));
        }
        Ok(())
    }

    /// Reads what an earlier run has left; none without `--keep`.
    ///
    /// # Errors
    /// The state file is of another lock, or the record cannot be relied on.
    pub fn open(args: &LockArgs, client: &Client) -> Result<Option<Self>, Failure> {
        let (true, Some(path)) = (args.keep, &args.state_file) else { return Ok(None) };
        let file = RecordFile::beside(path);
        let recorded = file.read()?;
        let (name, mode) = (args.name.clone(), args.mode());
        let unreclaimed = client.unreclaimed();
        let run = match &recorded {
            Recorded::Run(run) => Some((&*run.name, run.mode)),
            Recorded::Nothing | Recorded::NoFile => None,
        };
        let held = unreclaimed.iter().map(|hold| (&*hold.name, hold.mode));
        if let Some((theirs, their_mode)) =
            run.into_iter().chain(held).find(|it| *it != (&name, mode))
        {
            return Err(refusal::other_lock(path, (theirs, their_mode), (&name, mode)));
        }
        // From here on a hold in the state file has a record beside it.
        if recorded == Recorded::NoFile && unreclaimed.iter().all(|hold| hold.token.is_none()) {
            file.write(None).map_err(|error| file.unwritten(&error))?;
        }
        let taking_back = Cell::new(false);
        Ok(Some(Self { file, name, mode, recorded, unreclaimed, taking_back }))
    }

    /// Takes the lock back if an earlier run has left it: after the proof that nothing of that runs.
    ///
    /// # Errors
    /// Nothing is proved, or the lock cannot be had back now: it stays kept.
    pub async fn take_back(
        &self,
        client: &Client,
        args: &LockArgs,
        deadline: Option<Instant>,
        notices: &Notices,
    ) -> Result<Option<Guard>, Failure> {
        self.prove(args, deadline, notices).await?;
        if self.unreclaimed.is_empty() {
            return Ok(None);
        }
        self.taking_back.set(true);
        let guard = taking_back::take_back(client, args, deadline, notices).await?;
        let Some(guard) = guard else {
            self.taking_back.set(false);
            return Ok(None);
        };
        match agree(&guard, args).await {
            Ok(()) => Ok(Some(guard)),
            Err(failure) => {
                // As after a crash: a guard that is dropped is a release.
                std::mem::forget(guard);
                Err(failure)
            }
        }
    }

    /// Whether the lock may be this session's although no guard is out.
    pub fn is_taking_back(&self) -> bool {
        self.taking_back.get()
    }

    /// Returns when it is proved that nothing of the run before lives, or its owner says so.
    async fn prove(
        &self,
        args: &LockArgs,
        deadline: Option<Instant>,
        notices: &Notices,
    ) -> Result<(), Failure> {
        let run = match &self.recorded {
            Recorded::Nothing => return Ok(()),
            Recorded::NoFile => return self.without_record(args, notices),
            Recorded::Run(run) => run,
        };
        let begin = Instant::now();
        let patience = if args.try_only { Duration::ZERO } else { SETTLES_MAX };
        let until = deadline.map_or(begin + patience, |at| at.min(begin + patience));
        let mut told = false;
        loop {
            let verdict = judge(run, &evidence(run));
            let may_pass = match &verdict {
                Verdict::Ended => return self.is_over(run),
                Verdict::Alive(_) => true,
                Verdict::Unproved(_) if args.assume_ended == Some(run.token) => {
                    notices.say(format_args!(
                        "nothing of the run with token {} lives any more, as --assume-ended says",
                        run.token
                    ));
                    return self.is_over(run);
                }
                Verdict::Unproved(doubt) => doubt.may_pass(),
            };
            let now = Instant::now();
            if !may_pass || now >= until {
                return Err(refusal::unproved(run, &verdict));
            }
            if now >= begin + SILENCE_MAX && !std::mem::replace(&mut told, true) {
                notices.say(refusal::waiting(run, &verdict));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    fn is_over(&self, run: &RunRecord) -> Result<(), Failure> {
        if let Some(cgroup) = &run.cgroup {
            // It is in nobody's way, and is removed with the one that it is in.
            let _ = cgroup.remove();
        }
        self.file.write(None).map_err(|error| self.file.unwritten(&error))
    }

    /// A hold without a record is another program's, or its record was removed.
    fn without_record(&self, args: &LockArgs, notices: &Notices) -> Result<(), Failure> {
        let Some(token) = self.unreclaimed.iter().find_map(|hold| hold.token) else {
            return Ok(());
        };
        if args.assume_ended != Some(token.as_u64()) {
            return Err(refusal::no_record(&self.name, self.file.path(), token));
        }
        notices.say(format_args!(
            "nothing runs under the hold with token {token} any more, as --assume-ended says"
        ));
        self.file.write(None).map_err(|error| self.file.unwritten(&error))
    }

    /// A run did not begin after all.
    pub fn nothing_runs(&self, notices: &Notices) {
        let written = match self.file.read() {
            Ok(Recorded::Run(run)) => self.is_over(&run),
            Ok(Recorded::Nothing | Recorded::NoFile) => Ok(()),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = written {
            // The next start proves it anew.
            notices.say(failure.told());
        }
    }

    /// A run is about to begin under this guard.
    pub fn begin(&self, guard: &Guard, args: &LockArgs) -> Result<Beginning, Failure> {
        let lock = (&*self.name, self.mode, guard.token().as_u64());
        Beginning::new(self.file.clone(), lock, args.proof)
            .map_err(|error| Failure::new(INTERNAL, "cannot begin a run").cause(error))
    }
}

fn evidence(run: &RunRecord) -> Evidence {
    // The cgroup first: who leaves it meanwhile is found by the mark.
    let cgroup = run.cgroup.as_ref().map(cgroup::Cgroup::state);
    Evidence { place: Place::of_this_process(), cgroup, look: look(&run.mark, run.since) }
}

/// The earlier run may have agreed on something else.
async fn agree(guard: &Guard, args: &LockArgs) -> Result<(), Failure> {
    let agreed = guard.agreement();
    let wanted =
        Condition { lease: LeaseRule::Hold, lock_delay: args.lock_delay, ..Condition::default() };
    // A lease only grows.
    let ttl = agreed.ttl.max(args.ttl);
    if (agreed.condition, agreed.ttl) == (wanted, ttl) {
        return Ok(());
    }
    match guard.set_condition(wanted, ttl).await {
        Ok(_) => renewed(guard, agreed.ttl).await,
        Err(error) => {
            let told = format!("lock {:?} is taken back, but not as this command asks", args.name);
            Err(Failure::new(INTERNAL, told).cause(error))
        }
    }
}

/// A longer lease counts from the first renewal that was sent after it was agreed. Before, what
/// remains of the shorter one would be taken for the end of the longer.
async fn renewed(guard: &Guard, before: Duration) -> Result<(), Failure> {
    while guard.ttl() > before && guard.remaining() <= before {
        tokio::select! {
            reason = guard.lost() => {
                let lost = format!("lock {:?} was lost when it was taken back", guard.name());
                return Err(Failure::new(LOST, lost).cause(reason));
            }
            () = sleep(LOOK_AGAIN) => {}
        }
    }
    Ok(())
}

/// Whether the hold stays after its guard was lost for this reason, or for none that is known: it is
/// not given back then, since the next start takes it back.
pub fn stays(lost: Option<&LostReason>) -> bool {
    match lost {
        None
        | Some(
            LostReason::Unrenewed
            | LostReason::Orphaned
            | LostReason::Unknown
            | LostReason::OtherCluster
            | LostReason::SessionEnded,
        ) => true,
        // Somebody waits for the word that the command has stopped, or nothing is left to keep.
        Some(_) => false,
    }
}
