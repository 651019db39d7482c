//! The thread for work that grows with a range: reading an image, making a state of a snapshot,
//! letting go of an old one. One by one, so that at most one core is busy with it.

use std::sync::mpsc;

use sharklock_multiraft::{Chore, RocksReader};

use crate::{edge::mailbox::Mailbox, machine::LockRange, ports::Input};

/// Runs chores in order until their channel closes.
pub fn run(disk: &RocksReader, chores: &mpsc::Receiver<Chore<LockRange>>, mailbox: &Mailbox) {
    while let Ok(chore) = chores.recv() {
        if let Some(done) = chore.run(&disk.view()) {
            mailbox.tell(Input::ChoreDone(Box::new(done)));
        }
    }
}
