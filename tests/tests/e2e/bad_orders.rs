//! Every order of an operator that makes no sense gets the answer that is documented for it, over the
//! wire and from the command line, and changes nothing.

use std::time::Duration;

use serde_json::Value;
use sharklock_proto::v1::{
    CancelOperatorRequest, ChangeMastersRequest, ChangeRangeRequest, ListOperatorsRequest,
    MasterGoal, PauseScheduleRequest, RangeEpoch, RangeGoal, RebalanceRequest, ScheduleSetting,
    SetScheduleRequest, SetStoreDutyRequest, SplitRangeRequest, StoreDuty,
    admin_service_client::AdminServiceClient,
    master_goal::{Add, Goal as Masters},
    range_goal::{Goal, LeaveJoint, Move},
    split_range_request::Which,
};
use sharklock_tests::cluster::{CHAOS, Cluster, SOON};
use sharklock_tests::wait::eventually;
use sharklock_tests::wire::{domain, reason};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::alone;
use crate::moves::{leader, node_of, range, stores};
use crate::ranges::{cli, cli_json};

/// A refusal is read by people, and goes through headers.
const SAID_BYTES_MAX: usize = 1_000;

type Admin = AdminServiceClient<Channel>;

/// What an operator may ask for.
#[derive(Clone, Debug)]
enum Order {
    Change(ChangeRangeRequest),
    Split(SplitRangeRequest),
    Duty(SetStoreDutyRequest),
    Set(SetScheduleRequest),
    Pause(PauseScheduleRequest),
    Rebalance(RebalanceRequest),
    Cancel(CancelOperatorRequest),
    Show(ListOperatorsRequest),
    Masters(ChangeMastersRequest),
}

impl Order {
    async fn ask(self, admin: &Admin) -> Result<(), Status> {
        let mut admin = admin.clone();
        match self {
            Self::Change(request) => admin.change_range(request).await.map(drop),
            Self::Split(request) => admin.split_range(request).await.map(drop),
            Self::Duty(request) => admin.set_store_duty(request).await.map(drop),
            Self::Set(request) => admin.set_schedule(request).await.map(drop),
            Self::Pause(request) => admin.pause_schedule(request).await.map(drop),
            Self::Rebalance(request) => admin.rebalance(request).await.map(drop),
            Self::Cancel(request) => admin.cancel_operator(request).await.map(drop),
            Self::Show(request) => admin.list_operators(request).await.map(drop),
            Self::Masters(request) => admin.change_masters(request).await.map(drop),
        }
    }

    /// The same as a dry run, where there is one.
    fn dry(self) -> Option<Self> {
        let dry_run = true;
        Some(match self {
            Self::Change(request) => Self::Change(ChangeRangeRequest { dry_run, ..request }),
            Self::Split(request) => Self::Split(SplitRangeRequest { dry_run, ..request }),
            Self::Duty(request) => Self::Duty(SetStoreDutyRequest { dry_run, ..request }),
            Self::Set(request) => Self::Set(SetScheduleRequest { dry_run, ..request }),
            Self::Rebalance(request) => Self::Rebalance(RebalanceRequest { dry_run, ..request }),
            Self::Masters(request) => Self::Masters(ChangeMastersRequest { dry_run, ..request }),
            Self::Pause(_) | Self::Cancel(_) | Self::Show(_) => return None,
        })
    }
}

/// An order, the answer to it, and what it is on the command line, with its exit code there.
struct Row {
    order: Order,
    code: Code,
    reason: &'static str,
    says: &'static str,
    typed: Option<(Vec<String>, i32)>,
}

/// A row that cannot be typed, or would be the same.
fn row(order: Order, code: Code, reason: &'static str, says: &'static str) -> Row {
    Row { order, code, reason, says, typed: None }
}

impl Row {
    /// Typed so, it is refused with code 1.
    fn typed(self, words: &str) -> Self {
        let words = words.split(' ').map(str::to_owned).collect();
        Self { typed: Some((words, 1)), ..self }
    }

    /// Typed so, it is refused before anybody is asked, or as a field that is wrong.
    fn usage(self, words: &str) -> Self {
        let words = words.split(' ').map(str::to_owned).collect();
        Self { typed: Some((words, 2)), ..self }
    }

