//! The leading master plans by itself: once a second it puts together what it knows, and begins what
//! the scheduler says (`schedule.rs`), unless somebody has paused it.

use std::{collections::BTreeMap, time::Duration};

use sharklock_proto::{
    internal::v1::{
        BeginOperatorCommand, PauseScheduleCommand, RangeReport, ScheduleChoice,
        SetScheduleCommand, SetStoreDutyCommand, StoreHeartbeatRequest, StoreState,
        master_command::Body as Command,
    },
    v1::{
        GetScheduleResponse, PauseScheduleRequest, PlannedChange, RangeGoal, ScheduleSetting,
        SetScheduleRequest, SetScheduleResponse, SetStoreDutyRequest, SetStoreDutyResponse,
        SettingUnit, StoreDuty,
    },
};
use sharklock_rangemap::{Descriptor, PeerId, RangeId, StoreId};

use super::{Asker, MasterCore, rebalancing::Order};
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
/// The id of a replica to come, which the log gives when its operator begins.
const NOT_GIVEN_YET: PeerId = PeerId(0);
/// Longest name of a setting that is worth looking up, bytes: it stands in refusals, which go through
/// headers.
const KEY_BYTES_MAX: usize = 64;
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
    /// Of each store, of the last minute.
    sync_p99s: BTreeMap<StoreId, Duration>,
    disks: DiskWatch,
    beginning: BTreeMap<RangeId, InFlight>,
    /// When the schedule last asked for another leader of a range.
    moved: BTreeMap<RangeId, Duration>,
    /// Somebody wants stores to be balanced now.
    pub(super) order: Option<Order>,
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

impl Scheduling {
    pub(super) fn begin(now: Duration) -> Self {
        Self {
            since: now,
            next: now + EVERY,
            ranges: BTreeMap::new(),
            sync_p99s: BTreeMap::new(),
            disks: DiskWatch::default(),
            beginning: BTreeMap::new(),
            moved: BTreeMap::new(),
            order: None,
        }
    }

    /// A store beats.
    pub(super) fn beat(&mut self, store: StoreId, beat: &StoreHeartbeatRequest) {
        self.sync_p99s.insert(store, Duration::from_micros(beat.sync_p99_us));
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
        if self.leading.as_ref().is_none_or(|leading| now < leading.scheduling.next) {
            return;
        }
        let limits = self.schedule_settings().disks;
        let Scheduling { next, disks, sync_p99s, .. } =
            &mut self.leading.as_mut().expect("it leads").scheduling;
        *next = now + EVERY;
        disks.observe(&limits, sync_p99s);
        if self.state().ranges().is_empty() {
            return;
        }
        let plans = schedule::plan(&self.view(now));
        self.follow_order(now, &plans);
        for plan in plans {
            self.begin_planned(now, &plan);
        }
    }

    fn begin_planned(&mut self, now: Duration, plan: &Plan) {
        let begin = BeginOperatorCommand {
            range_id: plan.range.0,
            goal: Some(goal_of(plan)),
            by: self.ordered_by(plan),
            reason: plan.to_string(),
            class: plan.class.name().to_owned(),
        };
        let asker = Asker::Scheduled { range: plan.range };
        if self.ask_log(Command::BeginOperator(begin), asker).is_err() {
            return;
        }
        let scheduling = &mut self.leading.as_mut().expect("it leads").scheduling;
        let goal = plan.wanted.goal(NOT_GIVEN_YET);
        let begun = InFlight { goal, class: Some(plan.class), since: now };
        scheduling.beginning.insert(plan.range, begun);
        if let Wanted::Lead { .. } = plan.wanted {
            scheduling.moved.insert(plan.range, now);
        }
    }

