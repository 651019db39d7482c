//! The leading master plans by itself: once a second it puts together what it knows, and begins what
//! the scheduler says (`schedule.rs`), unless somebody has paused it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sharklock_proto::{
    internal::v1::{
        BeginOperatorCommand, PauseScheduleCommand, RangeReport, ScheduleChoice,
        SetScheduleCommand, SetStoreDutyCommand, StoreHeartbeatRequest, StoreState,
        master_command::Body as Command,
    },
    v1::{
        GetScheduleResponse, PauseScheduleRequest, PlannedChange, RangeGoal, ScheduleSetting,
        SetScheduleRequest, SetScheduleResponse, SetStoreDutyRequest, SetStoreDutyResponse,
        SettingUnit,
    },
};
use sharklock_rangemap::{PeerId, RangeId, StoreId};

use super::{Asker, MasterCore};
use crate::{
    refusal::{Reason, Refusal},
    request::Reply,
    schedule::{
        self, Choices, DiskWatch, Duty, InFlight, Liveness, Plan, RangeView, Settings, StoreView,
        Unheard, Unit, View, Wanted,
    },
    state::{duty_from_wire, duty_to_wire, goal_to_wire},
};

/// How often everything is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// Plans that are shown.
const SHOWN_MAX: usize = 100;

/// What a leading master knows for its schedule beside the log and who leads: soft, and learned anew.
///
/// Invariants: `beginning` has the ranges whose operators the schedule has asked the log for, and that
/// have not been answered.
#[derive(Debug)]
pub(super) struct Scheduling {
    since: Duration,
    next: Duration,
    ranges: BTreeMap<RangeId, Figures>,
    stores: BTreeMap<StoreId, Load>,
    disks: DiskWatch,
    beginning: BTreeSet<RangeId>,
    /// When the schedule last asked for another leader of a range.
    moved: BTreeMap<RangeId, Duration>,
}

/// What the leader of a range has said of it.
#[derive(Debug)]
struct Figures {
    /// In this term, and since when it is known to lead in that.
    led: (u64, Duration),
    bytes: u64,
    load: u64,
    /// Since when the leader has not heard of each.
    unheard: BTreeMap<PeerId, Duration>,
}

/// What a store has said of itself.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    snapshots_in: u32,
    snapshots_out: u32,
    sync_p99: Duration,
}

impl Scheduling {
    pub(super) fn begin(now: Duration) -> Self {
        Self {
            since: now,
            next: now + EVERY,
            ranges: BTreeMap::new(),
            stores: BTreeMap::new(),
            disks: DiskWatch::default(),
            beginning: BTreeSet::new(),
            moved: BTreeMap::new(),
        }
    }

    /// A store beats.
    pub(super) fn beat(&mut self, store: StoreId, beat: &StoreHeartbeatRequest) {
        let StoreHeartbeatRequest { snapshots_in, snapshots_out, sync_p99_us, .. } = *beat;
        let sync_p99 = Duration::from_micros(sync_p99_us);
        self.stores.insert(store, Load { snapshots_in, snapshots_out, sync_p99 });
    }

    /// The leader of a range reports it.
    pub(super) fn report(&mut self, now: Duration, range: RangeId, report: &RangeReport) {
        // What an earlier leader says late is over.
        if self.ranges.get(&range).is_some_and(|known| known.led.0 > report.term) {
            return;
        }
        let before = self.ranges.remove(&range);
        let is_same = |figures: &Figures| figures.led.0 == report.term;
        let before = before.filter(is_same);
        let since = before.as_ref().map_or(now, |before| before.led.1);
        let unheard = report.unheard_peers.iter().map(|peer| {
            let known = before.as_ref().and_then(|it| it.unheard.get(&PeerId(*peer)).copied());
            (PeerId(*peer), known.unwrap_or(now))
        });
        let figures = Figures {
            led: (report.term, since),
            bytes: report.bytes,
            load: report.commands_per_second,
            unheard: unheard.collect(),
        };
        self.ranges.insert(range, figures);
    }

    /// The log has answered whether an operator of the schedule has begun.
    pub(super) fn begun(&mut self, range: RangeId) {
        self.beginning.remove(&range);
    }
}

impl MasterCore {
    /// With each tick.
    pub(super) fn follow_schedule(&mut self, now: Duration) {
        let limits = self.schedule_settings().disks;
        let Some(leading) = &mut self.leading else { return };
        if now < leading.scheduling.next {
            return;
        }
        leading.scheduling.next = now + EVERY;
        let p99s = leading.scheduling.stores.iter().map(|(store, load)| (*store, load.sync_p99));
        let p99s = p99s.collect();
        leading.scheduling.disks.observe(&limits, &p99s);
        if self.state().ranges().is_empty() {
            return;
        }
        let plans = schedule::plan(&self.view(now));
        for plan in plans {
            self.begin_planned(now, &plan);
        }
    }

