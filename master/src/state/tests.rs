use std::collections::BTreeMap;

use proptest::prelude::*;
use sharklock_proto::{
    Identity,
    internal::v1::{
        AdmitMasterCommand, DismissMasterCommand, FirstRangeCommand, ForgetMasterCommand,
        FoundMastersCommand, MasterRow, RangesCommand, RecoveryRow,
    },
    v1::{OperatorState, Recovery, RecoveryState},
};
use sharklock_rangemap::{Bounds, Epoch, PeerId, RangeId, Replica, Role};

use super::*;
use crate::operator::Goal;

/// The promise of the masters, said as simply as possible.
#[derive(Debug, Default)]
struct Naive {
    /// With the number of the last start, and the process that has it.
    stores: BTreeMap<Identity, (u64, u64, u8)>,
    ids_given: u64,
    ranges: BTreeMap<u64, (u64, u64)>,
    has_first: bool,
    /// Those that run, by their ranges.
    running: BTreeMap<u64, u64>,
    /// In the order in which they ended.
    ended: Vec<u64>,
}

fn ident(of: u8) -> Identity {
    Identity::from_bytes([of; 16])
}

fn range(id: u64, conf_ver: u64) -> Descriptor {
    let replica = Replica { peer: PeerId(1), store: StoreId(1), role: Role::Voter };
    Descriptor::new(RangeId(id), Bounds::ALL, Epoch { conf_ver, version: 1 }, vec![replica])
}

#[derive(Clone, Debug)]
enum Step {
    /// Directory, address, start, process.
    Register(u8, u8, u8, u8),
    Allocate(u32),
    First,
    Report(u64),
    /// An operator of this range begins.
    Begin(u64),
    /// The operator ends that begins with this one of the ids.
    End(u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6u8, 0..3u8, 1..6u8, 0..2u8)
            .prop_map(|(of, at, start, life)| Step::Register(of, at, start, life)),
        (1..IDS_MAX).prop_map(Step::Allocate),
        Just(Step::First),
        (1..9u64).prop_map(Step::Report),
        (1..5u64).prop_map(Step::Begin),
        (0..40u64).prop_map(Step::End),
        Just(Step::Restart),
    ]
}

fn command(step: &Step) -> Option<Command> {
    Some(match step {
        Step::Register(of, at, start, life) => Command::RegisterStore(RegisterStoreCommand {
            ident: ident(*of).to_wire(),
            address: format!("host-{at}:7710"),
            version: "1".into(),
            feature_level: 3,
            start: (*start).into(),
            life: vec![*life; 16].into(),
            ..RegisterStoreCommand::default()
        }),
        Step::Allocate(count) => Command::AllocateIds(AllocateIdsCommand { count: *count }),
        Step::First => Command::FirstRange(FirstRangeCommand {
            descriptor: Some(RangeDescriptor::from(&range(1, 1))),
            feature_level: 3,
        }),
        Step::Report(conf_ver) => Command::Ranges(RangesCommand {
            descriptors: vec![RangeDescriptor::from(&range(1, *conf_ver))],
        }),
        Step::Begin(range_id) => Command::BeginOperator(BeginOperatorCommand {
            range_id: *range_id,
            goal: Some(goal_to_wire(Goal::Add { peer: PeerId(0), to: StoreId(4) })),
            ..BeginOperatorCommand::default()
        }),
        Step::End(id) => Command::EndOperator(EndOperatorCommand {
            operator_id: FIRST_ID + id,
            state: OperatorState::Done.into(),
            ..EndOperatorCommand::default()
        }),
        Step::Restart => return None,
    })
}

