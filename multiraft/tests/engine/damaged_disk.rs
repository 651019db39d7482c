//! Disks that a store must refuse, each with a sentence. The keys are written out here, so this
//! also pins where records lie.

use prost::Message as _;
use sharklock_multiraft::{
    Disk, Family, RecoverError, SimDisk, WriteOp, count_start, give_back_start, read_ident,
};
use sharklock_proto::internal::v1 as proto;
use sharklock_rangemap::PeerId;
use twox_hash::XxHash3_64;

use crate::node::{Node, RANGE, ident};
use crate::tally::put;

fn meta(tag: u8) -> Vec<u8> {
    let mut key = RANGE.0.to_be_bytes().to_vec();
    key.push(tag);
    key
}

fn entry(index: u64) -> Vec<u8> {
    let mut key = meta(1);
    key.extend(index.to_be_bytes());
    key
}

fn row(word: &str) -> Vec<u8> {
    let mut key = RANGE.0.to_be_bytes().to_vec();
    key.extend(word.bytes());
    key
}

const IDENT: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, 1];

/// A disk with an image of five words and entries after it.
fn disk() -> SimDisk {
    let mut node = Node::fresh(1, 1);
    node.settle();
    for word in ["a", "b", "c", "d", "e"] {
        node.store.propose(RANGE, put(word)).unwrap();
        node.settle();
    }
    node.store.flush();
    node.settle();
    for word in ["f", "g"] {
        node.store.propose(RANGE, put(word)).unwrap();
        node.settle();
    }
    node.disk
}

fn change(family: Family, key: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> SimDisk {
    let mut disk = disk();
    let mut value = disk.get(family, key).unwrap().expect("the record is where this test expects");
    change(&mut value);
    disk.write(&[WriteOp::Put(family, key.to_vec(), value)], true).unwrap();
    disk
}

fn without(family: Family, key: &[u8]) -> SimDisk {
    let mut disk = disk();
    assert!(disk.get(family, key).unwrap().is_some(), "the record is where this test expects");
    disk.write(&[WriteOp::Delete(family, key.to_vec())], true).unwrap();
    disk
}

/// As a store would have written it: the checksum fits.
fn edit<R: prost::Message + Default>(
    family: Family,
    key: &[u8],
    edit: impl FnOnce(&mut R),
) -> SimDisk {
    change(family, key, |value| {
        let mut record = R::decode(&value[5..]).unwrap();
        edit(&mut record);
        *value = sealed(key, &record.encode_to_vec());
    })
}

fn sealed(key: &[u8], body: &[u8]) -> Vec<u8> {
    let sum = XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(key), body) as u32;
    [&[2], sum.to_le_bytes().as_slice(), body].concat()
}

/// Of a replica of the same range.
fn with_tombstone(peer_id: u64) -> SimDisk {
    let mut disk = disk();
    let body = proto::TombstoneRecord { peer_id }.encode_to_vec();
    let op = WriteOp::Put(Family::Meta, meta(5), sealed(&meta(5), &body));
    disk.write(&[op], true).unwrap();
    disk
}

#[test]
fn a_replica_may_come_where_an_older_one_was() {
    let node = Node::recover(with_tombstone(100)).unwrap();
    assert_eq!(node.store.tombstone(RANGE), Some(PeerId(100)));
    assert_eq!(node.store.ranges(), [RANGE]);
}