    /// What is wrong with the answers, over the wire, as a dry run, and on the command line.
    async fn faults(self, admin: &Admin, endpoints: &[String]) -> Vec<String> {
        let Self { order, code, reason: why, says, typed } = self;
        let mut faults = Vec::new();
        let all = [Some(order.clone()), order.clone().dry()];
        for order in all.into_iter().flatten() {
            let asked: String = format!("{order:?}").chars().take(300).collect();
            let Err(status) = order.ask(admin).await else {
                faults.push(format!("{asked}: it was done"));
                continue;
            };
            let found = (status.code(), reason(&status), domain(&status));
            let said = status.message();
            let is_right = found == (code, why.to_owned(), "sharklock".to_owned())
                && said.contains(says)
                && said.len() <= SAID_BYTES_MAX;
            if !is_right {
                let said: String = said.chars().take(SAID_BYTES_MAX).collect();
                faults.push(format!("{asked}: {found:?} {said}"));
            }
        }
        let Some((words, exit)) = typed else { return faults };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (found, _, err) = cli(endpoints, &words).await;
        if found != Some(exit) || (exit == 1 && !err.contains(says)) {
            faults.push(format!("{words:?}: {found:?} {err}"));
        }
        faults
    }

    async fn check(self, admin: &Admin, endpoints: &[String]) {
        assert_eq!(self.faults(admin, endpoints).await, [""; 0]);
    }
}

fn change(range_id: u64, goal: Option<Goal>) -> Order {
    let goal = Some(RangeGoal { goal });
    Order::Change(ChangeRangeRequest { range_id, goal, ..Default::default() })
}

fn moves(from_store_id: u64, to_store_id: u64) -> Option<Goal> {
    Some(Goal::Move(Move { from_store_id, to_store_id }))
}

fn duty(store_id: u64, duty: i32) -> Order {
    Order::Duty(SetStoreDutyRequest { store_id, duty, ..Default::default() })
}

fn set(settings: &[(&str, u64)], reset: &[&str]) -> Order {
    let setting = |(key, value): &(&str, u64)| ScheduleSetting {
        key: (*key).to_owned(),
        value: *value,
        ..Default::default()
    };
    Order::Set(SetScheduleRequest {
        settings: settings.iter().map(setting).collect(),
        reset: reset.iter().map(|key| (*key).to_owned()).collect(),
        ..Default::default()
    })
}

fn split(which: Option<Which>, at: Option<&str>, epoch: Option<RangeEpoch>) -> Order {
    let at = at.map(str::to_owned);
    Order::Split(SplitRangeRequest { which, at, epoch, ..Default::default() })
}

fn masters(goal: Option<Masters>) -> Order {
    let goal = Some(MasterGoal { goal });
    Order::Masters(ChangeMastersRequest { goal, ..Default::default() })
}

fn adds(address: &str, instead_of_member_id: u64) -> Order {
    masters(Some(Masters::Add(Add { address: address.to_owned(), instead_of_member_id })))
}

const BAD: Code = Code::InvalidArgument;
const FAILED: Code = Code::FailedPrecondition;