    /// What the schedule is decided from.
    pub(super) fn view(&self, now: Duration) -> View<'_> {
        let state = self.state();
        let leading = self.leading.as_ref().expect("only a leader plans");
        let is_paused = state.paused_by().is_some();
        let settings = Settings { is_paused, ..self.schedule_settings() };
        let stores = state.stores().iter().map(|(id, record)| {
            let (heard, silent_for, _) = leading.presence.of(now, *id);
            let view = StoreView {
                liveness: match heard {
                    StoreState::Down => Liveness::Down,
                    StoreState::Disconnected => Liveness::Disconnected,
                    _ => Liveness::Up,
                },
                silent_for,
                duty: record.duty,
                labels: &record.labels,
                slow: leading.scheduling.disks.slow(*id),
                level: record.feature_level,
            };
            (*id, view)
        });
        View {
            now,
            leads_since: leading.scheduling.since,
            ordered_at: leading.scheduling.order.as_ref().map(|order| order.at),
            settings,
            stores: stores.collect(),
            ranges: self.range_views(now),
            operators: self.in_flight(now),
        }
    }

    fn range_views(&self, now: Duration) -> Vec<RangeView<'_>> {
        let mut ranges: Vec<_> = self.state().ranges().iter().collect();
        ranges.sort_by_key(|descriptor| descriptor.range);
        ranges.into_iter().map(|descriptor| self.range_view(now, descriptor)).collect()
    }

    fn range_view<'a>(&'a self, now: Duration, descriptor: &'a Descriptor) -> RangeView<'a> {
        let Scheduling { since, ranges, moved, .. } =
            &self.leading.as_ref().expect("only a leader plans").scheduling;
        let figures = ranges.get(&descriptor.range);
        let unheard = figures.into_iter().flat_map(|it| &it.unheard);
        let silent = |(peer, since): (&PeerId, &Duration)| Unheard {
            peer: *peer,
            silent_for: now.saturating_sub(*since),
        };
        let leader = self.leader_of(descriptor.range);
        RangeView {
            descriptor,
            leader: leader.map(|leader| leader.store),
            led_for: now.saturating_sub(figures.map_or(*since, |it| it.led.1)),
            moved_at: moved.get(&descriptor.range).copied(),
            load: figures.map_or(0, |it| it.load),
            bytes: figures.map_or(0, |it| it.bytes),
            level: leader.map_or(0, |leader| leader.level),
            unheard: unheard.map(silent).collect(),
        }
    }

    /// Operators that run, and those that are on their way into the log.
    pub(super) fn in_flight(&self, now: Duration) -> BTreeMap<RangeId, InFlight> {
        let leading = self.leading.as_ref().expect("only a leader plans");
        let running = self.state().operators().running().map(|operator| {
            let since = leading.operations.since(operator.id).unwrap_or(now);
            (operator.range, InFlight { goal: operator.goal, class: operator.class, since })
        });
        let beginning = leading.scheduling.beginning.iter().map(|(range, it)| (*range, *it));
        beginning.chain(running).collect()
    }

    /// What would be done next, and what is in the way, for people.
    pub(super) fn schedule(&self, now: Duration) -> GetScheduleResponse {
        let survey = schedule::survey(&self.view(now));
        let paused_by = self.state().paused_by();
        GetScheduleResponse {
            is_paused: paused_by.is_some(),
            paused_by: paused_by.unwrap_or_default().to_owned(),
            plans: shown(&survey.plans),
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
            if name.len() > KEY_BYTES_MAX {
                let message = format!("a name of {} bytes; at most {KEY_BYTES_MAX}", name.len());
                return Err(invalid(message));
            }
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
        let Ok(duty) = StoreDuty::try_from(request.duty) else {
            let message = format!(
                "duty: {} is none that this master knows: 0 serves, 1 becomes empty, 2 is gone",
                request.duty
            );
            return Err(Refusal::new(Reason::Invalid, message));
        };
        let duty = duty_from_wire(duty);
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
        // Leaderships leave a store first, and hardly anything is in their way: what its replicas wait
        // for is told at once.
        for range in view.ranges.iter_mut().filter(|it| it.leader == Some(store)) {
            let voters = range.descriptor.replicas.iter().filter(|it| it.role.votes());
            let mut others = voters.map(|it| it.store).filter(|it| *it != store);
            let is_up =
                |it: &StoreId| view.stores.get(it).is_some_and(|it| it.liveness == Liveness::Up);
            range.leader = others.find(is_up).or(range.leader);
        }
        SetStoreDutyResponse {
            duty: duty_to_wire(duty).into(),
            replicas: held.len() as u64,
            leaders: held.iter().filter(leads).count() as u64,
            warnings: schedule::warnings(&view).iter().map(ToString::to_string).collect(),
        }
    }
}

/// The first plans, for people.
pub(super) fn shown(plans: &[Plan]) -> Vec<PlannedChange> {
    let planned = |plan: &Plan| PlannedChange {
        range_id: plan.range.0,
        goal: Some(goal_of(plan)),
        class: plan.class.name().to_owned(),
        reason: plan.to_string(),
    };
    plans.iter().take(SHOWN_MAX).map(planned).collect()
}

/// The replica that comes gets its id from the log.
fn goal_of(plan: &Plan) -> RangeGoal {
    goal_to_wire(plan.wanted.goal(NOT_GIVEN_YET))
}