fn check(naive: &mut Naive, step: &Step, answer: Answer) {
    match (step, answer) {
        (Step::Register(of, _, start, life), answer) => {
            let next = naive.stores.len() as u64 + 1;
            let said = (u64::from(*start), *life);
            let (id, last, speaks) =
                naive.stores.entry(ident(*of)).or_insert((next, said.0, said.1));
            let expected = if said.0 > *last || said == (*last, *speaks) {
                (*last, *speaks) = said;
                Answer::Store(StoreId(*id))
            } else {
                Answer::Outdated(StoreId(*id))
            };
            assert_eq!(answer, expected, "one id per directory, in order; starts never fall");
        }
        (Step::Allocate(count), Answer::Ids(first)) => {
            assert_eq!(first, FIRST_ID + naive.ids_given, "never given before");
            naive.ids_given += u64::from(*count);
        }
        (Step::First, Answer::Done) => {
            if !naive.has_first {
                naive.has_first = true;
                naive.ranges.entry(1).or_insert((1, 1));
            }
        }
        (Step::Report(conf_ver), Answer::Done) => {
            naive.has_first = true;
            let known = naive.ranges.entry(1).or_insert((1, *conf_ver));
            known.1 = known.1.max(*conf_ver);
        }
        (Step::Begin(range), Answer::Operator(id)) => {
            assert_eq!(id, FIRST_ID + naive.ids_given, "never given before");
            // The replica that comes has the next one.
            naive.ids_given += 2;
            assert_eq!(naive.running.insert(*range, id), None, "a range has one at most");
        }
        (Step::Begin(range), Answer::Running(id)) => {
            assert_eq!(naive.running.get(range), Some(&id));
        }
        (Step::End(id), Answer::Operator(_)) => {
            let id = FIRST_ID + id;
            let ended = naive.running.extract_if(.., |_, running| *running == id);
            naive.ended.extend(ended.map(|(_, id)| id));
        }
        other => panic!("{other:?}"),
    }
}

/// All rows of the image, in the order of their keys.
fn encoded_rows(state: &ClusterState) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows: Vec<_> = state.rows().map(|(key, row)| (key.encode(), row)).collect();
    rows.sort();
    rows
}

/// A report of a range whose names begin at some letter and end at another.
fn report() -> impl Strategy<Value = Descriptor> {
    (1..6u64, 0..4u8, 1..5u8, 1..4u64, 1..4u64).prop_map(|(id, from, len, version, conf_ver)| {
        let bounds = Bounds { start: vec![b'a' + from], end: vec![b'a' + from + len] };
        Descriptor { bounds, epoch: Epoch { conf_ver, version }, ..range(id, 1) }
    })
}

/// The image as the engine keeps it: rows that changed since the last flush, and the header.
#[derive(Default)]
struct Image(BTreeMap<Vec<u8>, Vec<u8>>);

impl Image {
    fn flush(&mut self, state: &mut ClusterState) {
        for (key, row) in state.take_dirty() {
            match row {
                Some(row) => _ = self.0.insert(key, row),
                None => _ = self.0.remove(&key),
            }
        }
    }

    fn restore(&mut self, state: &mut ClusterState) -> ClusterState {
        self.flush(state);
        let rows: Vec<_> = self.0.clone().into_iter().collect();
        assert_eq!(rows, encoded_rows(state), "what was flushed is the whole image");
        let restored = ClusterState::restore(&state.header(), rows).expect("it is its own");
        assert_eq!(restored.state_hash(), state.state_hash());
        assert_eq!(&restored, state);
        restored
    }
}

proptest! {
    #[test]
    fn it_does_what_a_simple_one_does_over_restarts(
        steps in prop::collection::vec(step(), 0..60)
    ) {
        let mut state = ClusterState::empty();
        let (mut naive, mut image) = (Naive::default(), Image::default());
        for (index, step) in (1..).zip(&steps) {
            let Some(command) = command(step) else {
                state = image.restore(&mut state);
                continue;
            };
            let at = EntryAt { index, term: 1 };
            let answers = state.apply(at, 1, &encode_batch(vec![command]));
            check(&mut naive, step, answers[0]);
            let epochs = state.ranges().iter().map(|range| {
                (range.range.0, (range.epoch.version, range.epoch.conf_ver))
            });
            prop_assert_eq!(&epochs.collect::<BTreeMap<_, _>>(), &naive.ranges);
            let running = state.operators().running().map(|it| (it.range.0, it.id));
            prop_assert_eq!(&running.collect::<BTreeMap<_, _>>(), &naive.running);
        }
    }
}

