//! What becomes of snapshots: the reasons for which they end without an install, and the counts.

use std::fmt;

/// Why a transfer has ended without an install.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyEnded {
    /// The receiver has no free place.
    Busy,
    /// The receiver's disk has not enough room.
    NoSpace,
    /// The receiver is as far already, or its range has gone on without this leader.
    Stale,
    /// The receiver has no such replica.
    Absent,
    /// A piece, or the whole, was not what had been announced.
    Damaged,
    /// The receiver takes no part any more, or its range cannot have this snapshot.
    Refused,
    /// Nothing moved for too long.
    Idle,
    /// The link between the two broke.
    LinkLost,
    /// The leadership is over in which it was sent.
    Deposed,
    /// The receiver has caught up by itself, or is no member any more.
    NotNeeded,
    /// The replica at this end is gone.
    Gone,
    /// The image cannot be read, or is older than the change that made its receiver a member.
    NoImage,
    /// The sender gave up.
    Cancelled,
}

impl WhyEnded {
    /// All of them, in order.
    pub const ALL: [Self; 13] = [
        Self::Busy,
        Self::NoSpace,
        Self::Stale,
        Self::Absent,
        Self::Damaged,
        Self::Refused,
        Self::Idle,
        Self::LinkLost,
        Self::Deposed,
        Self::NotNeeded,
        Self::Gone,
        Self::NoImage,
        Self::Cancelled,
    ];

    /// One word for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::NoSpace => "no_space",
            Self::Stale => "stale",
            Self::Absent => "absent",
            Self::Damaged => "damaged",
            Self::Refused => "refused",
            Self::Idle => "idle",
            Self::LinkLost => "link_lost",
            Self::Deposed => "deposed",
            Self::NotNeeded => "not_needed",
            Self::Gone => "gone",
            Self::NoImage => "no_image",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for WhyEnded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "the receiver takes in as many others as it may",
            Self::NoSpace => "the receiver's disk has not enough room",
            Self::Stale => "the receiver is as far already, or in a newer term or epoch",
            Self::Absent => "the receiver has no such replica",
            Self::Damaged => "what came was not what had been announced",
            Self::Refused => "the receiver takes no part, or cannot have this snapshot",
            Self::Idle => "nothing moved for too long",
            Self::LinkLost => "the link broke",
            Self::Deposed => "the leadership is over in which it was sent",
            Self::NotNeeded => "the receiver does not need it any more",
            Self::Gone => "the replica here is gone",
            Self::NoImage => "the image cannot be sent yet",
            Self::Cancelled => "the sender has given up",
        })
    }
}

/// How many transfers have ended for each reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndCounts([u64; WhyEnded::ALL.len()]);

impl EndCounts {
    pub(crate) fn count(&mut self, why: WhyEnded) {
        self.0[why as usize] += 1;
    }

    /// Those for this reason.
    pub fn of(&self, why: WhyEnded) -> u64 {
        self.0[why as usize]
    }

    /// All of them.
    pub fn sum(&self) -> u64 {
        self.0.iter().sum()
    }

    fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, others)| *mine += others);
    }
}

/// The fates of a store's snapshots since its recovery, and how many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotStats {
    /// Begun to send.
    pub begun: u64,
    /// Sent, and installed by the other side.
    pub delivered: u64,
    /// Begun to send, and given up.
    pub failed: EndCounts,
    /// Bytes of chunks sent, those that were sent again among them.
    pub bytes_sent: u64,
    /// Taken in and durable.
    pub installed: u64,
    /// Offered to this store, and refused before a byte of the state was sent.
    pub refused: EndCounts,
    /// Taken in at least in part, and given up.
    pub abandoned: EndCounts,
    /// Bytes of chunks that came.
    pub bytes_received: u64,
    /// On their way from here now.
    pub sending: u64,
    /// On their way to here now.
    pub receiving: u64,
    /// Replicas elsewhere that wait for a place to be sent one from here.
    pub waiting: u64,
}

impl SnapshotStats {
    /// Adds those of another share of the store.
    pub fn add(&mut self, other: &Self) {
        let Self { begun, delivered, failed, bytes_sent, installed, refused, .. } = other;
        let Self { abandoned, bytes_received, sending, receiving, waiting, .. } = other;
        self.begun += begun;
        self.delivered += delivered;
        self.failed.add(failed);
        self.bytes_sent += bytes_sent;
        self.installed += installed;
        self.refused.add(refused);
        self.abandoned.add(abandoned);
        self.bytes_received += bytes_received;
        self.sending += sending;
        self.receiving += receiving;
        self.waiting += waiting;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_count_and_a_label_of_its_own() {
        let mut counts = EndCounts::default();
        for (place, why) in WhyEnded::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, place);
            counts.count(why);
            assert_eq!((counts.of(why), counts.sum()), (1, place as u64 + 1));
        }
        let labels: std::collections::BTreeSet<_> =
            WhyEnded::ALL.into_iter().map(WhyEnded::label).collect();
        assert_eq!(labels.len(), WhyEnded::ALL.len());
    }
}
