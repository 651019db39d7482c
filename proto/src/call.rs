//! What is true of a call to a store, whoever handles it: its lane, the name by which it is routed,
//! and what may be said when nobody answers it. One row of the table below says it all; a call that is
//! new gets its row here, and the compiler names those who must do something about it.

use std::time::Duration;

use crate::{
    internal::v1::{store_call, store_reply},
    v1::Position,
};

/// A call that is older is not done: gateways refuse it, and stores drop it, since its client has
/// long tried again (D5).
///
/// Nobody counts the time that it spends on the network, up to 15 s from a client to a gateway and 4 s
/// from there to a store, after which pings end the connection. Together that is less than the 30 s
/// for which an end is remembered, whatever the clocks make of them.
pub const CALL_AGE_MAX: Duration = Duration::from_secs(10);

/// A question for the next state of a lock waits at most so long at its leader. Its asker hears then that
/// nothing has changed, and knows that somebody still leads who would tell.
pub const WATCH_WAITS_MAX: Duration = Duration::from_secs(5);

/// Which calls must never wait behind which (D16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// For calls that keep a promise or free a lock: they find room when nothing else does.
    Urgent,
    /// Everything else.
    Ordinary,
}

/// The answer that a call gets which was sent, and to which nobody has replied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unanswered {
    /// It changes something: it may have been done or not.
    MayBeDone,
    /// It changes nothing: ask again.
    AskAgain,
    /// Nobody waits for an answer.
    Nothing,
}

macro_rules! calls {
    ($(
        $(#[doc = $doc:literal])+
        $kind:ident($body:pat) = $label:literal, $lane:ident, $unanswered:ident, $name:expr;
    )+) => {
        /// The question of a call.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum CallKind {
            $($(#[doc = $doc])+ $kind,)+
        }

        impl CallKind {
            /// All of them, in order of declaration.
            pub const ALL: &[Self] = &[$(Self::$kind,)+];

            /// As a label of metrics.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $label,)+
                }
            }

            /// Its lane, which says what it must not wait behind.
            pub const fn lane(self) -> Lane {
                match self {
                    $(Self::$kind => Lane::$lane,)+
                }
            }

            /// The answer that it gets when its store does not reply.
            pub const fn unanswered(self) -> Unanswered {
                match self {
                    $(Self::$kind => Unanswered::$unanswered,)+
                }
            }
        }

        impl store_call::Body {
            /// Its question.
            pub const fn kind(&self) -> CallKind {
                match self {
                    $(Self::$kind(_) => CallKind::$kind,)+
                }
            }

            /// The name by which it is routed: it is for the range that holds this name, and no other
            /// may answer it. None: it is for a store, not for a range.
            pub fn routed_by(&self) -> Option<&str> {
                match self {
                    $(Self::$kind($body) => $name,)+
                }
            }
        }
    };
}

calls! {
    /// Acquire.
    Acquire(it) = "acquire", Ordinary, MayBeDone, Some(&it.name);
    /// Release.
    Release(it) = "release", Urgent, MayBeDone, Some(&it.name);
    /// Cancel.
    Cancel(it) = "cancel", Urgent, MayBeDone, Some(&it.name);
    /// KeepAlive. Its gateway has sorted the items by range, so that one stands for all.
    KeepAlive(it) = "keep_alive", Urgent, AskAgain, it.items.first().map(|item| item.name.as_str());
    /// CheckToken.
    CheckToken(it) = "check_token", Ordinary, AskAgain, Some(&it.name);
    /// GetLock.
    GetLock(it) = "get_lock", Ordinary, AskAgain, Some(&it.name);
    /// ListRange, for the range that has the first name that may be in its answer. Another one would
    /// take its own lack of such names for the end of the list.
    ListRange(it) = "list_range", Ordinary, AskAgain, Some(&it.from);
    /// ForceRelease.
    ForceRelease(it) = "force_release", Ordinary, MayBeDone, Some(&it.name);
    /// Describe.
    Describe(_) = "describe", Ordinary, AskAgain, None;
    /// Withdraw. It stays behind its acquire.
    Withdraw(it) = "withdraw", Ordinary, Nothing, Some(&it.name);
    /// Claim. Like those that follow it may be repeated: the second time it changes nothing.
    Claim(it) = "claim", Ordinary, MayBeDone, Some(&it.name);
    /// SetCondition.
    SetCondition(it) = "set_condition", Ordinary, MayBeDone, Some(&it.name);
    /// Reclaim.
    Reclaim(it) = "reclaim", Ordinary, MayBeDone, Some(&it.name);
    /// Ask.
    Ask(it) = "ask", Ordinary, MayBeDone, Some(&it.name);
    /// Downgrade.
    Downgrade(it) = "downgrade", Ordinary, MayBeDone, Some(&it.name);
    /// SetAttributes.
    SetAttributes(it) = "set_attributes", Ordinary, MayBeDone, Some(&it.name);
    /// WatchLock. It is answered when there is something new, after some seconds at the latest.
    WatchLock(it) = "watch_lock", Ordinary, AskAgain, Some(&it.name);
    /// ListRangeSessions, for the range that has the name. As all three about sessions: what another one
    /// lacks would look like the end of the walk.
    ListRangeSessions(it) = "list_range_sessions", Ordinary, AskAgain, Some(&it.from);
    /// GetRangeSession.
    GetRangeSession(it) = "get_range_session", Ordinary, AskAgain, Some(&it.from);
    /// RevokeRangeSession. Repeated it finds the same holds, which are ending already.
    RevokeRangeSession(it) = "revoke_range_session", Ordinary, MayBeDone, Some(&it.from);
    /// SplitRange. Repeated under its epoch it is answered as the first.
    SplitRange(it) = "split_range", Ordinary, MayBeDone, Some(&it.name);
}