proptest! {
    #[test]
    fn the_hash_that_is_kept_up_to_date_is_that_of_all_rows(
        reports in prop::collection::vec(report(), 0..30),
        stores in prop::collection::vec((0..6u8, 0..3u8, 1..6u8), 0..10),
    ) {
        let (mut state, mut image) = (ClusterState::empty(), Image::default());
        let reports = reports.iter().map(|it| Command::Ranges(RangesCommand {
            descriptors: vec![RangeDescriptor::from(it)],
        }));
        let stores = stores.iter().map(|(of, at, start)| Step::Register(*of, *at, *start, 1));
        let stores = stores.filter_map(|step| command(&step));
        for (index, command) in (1..).zip(reports.chain(stores)) {
            state.apply(EntryAt { index, term: 1 }, 1, &encode_batch(vec![command]));
            prop_assert_eq!(state.rows_hash, state_rows::rows_hash(&state));
        }
        image.restore(&mut state);
    }
}

fn of_masters() -> impl Strategy<Value = Command> {
    let founder = |of: u8| MasterRow {
        member_id: of.into(),
        ident: ident(of).to_wire(),
        address: format!("m{of}:7720"),
        ..MasterRow::default()
    };
    let found = move |count: u8| {
        let masters = (1..=count).map(founder).collect();
        Command::FoundMasters(FoundMastersCommand { masters })
    };
    let admit = |(of, instead_of_member_id): (u8, u64)| {
        let (ident, address) = (ident(of).to_wire(), format!("m{of}:7720"));
        Command::AdmitMaster(AdmitMasterCommand { ident, address, instead_of_member_id })
    };
    let dismiss =
        |(member_id, stays)| Command::DismissMaster(DismissMasterCommand { member_id, stays });
    prop_oneof![
        1 => (1..4u8).prop_map(found),
        3 => (1..9u8, 0..9u64).prop_map(admit),
        3 => (0..9u64, any::<bool>()).prop_map(dismiss),
        2 => (0..9u64).prop_map(|member_id| Command::ForgetMaster(ForgetMasterCommand { member_id })),
    ]
}

proptest! {
    /// An id is one directory's for ever, and what is known comes back from the image.
    #[test]
    fn masters_come_and_go_over_restarts_and_no_id_is_given_twice(
        commands in prop::collection::vec(of_masters(), 0..60)
    ) {
        let (mut state, mut image) = (ClusterState::empty(), Image::default());
        let founders = Command::FoundMasters(FoundMastersCommand::default());
        let mut given = BTreeMap::new();
        for (index, command) in (1..).zip([founders].into_iter().chain(commands)) {
            state.apply(EntryAt { index, term: 1 }, 1, &encode_batch(vec![command]));
            prop_assert_eq!(state.rows_hash, state_rows::rows_hash(&state));
            for (id, record) in state.members().iter() {
                let ident = record.member.ident;
                prop_assert_eq!(*given.entry(id).or_insert(ident), ident);
                prop_assert_eq!(state.members().of(ident).map(|(id, _)| id), Some(id));
            }
            if index % 7 == 0 {
                state = image.restore(&mut state);
            }
        }
        image.restore(&mut state);
    }
}

/// A recovery of a range, decided by its epoch of today or by an older one; the lost stores; who goes on.
fn recover(state: &ClusterState, (range, is_fresh, lost, store): (u64, bool, u8, u64)) -> Command {
    let known = state.ranges().range(RangeId(range)).map(|it| it.epoch);
    let known = known.unwrap_or(Epoch { version: 0, conf_ver: 0 });
    let lost = (1..5).filter(|store| lost & (1 << store) != 0);
    let recovery = Recovery {
        range_id: range,
        state: RecoveryState::Running.into(),
        lost_store_ids: lost.collect(),
        store_id: store,
        peer_id: 1,
        conf_ver: known.conf_ver + 2,
        version: known.version + 2,
        generation: 1,
        ..Recovery::default()
    };
    Command::RecoverRange(RecoverRangeCommand {
        recovery: Some(RecoveryRow { recovery: Some(recovery), ..RecoveryRow::default() }),
        base_version: known.version,
        base_conf_ver: known.conf_ver + u64::from(!is_fresh),
    })
}

