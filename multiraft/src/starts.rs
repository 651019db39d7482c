//! How often a process was started on a disk: the masters tell a store's later process from an earlier
//! one by it. The number stands among the records that it protects, so an older copy of them has an
//! older number.

use sharklock_proto::internal::v1 as proto;

use crate::disk::Disk;
use crate::keys::Key;
use crate::records;
use crate::recover::RecoverError;

/// Counts that a process starts on the disk, durably, and gives the number: higher than that of every
/// start before, 1 on a fresh disk. To be called once by each process, before anybody hears of it.
///
/// # Errors
/// The disk fails, or what it has counted so far cannot be read.
pub fn count_start(disk: &mut impl Disk) -> Result<u64, RecoverError> {
    let key = Key::Starts.encode();
    let before = match disk.get(Key::Starts.family(), &key)? {
        Some(value) => {
            let record: proto::StartsRecord = records::open(&key, value)
                .map_err(|bad| RecoverError::bad_value("the number of starts", bad))?;
            record.count
        }
        None => 0,
    };
    write(disk, before + 1)?;
    Ok(before + 1)
}

/// Takes back the start with this number, which the masters refused because they know this one or a
/// later one. They refuse it for ever, so nothing is lost; but an older copy that is started again
/// and again would otherwise reach the number of the original, and pass for it.
///
/// # Errors
/// The disk fails.
pub fn give_back_start(disk: &mut impl Disk, number: u64) -> Result<(), RecoverError> {
    write(disk, number.saturating_sub(1))
}

fn write(disk: &mut impl Disk, count: u64) -> Result<(), RecoverError> {
    Ok(disk.write(&[records::put(Key::Starts, &proto::StartsRecord { count })], true)?)
}