/// About range 1, which is on the stores of `has` and led by `led`; `spare` has none of it.
fn rows_of_ranges(has: &[u64], led: u64, spare: u64) -> Vec<Row> {
    let (first, other) = (has[0], has[1]);
    let typed_move =
        |range: &str, from: u64, to: u64| format!("ranges move {range} --from {from} --to {to}");
    vec![
        row(change(0, moves(first, spare)), BAD, "BAD_RANGE", "set range_id")
            .usage(&typed_move("0", first, spare)),
        row(
            change(99, moves(first, spare)),
            Code::NotFound,
            "RANGE_UNKNOWN",
            "`sharklock ranges ls`",
        )
        .typed(&typed_move("99", first, spare)),
        row(change(u64::MAX, moves(first, spare)), Code::NotFound, "RANGE_UNKNOWN", "ranges ls"),
        row(change(1, None), BAD, "BAD_GOAL", "goal: none is set"),
        row(change(1, moves(0, spare)), BAD, "BAD_GOAL", "goal.move.from_store_id: 0 is no store"),
        row(change(1, moves(first, 0)), BAD, "BAD_GOAL", "goal.move.to_store_id: 0 is no store"),
        row(change(1, moves(first, 77)), Code::NotFound, "STORE_UNKNOWN", "`sharklock stores ls`")
            .typed(&typed_move("1", first, 77)),
        row(change(1, moves(first, u64::MAX)), Code::NotFound, "STORE_UNKNOWN", "stores ls"),
        row(change(1, moves(first, first)), FAILED, "REPLICA_THERE", "choose another")
            .typed(&typed_move("1", first, first)),
        row(change(1, moves(first, other)), FAILED, "REPLICA_THERE", "`sharklock stores ls`")
            .typed(&typed_move("1", first, other)),
        row(change(1, moves(spare, spare)), FAILED, "NO_REPLICA_THERE", "have")
            .typed(&typed_move("1", spare, spare)),
        row(change(1, moves(77, spare)), FAILED, "NO_REPLICA_THERE", "have")
            .typed(&typed_move("1", 77, spare)),
        row(
            change(1, Some(Goal::LeadStoreId(spare))),
            FAILED,
            "NO_REPLICA_THERE",
            "it cannot lead",
        )
        .typed(&format!("ranges transfer-leader 1 --to {spare}")),
        row(change(1, Some(Goal::LeadStoreId(led))), FAILED, "NOTHING_TO_DO", "is so already")
            .typed(&format!("ranges transfer-leader 1 --to {led}")),
        row(change(1, Some(Goal::LeadStoreId(77))), Code::NotFound, "STORE_UNKNOWN", "stores ls")
            .typed("ranges transfer-leader 1 --to 77"),
        row(change(1, Some(Goal::AddStoreId(other))), FAILED, "REPLICA_THERE", "choose another")
            .typed(&format!("ranges add-replica 1 --to {other}")),
        row(change(1, Some(Goal::AddStoreId(77))), Code::NotFound, "STORE_UNKNOWN", "stores ls")
            .typed("ranges add-replica 1 --to 77"),
        row(change(1, Some(Goal::RemoveStoreId(spare))), FAILED, "NO_REPLICA_THERE", "have")
            .typed(&format!("ranges remove-replica 1 --from {spare}")),
        row(change(1, Some(Goal::RemoveStoreId(77))), FAILED, "NO_REPLICA_THERE", "have")
            .typed("ranges remove-replica 1 --from 77"),
        row(change(1, Some(Goal::LeaveJoint(LeaveJoint {}))), FAILED, "NOTHING_TO_DO", "already"),
    ]
}

fn rows_of_splits() -> Vec<Row> {
    let one = || Some(Which::RangeId(1));
    let old = Some(RangeEpoch { conf_ver: 0, version: 1 });
    let ahead = Some(RangeEpoch { conf_ver: 99, version: 99 });
    vec![
        row(split(None, None, None), BAD, "BAD_RANGE", "range"),
        row(split(Some(Which::RangeId(0)), None, None), BAD, "BAD_RANGE", "range")
            .usage("ranges split 0"),
        row(split(Some(Which::RangeId(99)), None, None), Code::NotFound, "RANGE_UNKNOWN", "range")
            .typed("ranges split 99"),
        row(split(one(), None, None), FAILED, "SPLIT_NO_MIDDLE", "say where")
            .typed("ranges split 1"),
        row(split(one(), Some("m"), old), FAILED, "RANGE_CHANGED", "epoch"),
        row(split(one(), Some("m"), ahead), FAILED, "RANGE_CHANGED", "epoch"),
        row(split(one(), Some(""), None), BAD, "BAD_LOCK_NAME", "1 to 512 bytes")
            .usage("ranges split 1 --at "),
        row(split(one(), Some("a\nb"), None), BAD, "BAD_LOCK_NAME", "remove or encode it"),
        row(split(one(), Some("x"), None), FAILED, "SPLIT_AT_BOUND", "bound")
            .typed("ranges split 1 --at x"),
        row(split(one(), Some("xx"), None), FAILED, "SPLIT_OUTSIDE", "range")
            .typed("ranges split 1 --at xx"),
    ]
}

fn rows_of_stores() -> Vec<Row> {
    let (drains, gone) = (StoreDuty::Draining.into(), StoreDuty::Gone.into());
    vec![
        row(duty(0, drains), Code::NotFound, "STORE_UNKNOWN", "`sharklock stores ls` lists them")
            .typed("stores drain 0"),
        row(duty(77, drains), Code::NotFound, "STORE_UNKNOWN", "`sharklock stores ls` lists them")
            .typed("stores drain 77 --wait"),
        row(duty(77, gone), Code::NotFound, "STORE_UNKNOWN", "`sharklock stores ls` lists them")
            .typed("stores remove 77"),
        row(duty(77, 0), Code::NotFound, "STORE_UNKNOWN", "`sharklock stores ls` lists them")
            .typed("stores undrain 77"),
        row(duty(1, gone), FAILED, "STORE_UNFIT", "drain it (`sharklock stores drain 1`)")
            .typed("stores remove 1"),
        row(duty(1, 99), BAD, "BAD_GOAL", "duty: 99"),
        row(duty(1, -1), BAD, "BAD_GOAL", "duty: -1").usage("stores drain -1"),
    ]
}