proptest! {
    /// A range has one that runs at most; it ends when the range is reported with its epoch, or when whoever
    /// was to go on is lost. All of it is done, or nothing; and it comes back from the image.
    #[test]
    fn recoveries_are_whole_over_restarts(
        steps in prop::collection::vec((0..4u8, (1..4u64, any::<bool>(), any::<u8>(), 1..5u64)), 0..60)
    ) {
        let (mut state, mut image) = (ClusterState::empty(), Image::default());
        let mut peers = BTreeSet::new();
        let apply = |state: &mut ClusterState, command: Command| {
            state.apply(EntryAt { index: 1, term: 1 }, 1, &encode_batch(vec![command]))[0]
        };
        for of in 0..4 {
            apply(&mut state, command(&Step::Register(of, of, 1, 1)).expect("it is one"));
        }
        for (what, decided) in steps {
            let range = RangeId(decided.0);
            match what {
                0 => {
                    let known = state.ranges().range(range).map_or(1, |it| it.epoch.conf_ver);
                    let reported = Descriptor {
                        bounds: Bounds { start: vec![range.0 as u8], end: vec![range.0 as u8 + 1] },
                        ..super::tests::range(range.0, known + u64::from(decided.2 % 4))
                    };
                    let descriptors = vec![RangeDescriptor::from(&reported)];
                    apply(&mut state, Command::Ranges(RangesCommand { descriptors }));
                    let is_over = |it: &RecoveryRecord| reported.epoch.conf_ver < it.epoch.conf_ver;
                    prop_assert!(state.recoveries().of(range).is_none_or(is_over));
                }
                1 => _ = apply(&mut state, command(&Step::Begin(range.0)).expect("it is one")),
                2 => state = image.restore(&mut state),
                _ => {
                    let before = state.clone();
                    let command = recover(&state, decided);
                    let running = before.recoveries().of(range).cloned();
                    match apply(&mut state, command) {
                        Answer::Recovery(id) => {
                            let begun = state.recoveries().of(range).expect("it runs").clone();
                            prop_assert_eq!(begun.id, id);
                            prop_assert!(decided.1 && peers.insert(begun.as_peer));
                            prop_assert!(state.operators().of(range).is_none());
                            let gone = |it: &StoreId| state.stores()[it].duty == Duty::Gone;
                            prop_assert!(begun.lost.iter().all(gone));
                            prop_assert!(running.is_none_or(|it| begun.lost.contains(&it.store)));
                        }
                        answer => {
                            prop_assert_eq!(answer, Answer::Overtaken);
                            prop_assert_eq!(&state, &before);
                        }
                    }
                }
            }
            prop_assert_eq!(state.rows_hash, state_rows::rows_hash(&state));
        }
        image.restore(&mut state);
    }
}

