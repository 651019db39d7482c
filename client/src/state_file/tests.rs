use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::{
    condition::{Agreement, LeaseRule},
    events::GuardName,
    ids::Position,
    request::Wait,
};

const STAYS: Condition =
    Condition { lease: LeaseRule::Hold, lock_delay: None, max_hold: None, ask_grace: None };
const OURS: ClusterId = ClusterId::from_bytes([0xaa; 16]);

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::TempDir::new().expect("a temporary folder can be made"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("client.state")
    }

    fn open(&self) -> Result<StateFile, StateFileError> {
        StateFile::open(&self.path(), None)
    }

    fn opened(&self) -> StateFile {
        self.open().expect("it can be opened")
    }

    /// The words of the refusal, which name the file.
    fn refusal(&self) -> String {
        let error = self.open().expect_err("it is refused").to_string();
        assert!(error.contains("client.state"), "{error}");
        error
    }
}

fn request(name: &str, condition: Condition) -> Request {
    Request {
        name: Arc::from(name),
        mode: LockMode::Exclusive,
        ttl: Duration::from_secs(10),
        wait: Wait::Unbounded,
        reenter: None,
        reclaim: None,
        condition,
        ask: false,
        owner: Arc::from(""),
        attributes: BTreeMap::new(),
        traceparent: String::new(),
    }
}

fn grant(id: u64, token: u64, condition: Condition) -> Grant {
    let token = FencingToken::from_u64(token);
    Grant {
        id: AcquisitionId(id),
        token,
        fence_floor: token,
        valid_until: Duration::ZERO,
        position: Position::default(),
        agreement: Agreement { condition, ..Agreement::plain(Duration::from_secs(10)) },
    }
}

fn event(id: u64, kind: GuardEventKind) -> GuardEvent {
    let token = FencingToken::from_u64(7);
    GuardEvent {
        hold: GuardName { name: Arc::from("a"), token, acquisition: AcquisitionId(id) },
        kind,
    }
}

/// A file with one hold that stays, and one that does not.
fn holding(file: &StateFile) {
    for (id, condition) in [(1, STAYS), (2, Condition::default())] {
        let request = request("a", condition);
        let number = file.intend(&request);
        file.granted(number, &request, &grant(id, 6 + id, condition));
    }
}

fn tokens(holds: &[(u64, Recorded)]) -> Vec<Option<u64>> {
    holds.iter().map(|(_, hold)| hold.grant.map(|(token, _)| token.as_u64())).collect()
}

#[test]
fn the_next_life_has_the_secret_a_larger_instance_and_the_holds() {
    let folder = Folder::new();
    let older = folder.opened();
    holding(&older);
    older.belongs_to(OURS);
    older.intend(&request("b", STAYS));
    older.write().expect("it can be written");
    let (secret, instance) = (older.secret(), older.instance());
    assert!(older.of_older_lives().is_empty(), "they are its own");
    drop(older);
    let newer = folder.opened();
    assert_eq!((newer.secret(), newer.cluster()), (secret, Some(OURS)));
    assert!(newer.instance() > instance);
    assert_eq!(tokens(&newer.of_older_lives()), [Some(7), Some(8), None]);
    let mode = fs::metadata(folder.path()).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o7777, MODE);
}

/// Client's network model, seed 230: the orphan of a hold whose first guard had been given back was in no
/// file.
#[test]
fn a_hold_is_in_the_file_until_the_last_of_its_guards_is_given_back() {
    let folder = Folder::new();
    let file = folder.opened();
    let first = request("a", Condition::default());
    let number = file.intend(&first);
    file.granted(number, &first, &grant(1, 7, Condition::default()));
    let token = FencingToken::from_u64(7);
    let joins = Request { reenter: Some(token), ..first };
    assert!(!file.stays("a", token));
    let number = file.intend(&joins);
    file.granted(number, &joins, &grant(2, 7, Condition::default()));
    file.agree(AcquisitionId(2), STAYS);
    assert!(file.stays("a", token));
    assert!(file.heard(&event(1, GuardEventKind::Released)));
    file.write().expect("it can be written");
    drop(file);
    let newer = folder.opened();
    let left = newer.of_older_lives();
    assert_eq!(tokens(&left), [Some(7)]);
    assert!(left[0].1.condition.holds());
    newer.remove_older(left[0].0);
    assert!(newer.of_older_lives().is_empty());
}

#[test]
fn all_guards_of_a_hold_leave_the_file_when_it_is_no_more() {
    let folder = Folder::new();
    let file = folder.opened();
    let request = request("a", STAYS);
    for (id, token) in [(1, 7), (2, 7), (3, 8)] {
        let number = file.intend(&request);
        file.granted(number, &request, &grant(id, token, STAYS));
    }
    file.write().expect("it can be written");
    drop(file);
    let newer = folder.opened();
    let left = newer.of_older_lives();
    assert_eq!(tokens(&left), [Some(7), Some(7), Some(8)]);
    newer.remove_older(left[0].0);
    assert_eq!(tokens(&newer.of_older_lives()), [Some(8)]);
}