fn rows_of_the_schedule() -> Vec<Row> {
    let long = "k".repeat(20_000);
    vec![
        row(set(&[("speed", 9)], &[]), BAD, "BAD_GOAL", "choose from replicas")
            .usage("schedule set speed=9"),
        row(set(&[], &["speed"]), BAD, "BAD_GOAL", "choose from replicas")
            .usage("schedule set speed=default"),
        row(set(&[(&long, 9)], &[]), BAD, "BAD_GOAL", "a name of 20000 bytes; at most 64"),
        row(set(&[], &[]), BAD, "BAD_GOAL", "nothing is named").usage("schedule set"),
        row(set(&[("replicas", 3), ("replicas", 5)], &[]), BAD, "BAD_GOAL", "named twice")
            .usage("schedule set replicas=3 replicas=5"),
        row(set(&[("replicas", 2)], &[]), BAD, "BAD_GOAL", "it must be 1, 3, 5 or 7")
            .usage("schedule set replicas=2"),
        row(set(&[("replicas", 0)], &[]), BAD, "BAD_GOAL", "it must be 1, 3, 5 or 7")
            .usage("schedule set replicas=0"),
        row(set(&[("replicas", u64::MAX)], &[]), BAD, "BAD_GOAL", "it must be 1, 3, 5 or 7"),
        row(set(&[("coming", 4), ("coming2", 4)], &[]), BAD, "BAD_GOAL", "no setting"),
        row(set(&[("coming", 0)], &[]), BAD, "BAD_GOAL", "to stop the schedule, pause it")
            .usage("schedule set coming=0"),
        row(set(&[("tolerance", 0)], &[]), BAD, "BAD_GOAL", "from 10 to 500")
            .usage("schedule set tolerance=0%"),
        row(set(&[("patience", 0)], &[]), BAD, "BAD_GOAL", "from 1 s to 3600 s")
            .usage("schedule set patience=0s"),
        row(set(&[("cool-down", u64::MAX)], &[]), BAD, "BAD_GOAL", "cool-down")
            .usage("schedule set cool-down=99999h"),
    ]
}

fn rows_of_operators() -> Vec<Row> {
    let unknown = |id: u64| {
        let (cancel, show) = (
            CancelOperatorRequest { operator_id: id, ..Default::default() },
            ListOperatorsRequest { operator_id: id },
        );
        (Order::Cancel(cancel), Order::Show(show))
    };
    let says = "`sharklock ops ls` lists them";
    let mut rows = Vec::new();
    for id in [77, u64::MAX] {
        let (cancel, show) = unknown(id);
        let typed = |what: &str| format!("ops {what} {id}");
        rows.push(row(cancel, Code::NotFound, "OPERATOR_UNKNOWN", says).typed(&typed("cancel")));
        rows.push(
            row(show.clone(), Code::NotFound, "OPERATOR_UNKNOWN", says).typed(&typed("show")),
        );
        rows.push(row(show, Code::NotFound, "OPERATOR_UNKNOWN", says).typed(&typed("wait")));
    }
    rows.push(row(unknown(0).0, Code::NotFound, "OPERATOR_UNKNOWN", says).typed("ops cancel 0"));
    rows
}

fn rows_of_masters() -> Vec<Row> {
    let remove = |id| masters(Some(Masters::RemoveMemberId(id)));
    let lead = |id| masters(Some(Masters::LeadMemberId(id)));
    vec![
        row(masters(None), BAD, "BAD_GOAL", "goal: none is set"),
        row(remove(77), Code::NotFound, "MASTER_UNKNOWN", "`sharklock masters ls` lists them")
            .typed("masters remove 77"),
        row(remove(0), Code::NotFound, "MASTER_UNKNOWN", "`sharklock masters ls` lists them")
            .typed("masters remove 0"),
        row(lead(77), Code::NotFound, "MASTER_UNKNOWN", "`sharklock masters ls` lists them")
            .typed("masters transfer-leader --to 77"),
        row(adds("", 0), BAD, "BAD_GOAL", "like b.example:7720"),
        row(adds(&"a".repeat(20_000), 0), BAD, "BAD_GOAL", "address: 20000 bytes; 1 to 260"),
        row(adds("127.0.0.1:9", 0), FAILED, "MASTER_UNFIT", "start it there with")
            .typed("masters add 127.0.0.1:9"),
        row(adds("127.0.0.1:9", 77), Code::NotFound, "MASTER_UNKNOWN", "masters ls")
            .typed("masters add 127.0.0.1:9 --replace 77"),
    ]
}

