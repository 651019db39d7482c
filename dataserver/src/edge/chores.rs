//! The thread for work that grows with a range: reading an image, making a state of a snapshot,
//! letting go of an old one. One by one, so that at most one core is busy with it.

use std::sync::{Arc, mpsc};

use sharklock_multiraft::{Chore, RocksReader};

use crate::{edge::mailbox::Mailbox, machine::LockRange, ports::Input};

/// Work of a worker, by its number.
pub type Ordered = (usize, Chore<LockRange>);

/// Runs chores in order until their channel closes. What comes of each is for the worker that has
/// ordered it.
pub fn run(disk: &RocksReader, chores: &mpsc::Receiver<Ordered>, mailboxes: &[Arc<Mailbox>]) {
    while let Ok((worker, chore)) = chores.recv() {
        if let Some(done) = chore.run(&disk.view()) {
            mailboxes[worker].tell(Input::ChoreDone(Box::new(done)));
        }
    }
}