#[test]
fn a_new_life_is_on_the_disk_before_it_is_used() {
    let folder = Folder::new();
    let instance = folder.opened().instance();
    // Nothing was written after the opening.
    let bytes = fs::read(folder.path()).expect("it is there");
    assert_eq!(State::decode(&bytes).expect("it is whole").instance, instance);
    assert!(folder.opened().instance() > instance);
}

#[test]
fn an_instance_grows_although_the_clock_was_set_back() {
    let folder = Folder::new();
    let future = u64::MAX - 5;
    let state = State { secret: [1; 16], instance: future, cluster: None, holds: BTreeMap::new() };
    write(&folder.path(), state.encode().as_bytes(), MODE);
    assert_eq!(folder.opened().instance(), future + 1);
}

#[test]
fn what_is_over_is_not_asked_for_by_the_next_life() {
    let lost = |reason| GuardEventKind::Lost(reason);
    for (kind, left) in [
        (GuardEventKind::Safe, [Some(7), Some(8)].as_slice()),
        (GuardEventKind::Released, &[]),
        (GuardEventKind::ReleaseUnconfirmed, &[Some(7)]),
        (lost(LostReason::Closed), &[Some(7), Some(8)]),
        (lost(LostReason::Unrenewed), &[Some(7)]),
        (lost(LostReason::Orphaned), &[Some(7)]),
        (lost(LostReason::Reclaimed), &[]),
    ] {
        let folder = Folder::new();
        let file = folder.opened();
        holding(&file);
        for id in [1, 2, 3] {
            file.heard(&event(id, kind.clone()));
        }
        file.write().expect("it can be written");
        drop(file);
        assert_eq!(tokens(&folder.opened().of_older_lives()), left, "{kind:?}");
    }
}

#[test]
fn a_hold_that_is_taken_back_replaces_the_older_one_in_one_step() {
    let folder = Folder::new();
    holding(&folder.opened());
    let older = folder.opened();
    holding(&older);
    older.write().expect("it can be written");
    drop(older);
    let file = folder.opened();
    let request = Request { reclaim: Some(FencingToken::from_u64(7)), ..request("a", STAYS) };
    let number = file.intend(&request);
    file.granted(number, &request, &grant(1, 9, STAYS));
    assert_eq!(tokens(&file.of_older_lives()), [Some(8)]);
    file.downgraded(AcquisitionId(1), FencingToken::from_u64(10));
    file.write().expect("it can be written");
    drop(file);
    let file = folder.opened();
    assert_eq!(tokens(&file.of_older_lives()), [Some(8), Some(10)]);
    assert_eq!(file.of_older_lives()[1].1.mode, LockMode::Shared);
}

#[test]
fn wishes_of_which_nobody_knows_are_kept_once_for_each_name() {
    let folder = Folder::new();
    let file = folder.opened();
    for name in ["a", "b", "a", "a"] {
        let number = file.intend(&request(name, STAYS));
        file.leave(number);
    }
    file.write().expect("it can be written");
    drop(file);
    assert_eq!(folder.opened().of_older_lives().len(), 2);
}

#[test]
fn a_file_that_is_in_use_is_refused() {
    let folder = Folder::new();
    let file = folder.opened();
    assert!(matches!(folder.open(), Err(StateFileError::InUse { .. })));
    assert!(folder.refusal().contains("another"));
    drop(file);
    folder.opened();
}

fn write(path: &Path, bytes: &[u8], mode: u32) {
    fs::write(path, bytes).expect("it can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
}

#[test]
fn files_that_cannot_be_trusted_are_refused_by_name_and_left_as_they_are() {
    let folder = Folder::new();
    drop(folder.opened());
    let good = fs::read(folder.path()).expect("it is there");
    let mut damaged = good.clone();
    damaged[40] ^= 1;
    for (bytes, mode, words) in [
        (good.as_slice(), 0o640, "0640"),
        (good.as_slice(), 0o604, "chmod 600"),
        (damaged.as_slice(), MODE, "damaged"),
        (&good[..good.len() / 2], MODE, "torn"),
        (b"", MODE, "empty"),
        (b"[Unit]\nDescription=x\n", MODE, "no state file"),
    ] {
        write(&folder.path(), bytes, mode);
        let refusal = folder.refusal();
        assert!(refusal.contains(words), "{refusal}");
        assert_eq!(fs::read(folder.path()).expect("it is there"), bytes);
    }
    fs::remove_file(folder.path()).expect("it is there");
    fs::create_dir(folder.path()).expect("nothing is there");
    assert!(folder.refusal().contains("no state file"));
}

#[test]
fn a_file_of_another_cluster_is_refused() {
    let folder = Folder::new();
    let file = folder.opened();
    file.belongs_to(OURS);
    file.write().expect("it can be written");
    drop(file);
    let theirs = ClusterId::from_bytes([0xbb; 16]);
    let refused = StateFile::open(&folder.path(), Some(theirs));
    assert!(matches!(refused, Err(StateFileError::OtherCluster { ours, .. }) if ours == theirs));
    StateFile::open(&folder.path(), Some(OURS)).expect("it is of this one");
}