    fn begin_planned(&mut self, now: Duration, plan: &Plan) {
        let begin = BeginOperatorCommand {
            range_id: plan.range.0,
            goal: Some(goal_of(plan)),
            by: String::new(),
            reason: plan.to_string(),
            class: plan.class.name().to_owned(),
        };
        let asker = Asker::Scheduled { range: plan.range };
        if self.ask_log(Command::BeginOperator(begin), asker).is_err() {
            return;
        }
        let scheduling = &mut self.leading.as_mut().expect("it leads").scheduling;
        scheduling.beginning.insert(plan.range);
        if let Wanted::Lead { .. } = plan.wanted {
            scheduling.moved.insert(plan.range, now);
        }
    }

    /// What the schedule is decided from.
    fn view(&self, now: Duration) -> View<'_> {
        let state = self.state();
        let leading = self.leading.as_ref().expect("only a leader plans");
        let is_paused = state.paused_by().is_some();
        let settings = Settings { is_paused, ..self.schedule_settings() };
        let stores = state.stores().iter().map(|(id, record)| {
            let (heard, silent_for, _) = leading.presence.of(now, *id);
            let load = leading.scheduling.stores.get(id).copied().unwrap_or_default();
            let view = StoreView {
                liveness: match heard {
                    StoreState::Down => Liveness::Down,
                    StoreState::Disconnected => Liveness::Disconnected,
                    _ => Liveness::Up,
                },
                silent_for,
                duty: record.duty,
                labels: &record.labels,
                snapshots_in: load.snapshots_in,
                snapshots_out: load.snapshots_out,
                slow: leading.scheduling.disks.slow(*id),
            };
            (*id, view)
        });
        View {
            now,
            leads_since: leading.scheduling.since,
            settings,
            stores: stores.collect(),
            ranges: self.range_views(now),
            operators: self.in_flight(now),
        }
    }

    fn range_views(&self, now: Duration) -> Vec<RangeView<'_>> {
        let leading = self.leading.as_ref().expect("only a leader plans");
        let mut ranges: Vec<_> = self.state().ranges().iter().collect();
        ranges.sort_by_key(|descriptor| descriptor.range);
        let view = |descriptor: &'_ sharklock_rangemap::Descriptor| {
            let figures = leading.scheduling.ranges.get(&descriptor.range);
            let unheard = figures.into_iter().flat_map(|it| &it.unheard);
            let since = figures.map_or(leading.scheduling.since, |it| it.led.1);
            (figures, unheard.map(|(peer, at)| (*peer, *at)).collect::<Vec<_>>(), since)
        };
        let whole = |descriptor| {
            let (figures, unheard, since) = view(descriptor);
            let silent = |(peer, at)| Unheard { peer, silent_for: now.saturating_sub(at) };
            RangeView {
                descriptor,
                leader: self.leader_of(descriptor.range).map(|leader| leader.store),
                led_for: now.saturating_sub(since),
                moved_at: leading.scheduling.moved.get(&descriptor.range).copied(),
                load: figures.map_or(0, |it| it.load),
                bytes: figures.map_or(0, |it| it.bytes),
                unheard: unheard.into_iter().map(silent).collect(),
            }
        };
        ranges.into_iter().map(whole).collect()
    }

    /// Operators that run, and those that are on their way into the log.
    fn in_flight(&self, now: Duration) -> BTreeMap<RangeId, InFlight> {
        let leading = self.leading.as_ref().expect("only a leader plans");
        let running = self.state().operators().running().map(|operator| {
            let since = leading.operations.since(operator.id).unwrap_or(now);
            (operator.range, InFlight { goal: operator.goal, class: operator.class, since })
        });
        // Their ranges are left alone until the log has answered.
        let beginning = leading.scheduling.beginning.iter().map(|range| {
            let goal = crate::operator::Goal::LeaveJoint;
            (*range, InFlight { goal, class: None, since: now })
        });
        beginning.chain(running).collect()
    }

    /// What would be done next, and what is in the way, for people.
    pub(super) fn schedule(&self, now: Duration) -> GetScheduleResponse {
        let survey = schedule::survey(&self.view(now));
        let planned = |plan: &Plan| PlannedChange {
            range_id: plan.range.0,
            goal: Some(goal_of(plan)),
            class: plan.class.name().to_owned(),
            reason: plan.to_string(),
        };
        let paused_by = self.state().paused_by();
        GetScheduleResponse {
            is_paused: paused_by.is_some(),
            paused_by: paused_by.unwrap_or_default().to_owned(),
            plans: survey.plans.iter().take(SHOWN_MAX).map(planned).collect(),
            warnings: survey.warnings.iter().map(ToString::to_string).collect(),
            settings: self.shown_settings(self.state().choices()),
        }
    }

    /// As operators have set it; what they have not set follows this master's configuration.
    pub(super) fn schedule_settings(&self) -> Settings {
        self.settings_with(self.state().choices())
    }

    fn settings_with(&self, choices: &Choices) -> Settings {
        let replicas = self.settings.replicas as usize;
        Settings { replicas, ..Settings::default() }.with(choices)
    }

    /// All settings with these choices, for people.
    pub(super) fn shown_settings(&self, choices: &Choices) -> Vec<ScheduleSetting> {
        let settings = self.settings_with(choices);
        let shown = |key: &schedule::Key| ScheduleSetting {
            key: key.name.to_owned(),
            value: key.of(&settings),
            unit: match key.unit {
                Unit::Count => SettingUnit::Unspecified,
                Unit::Time => SettingUnit::Milliseconds,
                Unit::PerMille => SettingUnit::PerMille,
            }
            .into(),
            is_default: !choices.contains_key(key.name),
            meaning: key.meaning.to_owned(),
        };
        schedule::KEYS.iter().map(shown).collect()
    }

    /// Somebody changes settings: all that are named, or none.
    pub(super) fn set_schedule(
        &mut self,
        number: u64,
        request: &SetScheduleRequest,
    ) -> Result<Option<Reply>, Refusal> {
        let invalid = |why: String| Refusal::new(Reason::Invalid, format!("settings: {why}"));
        let SetScheduleRequest { settings, reset, dry_run, .. } = request;
        let mut named: Vec<&str> = settings.iter().map(|it| it.key.as_str()).collect();
        named.extend(reset.iter().map(String::as_str));
        for (at, name) in named.iter().enumerate() {
            schedule::key(name).map_err(invalid)?;
            if named[..at].contains(name) {
                return Err(invalid(format!("{name} is named twice")));
            }
        }
        if named.is_empty() {
            return Err(invalid("nothing is named that is to change".to_owned()));
        }
        let mut choices = self.state().choices().clone();
        choices.retain(|key, _| !reset.contains(key));
        choices.extend(settings.iter().map(|it| (it.key.clone(), it.value)));
        self.settings_with(&choices).check().map_err(invalid)?;
        if *dry_run {
            let settings = self.shown_settings(&choices);
            return Ok(Some(Reply::Settings(SetScheduleResponse { settings })));
        }
        let choice = |it: &ScheduleSetting| ScheduleChoice { key: it.key.clone(), value: it.value };
        let choices = settings.iter().map(choice).collect();
        let command = SetScheduleCommand { choices, reset: reset.clone() };
        self.ask_log(Command::SetSchedule(command), Asker::Setting { number })?;
        Ok(None)
    }

    pub(super) fn pause_schedule(
        &mut self,
        number: u64,
        request: PauseScheduleRequest,
    ) -> Result<Option<Reply>, Refusal> {
        let PauseScheduleRequest { is_paused, operator: by } = request;
        let command = Command::PauseSchedule(PauseScheduleCommand { is_paused, by });
        self.ask_log(command, Asker::Pausing { number })?;
        Ok(None)
    }

    /// Somebody says what a store is for.
    pub(super) fn set_store_duty(
        &mut self,
        now: Duration,
        number: u64,
        request: &SetStoreDutyRequest,
    ) -> Result<Option<Reply>, Refusal> {
        let store = StoreId(request.store_id);
        let duty = duty_from_wire(request.duty());
        let Some(record) = self.state().stores().get(&store) else {
            let message = format!("store {store} is not known: `sharklock stores ls` lists them");
            return Err(Refusal::new(Reason::StoreUnknown, message));
        };
        if record.duty == Duty::Gone && duty != Duty::Gone {
            let message = format!(
                "store {store} was declared gone, and is never taken in again: start its machine \
                 with an empty directory and another address"
            );
            return Err(Refusal::new(Reason::StoreUnfit, message));
        }
        let leading = self.leading.as_ref().expect("only a leader is asked");
        if duty == Duty::Gone && leading.presence.of(now, store).0 == StoreState::Up {
            let message = format!(
                "store {store} is alive: drain it (`sharklock stores drain {store}`), or stop its \
                 process first"
            );
            return Err(Refusal::new(Reason::StoreUnfit, message));
        }
        if request.dry_run {
            return Ok(Some(Reply::Duty(self.duty_of(now, store, duty))));
        }
        let command =
            Command::SetStoreDuty(SetStoreDutyCommand { store_id: store.0, duty: request.duty });
        self.ask_log(command, Asker::Dutiful { number, store })?;
        Ok(None)
    }

    /// A store with this duty, for people.
    pub(super) fn duty_of(
        &self,
        now: Duration,
        store: StoreId,
        duty: Duty,
    ) -> SetStoreDutyResponse {
        let state = self.state();
        let held = state.ranges().iter().filter(|it| it.on_store(store).is_some());
        let held: Vec<RangeId> = held.map(|descriptor| descriptor.range).collect();
        let leads =
            |range: &&RangeId| self.leader_of(**range).is_some_and(|leader| leader.store == store);
        let mut view = self.view(now);
        // What is in the way for good is asked, not what passes in half a minute.
        view.settings.patience = Duration::ZERO;
        if let Some(it) = view.stores.get_mut(&store) {
            it.duty = duty;
        }
        SetStoreDutyResponse {
            duty: duty_to_wire(duty).into(),
            replicas: held.len() as u64,
            leaders: held.iter().filter(leads).count() as u64,
            warnings: schedule::warnings(&view).iter().map(ToString::to_string).collect(),
        }
    }
}

/// The replica that comes gets its id from the log.
fn goal_of(plan: &Plan) -> RangeGoal {
    goal_to_wire(plan.wanted.goal(PeerId(0)))
}