/// Whoever asks has a name that is too long, or no text.
fn rows_of_names() -> Vec<Row> {
    let mut rows = Vec::new();
    for name in ["x".repeat(257), "a\u{7}b".to_owned()] {
        let operator = || name.clone();
        let goal = Some(RangeGoal { goal: moves(1, 2) });
        let masters = Some(MasterGoal { goal: Some(Masters::RemoveMemberId(1)) });
        let which = Some(Which::RangeId(1));
        let orders = [
            Order::Change(ChangeRangeRequest {
                range_id: 1,
                goal,
                operator: operator(),
                ..Default::default()
            }),
            Order::Split(SplitRangeRequest { which, operator: operator(), ..Default::default() }),
            Order::Duty(SetStoreDutyRequest {
                store_id: 1,
                operator: operator(),
                ..Default::default()
            }),
            Order::Set(SetScheduleRequest { operator: operator(), ..Default::default() }),
            Order::Pause(PauseScheduleRequest { is_paused: true, operator: operator() }),
            Order::Rebalance(RebalanceRequest { operator: operator(), ..Default::default() }),
            Order::Cancel(CancelOperatorRequest { operator_id: 1, operator: operator() }),
            Order::Masters(ChangeMastersRequest {
                goal: masters,
                operator: operator(),
                ..Default::default()
            }),
        ];
        rows.extend(orders.map(|order| row(order, BAD, "BAD_OPERATOR", "operator")));
    }
    rows
}

/// All that an order may change.
async fn snapshot(endpoints: &[String]) -> Vec<Value> {
    let fields = |value: &Value, names: &[&str]| {
        names.iter().map(|name| value[*name].clone()).collect::<Value>()
    };
    let each = |list: &Value, names: &[&str]| {
        list.as_array().expect("a list").iter().map(|it| fields(it, names)).collect::<Value>()
    };
    let ask = async |words: &[&str]| cli_json(endpoints, words).await;
    let ranges = ask(&["ranges", "ls"]).await;
    let stores = ask(&["stores", "ls"]).await;
    let schedule = ask(&["schedule", "show"]).await;
    let masters = ask(&["masters", "ls"]).await;
    vec![
        each(&ranges["ranges"], &["range_id", "start", "voter_store_ids", "conf_ver", "version"]),
        each(&stores["stores"], &["store_id", "duty"]),
        fields(&schedule, &["is_paused", "settings"]),
        each(&masters["masters"], &["member_id", "address", "is_voter", "is_leaving"]),
        ask(&["ops", "ls"]).await["operators"].clone(),
    ]
}