fn refusal(disk: SimDisk) -> String {
    match Node::recover(disk) {
        Ok(_) => panic!("the disk was taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_disk_of_these_tests_recovers() {
    let mut node = Node::recover(disk()).unwrap();
    node.settle();
    assert_eq!(node.machine().tokens.len(), 7);
}

#[test]
fn newer_formats_are_refused_in_one_sentence() {
    let newer = |value: &mut Vec<u8>| value[0] = 3;
    let cases = [
        (change(Family::Meta, IDENT, newer), "the store's identity has format 3"),
        (change(Family::Meta, &meta(1), newer), "the hard state of range 7 has format 3"),
        (change(Family::Meta, &meta(3), newer), "the image header of range 7 has format 3"),
        (change(Family::Raft, &entry(12), newer), "entry 12 of range 7 has format 3"),
        (
            change(Family::State, &row("c"), newer),
            "the row [00, 00, 00, 00, 00, 00, 00, 07, 63] of range 7 has format 3",
        ),
    ];
    for (disk, expected) in cases {
        let rest = ", and this program reads no format newer than 2";
        assert_eq!(refusal(disk), format!("{expected}{rest}"));
    }
    let newer_store =
        edit(Family::Meta, IDENT, |record: &mut proto::StoreIdentRecord| record.format = 4);
    assert!(matches!(read_ident(&newer_store), Err(RecoverError::NewerStore { format: 4 })));
}

/// People wipe what is called corrupt.
#[test]
fn what_a_newer_program_wrote_is_not_called_corrupt() {
    let newer_kind = {
        let mut disk = disk();
        disk.write(&[WriteOp::Put(Family::Meta, meta(9), sealed(&meta(9), b"new"))], true).unwrap();
        disk
    };
    let cases = [
        (
            edit(Family::Meta, &meta(3), |header: &mut proto::FlushHeader| {
                header.machine = Some(vec![7; 9].into());
            }),
            "the image of range 7 is beyond this program: it is a newer tally",
        ),
        (
            edit(Family::Raft, &entry(12), |entry: &mut proto::Entry| entry.entry_type = 77),
            "entry 12 of range 7 is beyond this program: 77 is no entry type",
        ),
        (
            newer_kind,
            "the record [00, 00, 00, 00, 00, 00, 00, 07, 09] is beyond this program: it knows no \
             record of this kind",
        ),
    ];
    for (disk, expected) in cases {
        assert_eq!(refusal(disk), format!("{expected}: upgrade this server"));
    }
}

#[test]
fn damage_is_refused_in_one_sentence() {
    let header =
        |change_header: fn(&mut proto::FlushHeader)| edit(Family::Meta, &meta(3), change_header);
    let cases = [
        (without(Family::Meta, &meta(1)), "range 7 is corrupt: it has no hard state"),
        (without(Family::Meta, &meta(3)), "range 7 is corrupt: it has no image header"),
        (without(Family::Raft, &entry(8)), "entry 8 of range 7 is corrupt: it is missing"),
        (without(Family::State, &row("c")), "the image of range 7 is corrupt: its hash is "),
        (without(Family::Meta, IDENT), "the disk holds no store identity"),
        (
            change(Family::Raft, &entry(9), |value| value.truncate(value.len() - 1)),
            "entry 9 of range 7 is corrupt: it does not match its checksum",
        ),
        (
            change(Family::Raft, &entry(9), |value| *value = sealed(&entry(9), &[0xff; 9])),
            "entry 9 of range 7 is corrupt: it does not decode: ",
        ),
        (change(Family::Raft, &entry(9), Vec::clear), "entry 9 of range 7 is corrupt: it is empty"),
        (
            edit(Family::Raft, &entry(9), |record: &mut proto::Entry| record.term = 99),
            "the log of range 7 is corrupt: the terms of its entries fall",
        ),
        (
            edit(Family::Raft, &entry(9), |record: &mut proto::Entry| record.entry_type = 2),
            "entry 9 of range 7 is corrupt: it names no kind, or has no data",
        ),
        (
            edit(Family::Meta, &meta(1), |record: &mut proto::HardStateRecord| record.term = 2),
            "the log of range 7 is corrupt: it ends in term 6, above 2",
        ),
        (
            edit(Family::Meta, &meta(1), |record: &mut proto::HardStateRecord| record.commit = 99),
            "the log of range 7 is corrupt: it ends at 13, before the commit index 99",
        ),
        (
            header(|header| header.applied_term = 5),
            "the log of range 7 is corrupt: entry 11 has term 6, the image says 5",
        ),
        (
            header(|header| header.applied_index = 4),
            "the log of range 7 is corrupt: the image ends at 4, before the log begins at 5",
        ),
        (
            header(|header| header.machine = None),
            "the image of range 7 is corrupt: it has rows before its first entry",
        ),
        (
            header(|header| header.machine = Some(vec![1, 2].into())),
            "the image of range 7 cannot be restored: corrupt image: not a number",
        ),
        (
            header(|header| header.descriptor.as_mut().unwrap().replicas.clear()),
            "the descriptor of range 7 is corrupt: range 7: replicas: none of them votes",
        ),
        (
            header(|header| header.descriptor.as_mut().unwrap().replicas[0].role = 9),
            "the descriptor of range 7 is corrupt: range 7: replicas[0].role is 9, which this \
             version does not know",
        ),
        (
            header(|header| header.descriptor.as_mut().unwrap().conf_ver = 0),
            "the descriptor of range 7 is corrupt: range 7: conf_ver is 0, and it begins at 1",
        ),
        (
            header(|header| header.descriptor.as_mut().unwrap().replicas[0].store_id = 9),
            "the descriptor of range 7 is corrupt: it names no replica on this store",
        ),
        (with_tombstone(101), "range 7 is corrupt: peer 101 is here, and the tombstone of 101"),
    ];
    for (disk, expected) in cases {
        let found = refusal(disk);
        assert!(found.starts_with(expected), "expected {expected:?}, found {found:?}");
        assert_eq!(found.lines().count(), 1);
    }
}

#[test]
fn an_unknown_key_is_refused() {
    let mut disk = disk();
    disk.write(&[WriteOp::Put(Family::Meta, meta(9), vec![1])], true).unwrap();
    assert!(refusal(disk).ends_with("is corrupt: this program knows no such record"));
}

#[test]
fn two_ranges_with_common_names_are_refused() {
    let mut disk = disk();
    let mut other = crate::node::descriptor(1);
    other.range.0 = 8;
    let ops = sharklock_multiraft::bootstrap(&ident(1), &other);
    disk.write(&ops, true).unwrap();
    assert_eq!(refusal(disk), "range 8 is corrupt: its names overlap with those of 7");
}

#[test]
fn a_fresh_disk_is_nobodys() {
    let disk = SimDisk::default();
    assert_eq!(read_ident(&disk).unwrap(), None);
    assert!(matches!(Node::recover(disk), Err(RecoverError::NoIdent)));
    assert_eq!(read_ident(&self::disk()).unwrap(), Some(ident(1)));
}

#[test]
fn starts_are_counted_from_the_first_on_and_survive_a_loss_of_power() {
    let mut disk = SimDisk::default();
    assert_eq!(count_start(&mut disk).unwrap(), 1);
    assert_eq!(read_ident(&disk).unwrap(), None, "it belongs to nobody all the same");
    disk.crash();
    assert_eq!(count_start(&mut disk).unwrap(), 2);
    let mut disk = self::disk();
    assert_eq!([(); 3].map(|()| count_start(&mut disk).unwrap()), [1, 2, 3]);
    give_back_start(&mut disk, 3).unwrap();
    assert_eq!(count_start(&mut disk).unwrap(), 3);
    assert_eq!(read_ident(&disk).unwrap(), Some(ident(1)));
    Node::recover(disk).expect("the ranges are what they were");
}

#[test]
fn a_damaged_count_of_starts_is_refused() {
    let mut disk = disk();
    count_start(&mut disk).unwrap();
    let key = [0, 0, 0, 0, 0, 0, 0, 0, 2].to_vec();
    let mut value = disk.get(Family::Meta, &key).unwrap().unwrap();
    *value.last_mut().unwrap() ^= 1;
    disk.write(&[WriteOp::Put(Family::Meta, key, value)], true).unwrap();
    let refused = count_start(&mut disk).unwrap_err().to_string();
    assert_eq!(refused, "the number of starts is corrupt: it does not match its checksum");
}

#[test]
fn an_unreadable_disk_is_an_error() {
    for nth in 1..=4 {
        let mut disk = disk();
        disk.fail_nth(nth);
        assert_eq!(refusal(disk), "the disk cannot be read: simulated fault");
    }
}

/// The name by which a refusal must tell which record it is.
fn name_of(family: Family, key: &[u8]) -> String {
    let tail = &key[8..];
    match (family, tail) {
        (Family::Meta, [1]) if key == IDENT => "the store's identity".to_owned(),
        (Family::Meta, [1]) => "the hard state of range 7".to_owned(),
        (Family::Meta, [2]) => "the log's begin of range 7".to_owned(),
        (Family::Meta, [3]) => "the image header of range 7".to_owned(),
        (Family::Raft, _) => {
            format!("entry {} of range 7", u64::from_be_bytes(tail[1..].try_into().unwrap()))
        }
        (Family::State, _) => format!("the row {key:02x?} of range 7"),
        (Family::Meta, _) => panic!("{key:?} is no record"),
    }
}

/// Every record of the disk.
fn records() -> Vec<(Family, Vec<u8>, Vec<u8>)> {
    let disk = disk();
    let of = |family| {
        let pairs = disk.scan(family, &[], &[0xff; 20]).unwrap();
        pairs.into_iter().map(move |(key, value)| (family, key, value))
    };
    [Family::Meta, Family::Raft, Family::State].into_iter().flat_map(of).collect()
}

#[track_caller]
fn check_refused_by_name(family: Family, key: &[u8], value: &[u8]) {
    let mut disk = disk();
    disk.write(&[WriteOp::Put(family, key.to_vec(), value.to_vec())], true).unwrap();
    let (found, name) = (refusal(disk), name_of(family, key));
    assert!(found.starts_with(&format!("{name} ")), "{name}, {value:02x?}: {found}");
    assert_eq!(found.lines().count(), 1);
}

#[test]
fn every_flipped_bit_of_every_record_is_refused_by_name() {
    let mut flips = 0;
    for (family, key, value) in records() {
        for bit in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            check_refused_by_name(family, &key, &flipped);
            flips += 1;
        }
    }
    println!("{} records, {flips} flips", records().len());
    assert!(records().len() >= 16 && flips > 2_000, "{flips}");
}

#[test]
fn every_record_that_lacks_its_end_or_has_more_is_refused_by_name() {
    let mut cuts = 0;
    for (family, key, value) in records() {
        for len in 0..value.len() {
            check_refused_by_name(family, &key, &value[..len]);
            cuts += 1;
        }
        check_refused_by_name(family, &key, &[value.as_slice(), &[0]].concat());
    }
    assert!(cuts > 250, "{cuts}");
}

#[test]
fn a_value_at_anothers_key_is_refused_by_name() {
    for (family, key, value) in records() {
        for (_, other, stray) in records() {
            if key != other && value != stray {
                check_refused_by_name(family, &key, &stray);
            }
        }
    }
}

/// As stores were written before values had a checksum.
#[test]
fn values_of_the_first_format_are_read() {
    let mut disk = disk();
    for (family, key, value) in records() {
        let plain = [&[1], &value[5..]].concat();
        disk.write(&[WriteOp::Put(family, key, plain)], true).unwrap();
    }
    let mut node = Node::recover(disk).unwrap();
    node.settle();
    assert_eq!(node.machine().tokens.len(), 7);
}