impl CallKind {
    /// Whether it must find room when acquires and looks find none (D16).
    pub const fn is_urgent(self) -> bool {
        matches!(self.lane(), Lane::Urgent)
    }
}

impl store_call::Body {
    /// Its lane, which says what it must not wait behind.
    pub const fn lane(&self) -> Lane {
        self.kind().lane()
    }

    /// All names that it is about.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let others = match self {
            Self::KeepAlive(it) => it.items.get(1..).unwrap_or_default(),
            _ => &[],
        };
        self.routed_by().into_iter().chain(others.iter().map(|item| item.name.as_str()))
    }
}

impl store_reply::Body {
    /// Where and when it held; none of what is no answer of a range's leader.
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::Acquire(body) => body.position,
            Self::Release(body) => body.position,
            Self::Cancel(body) => body.position,
            Self::KeepAlive(body) => body.answers.first()?.position,
            Self::CheckToken(body) => body.position,
            Self::GetLock(body) => body.position,
            Self::ListRange(body) => body.position,
            Self::ForceRelease(body) => body.position,
            Self::SplitRange(body) => body.position,
            Self::Agreement(body) => body.position,
            Self::Ask(body) => body.position,
            Self::Downgrade(body) => body.position,
            Self::SetAttributes(body) => body.position,
            Self::WatchLock(body) => body.position,
            Self::ListRangeSessions(body) => body.position,
            Self::GetRangeSession(body) => body.position,
            Self::RevokeRangeSession(body) => body.position,
            Self::Describe(_) | Self::Error(_) | Self::Event(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        internal::v1::{self as internal, DescribeStore},
        v1,
    };

    #[test]
    fn a_part_of_a_list_is_routed_by_the_first_name_that_it_can_have() {
        let (prefix, from) = ("jobs/".to_owned(), "jobs/7\0".to_owned());
        let list = internal::ListRange { prefix, from, ..Default::default() };
        assert_eq!(store_call::Body::ListRange(list).routed_by(), Some("jobs/7\0"));
    }

    #[test]
    fn merged_keepalives_are_routed_by_an_item_and_a_question_to_a_store_by_no_name() {
        let item = |name: &str| v1::KeepAliveItem { name: name.to_owned(), ..Default::default() };
        let items = vec![item("b"), item("a")];
        let body =
            store_call::Body::KeepAlive(v1::KeepAliveRequest { items, ..Default::default() });
        assert_eq!(body.routed_by(), Some("b"));
        assert_eq!(body.names().collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(store_call::Body::Describe(DescribeStore::default()).routed_by(), None);
    }

    #[test]
    fn what_keeps_a_promise_or_frees_a_lock_is_urgent() {
        let urgent: Vec<_> = CallKind::ALL.iter().filter(|kind| kind.is_urgent()).collect();
        assert_eq!(urgent, [&CallKind::Release, &CallKind::Cancel, &CallKind::KeepAlive]);
    }
}
