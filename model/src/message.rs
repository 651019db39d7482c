//! Messages on their way between clients and leaders, and commands between a leader and the
//! log.

use crate::state::{ClientIndex, Condition, Id, NameIndex, Seq, Token};

/// A server's word about an acquisition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Said {
    /// It is held.
    Held(Token),
    /// It waits.
    Waiting,
    /// It is no more.
    Gone,
    /// It is held, and will be ended.
    Ending(Token),
}

/// A message on its way between a client and a leader, through one gateway or the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Message {
    /// An attempt to acquire; `reenter` is the token to join, or 0.
    Acquire { client: ClientIndex, id: Id, seq: Seq, reenter: Token },
    /// Names acquisitions, as bits.
    KeepAlive { client: ClientIndex, seq: Seq, items: u8 },
    /// Closes an id, or all of the token.
    Release { client: ClientIndex, id: Id, token: Token, all: bool },
    /// Withdraws an acquisition.
    Cancel { client: ClientIndex, id: Id },
    /// Puts the condition `hold` into force.
    Claim { client: ClientIndex, id: Id, seq: Seq, token: Token, revision: u8 },
    /// Agrees about another condition, or a longer lease.
    SetCondition { client: ClientIndex, id: Id, token: Token, revision: u8, terms: Terms },
    /// A waiter asks for the hold.
    Ask { client: ClientIndex, id: Id },
    /// Takes over the hold of an older instance, or an orphan.
    Reclaim { client: ClientIndex, id: Id, seq: Seq, token: Token },
    /// Of one acquisition; seq 0 is a push.
    Answer { client: ClientIndex, id: Id, seq: Seq, said: Said },
    /// Of a whole keepalive, where rule AnswersPerItem is off.
    SessionAlive { client: ClientIndex, seq: Seq, items: u8 },
    /// What is agreed about a hold.
    Agreement { client: ClientIndex, id: Id, revision: u8, terms: Terms },
}

/// What a client and the log may agree about a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Terms {
    /// What may end it.
    pub condition: Condition,
    /// Its lease is longer than others.
    pub longer: bool,
}

/// A command in the log of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Command {
    /// The wish of a client.
    Asked(Message),
    /// The leader of `term` saw the lease of this hold at its end.
    Expire { name: NameIndex, token: Token, owner: ClientIndex, newest: Id, of: Id, term: u8 },
    /// The leader of `term` saw the lease of this waiter at its end.
    ExpireWaiter { client: ClientIndex, id: Id, term: u8 },
    /// The leader of `term` saw the end of a wait.
    WaitTimeout { client: ClientIndex, id: Id, term: u8 },
    /// An operator wants a hold ended.
    Ending { name: NameIndex, token: Token },
    /// An operator wants all ended that a session has in this range.
    Revoke { session: char },
    /// The leader of `term` saw the end of a time that the condition of this revision sets; if
    /// `asked`, of the grace of a holder who was asked.
    TimeUp { name: NameIndex, token: Token, revision: u8, asked: bool, term: u8 },
    /// The leader of `term` has waited out an Ending.
    End { name: NameIndex, token: Token, term: u8 },
    /// [`MOVED`] becomes a range of its own.
    Split,
}

/// A keepalive between its receipt and the proof of leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Read {
    /// The client.
    pub client: ClientIndex,
    /// Echoed.
    pub seq: Seq,
    /// The answers, as bits.
    pub items: u8,
}