async fn admin(cluster: &Cluster) -> Admin {
    let endpoint = Endpoint::from_shared(cluster.endpoint(0)).expect("an address");
    AdminServiceClient::new(endpoint.connect().await.expect("it listens"))
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_make_no_sense_get_the_documented_answer_and_change_nothing() {
    let _alone = alone().await;
    let cluster = Cluster::start(4, CHAOS).await;
    cluster.until_healthy().await;
    let (endpoints, admin) = (cluster.endpoints(), admin(&cluster).await);
    cli_json(&endpoints, &["ranges", "split", "1", "--at", "x", "--wait"]).await;
    let has = stores(&range(&endpoints).await);
    let spare = (1..=4).find(|store| !has.contains(store)).expect("one of four has none");
    let led = leader(&endpoints).await;
    let before = snapshot(&endpoints).await;
    let rows = [
        rows_of_ranges(&has, led, spare),
        rows_of_splits(),
        rows_of_stores(),
        rows_of_the_schedule(),
        rows_of_operators(),
        rows_of_masters(),
        rows_of_names(),
    ];
    let mut faults = Vec::new();
    for row in rows.into_iter().flatten() {
        faults.extend(row.faults(&admin, &endpoints).await);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert_eq!(snapshot(&endpoints).await, before, "none of them has changed anything");
}

/// Draining is allowed at any time, since it waits; it says what it waits for.
#[tokio::test(flavor = "multi_thread")]
async fn what_would_leave_too_few_is_refused_or_says_what_it_waits_for() {
    let _alone = alone().await;
    let mut cluster = Cluster::start(3, CHAOS).await;
    cluster.until_healthy().await;
    let (endpoints, admin) = (cluster.endpoints(), admin(&cluster).await);
    let before = snapshot(&endpoints).await;
    for store in ["1", "2", "3"] {
        let (code, out, _) = cli(&endpoints, &["stores", "drain", store, "--dry-run"]).await;
        assert_eq!(code, Some(0));
        assert!(out.contains("warning") && out.contains("add a store"), "{out}");
    }
    assert_eq!(snapshot(&endpoints).await, before, "a dry run does nothing");
    cli_json(&endpoints, &["schedule", "set", "patience=1s"]).await;
    let wait = ["stores", "drain", "2", "--wait", "--timeout", "2s"];
    let (code, out, err) = cli(&endpoints, &wait).await;
    assert_eq!(code, Some(3), "{out}{err}");
    assert!(out.contains("add a store"), "{out}");
    assert_eq!(stores(&range(&endpoints).await), [1, 2, 3]);
    let fit = row(change(1, Some(Goal::LeadStoreId(2))), FAILED, "STORE_UNFIT", "stores undrain 2");
    fit.typed("ranges transfer-leader 1 --to 2").check(&admin, &endpoints).await;
    let (code, ..) = cli(&endpoints, &["stores", "undrain", "2"]).await;
    assert_eq!(code, Some(0));

    // Node 0 is asked what there is.
    let mut dead = 1;
    while node_of(&cluster, dead).await == 0 {
        dead += 1;
    }
    let goes = (1..=3).find(|store| *store != dead).expect("two others");
    let node = node_of(&cluster, dead).await;
    cluster.kill(node);
    let left: Vec<String> =
        (0..3).filter(|it| *it != node).map(|it| cluster.endpoint(it)).collect();
    eventually("it is missed", SOON, async || {
        let shown = cli_json(&left, &["stores", "show", &dead.to_string()]).await;
        (shown["store"]["liveness"] != "up").then_some(())
    })
    .await;
    let remove = Some(Goal::RemoveStoreId(goes));
    row(change(1, remove), FAILED, "NO_MAJORITY", "which is no majority")
        .typed(&format!("ranges remove-replica 1 --from {goes}"))
        .check(&admin, &left)
        .await;
    let add = row(change(1, moves(goes, dead)), FAILED, "STORE_UNFIT", "has not been heard of");
    add.typed(&format!("ranges move 1 --from {goes} --to {dead}")).check(&admin, &left).await;
    assert_eq!(stores(&range(&left).await), [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_voter_and_the_last_master_stay() {
    let _alone = alone().await;
    let settings = CHAOS.replace("[cluster]\n", "[cluster]\nreplicas = 1\n");
    let cluster = Cluster::start(1, &settings).await;
    cluster.until_healthy().await;
    let (endpoints, admin) = (cluster.endpoints(), admin(&cluster).await);
    let before = snapshot(&endpoints).await;
    let remove = change(1, Some(Goal::RemoveStoreId(1)));
    for row in [
        row(remove, FAILED, "LAST_VOTER", "Move it, or add another one first")
            .typed("ranges remove-replica 1 --from 1"),
        row(masters(Some(Masters::RemoveMemberId(1))), FAILED, "LAST_VOTER", "--replace 1")
            .typed("masters remove 1"),
        row(masters(Some(Masters::LeadMemberId(0))), FAILED, "MASTER_UNFIT", "masters ls")
            .typed("masters transfer-leader"),
        row(masters(Some(Masters::LeadMemberId(1))), FAILED, "NOTHING_TO_DO", "leads already")
            .typed("masters transfer-leader --to 1"),
    ] {
        row.check(&admin, &endpoints).await;
    }
    let client = cluster.client();
    let held = client.lock("jobs/a").ttl(Duration::from_secs(5)).acquire().await.expect("free");
    held.release().await.expect("locks go on");
    assert_eq!(snapshot(&endpoints).await, before, "none of them has changed anything");
}