/// People look at what has ended of late, and the state must not grow for ever.
#[test]
fn the_last_that_have_ended_are_remembered() {
    let (mut state, mut image) = (ClusterState::empty(), Image::default());
    let apply = |state: &mut ClusterState, step: Step| {
        let command = command(&step).expect("it is one");
        let at = EntryAt { index: 1, term: 1 };
        state.apply(at, 1, &encode_batch(vec![command]))[0]
    };
    apply(&mut state, Step::Begin(1));
    for _ in 0..300 {
        let Answer::Operator(id) = apply(&mut state, Step::Begin(2)) else { panic!("it can") };
        apply(&mut state, Step::End(id - FIRST_ID));
    }
    let ids: Vec<u64> = state.operators().iter().map(|it| it.id).collect();
    assert_eq!(ids.len(), 257, "256 have ended, and one runs");
    assert_eq!((ids[0], ids[1]), (FIRST_ID, FIRST_ID + 2 + 44 * 2), "the oldest are forgotten");
    assert_eq!(state.rows_hash, state_rows::rows_hash(&state));
    // One that ran for all that time ends, which somebody waits for (simulator, seed 960000435).
    apply(&mut state, Step::End(0));
    let ids: Vec<u64> = state.operators().iter().map(|it| it.id).collect();
    assert_eq!((ids.len(), ids[0], ids[1]), (256, FIRST_ID, FIRST_ID + 2 + 45 * 2));
    assert_eq!(state.rows_hash, state_rows::rows_hash(&state));
    image.restore(&mut state);
}

/// A recovery that ran while a thousand others began and were over.
#[test]
fn the_last_recovery_that_is_over_is_remembered() {
    let (mut state, mut image) = (ClusterState::empty(), Image::default());
    let apply = |state: &mut ClusterState, command: Command| {
        state.apply(EntryAt { index: 1, term: 1 }, 1, &encode_batch(vec![command]))[0]
    };
    let old = recover(&state, (1, true, 0, 1));
    apply(&mut state, old);
    // Each is overtaken by the next, since its survivor is lost.
    for _ in 0..1_100 {
        let next = recover(&state, (2, true, 1 << 3, 3));
        apply(&mut state, next);
    }
    let ids = |state: &ClusterState| state.recoveries().iter().map(|it| it.id).collect::<Vec<_>>();
    assert_eq!((ids(&state).len(), ids(&state)[0]), (1_024 + 2, FIRST_ID));
    let reported = Descriptor { bounds: Bounds::ALL, ..range(1, 1_000) };
    let descriptors = vec![RangeDescriptor::from(&reported)];
    apply(&mut state, Command::Ranges(RangesCommand { descriptors }));
    assert_eq!((ids(&state).len(), ids(&state)[0]), (1_024 + 1, FIRST_ID), "it is the last");
    assert_eq!(state.rows_hash, state_rows::rows_hash(&state));
    image.restore(&mut state);
}

#[test]
#[should_panic(expected = "newer format")]
fn an_entry_of_a_newer_format_stops_the_master() {
    ClusterState::empty().apply(EntryAt { index: 6, term: 6 }, 1, &[9, 1, 2]);
}

#[test]
#[should_panic(expected = "an unknown command")]
fn an_unknown_command_stops_the_master() {
    let mut data = vec![FORMAT];
    MasterBatch { commands: vec![MasterCommand { body: None }] }.encode_raw(&mut data);
    ClusterState::empty().apply(EntryAt { index: 6, term: 6 }, 1, &data);
}

#[test]
fn the_image_of_a_newer_program_is_not_called_corrupt() {
    let mut header = ClusterState::empty().header();
    header[0] += 1;
    let refused = ClusterState::restore(&header, Vec::new()).expect_err("it is newer");
    let why = "it has format 2, and this program reads 1: upgrade this server";
    assert_eq!(refused.to_string(), why);
}

#[test]
fn a_corrupt_image_is_refused() {
    let mut state = ClusterState::empty();
    let register = command(&Step::Register(1, 1, 1, 1)).expect("a command");
    state.apply(EntryAt { index: 6, term: 6 }, 1, &encode_batch(vec![register]));
    let (header, rows) = (state.header(), encoded_rows(&state));
    let mut unknown = rows.clone();
    unknown[0].0 = b"?".to_vec();
    let mut cut = rows.clone();
    cut[0].1.truncate(3);
    for rows in [unknown, cut] {
        ClusterState::restore(&header, rows).expect_err("it is damaged");
    }
    ClusterState::restore(&[], rows.clone()).expect_err("no header");
    ClusterState::restore(&ClusterState::empty().header(), rows).expect_err("ids never shrink");
}
