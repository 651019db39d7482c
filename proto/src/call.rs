//! What is true of a call to a store, whoever handles it: its lane, the name by which it is routed,
//! and what may be said when nobody answers it. One row of the table below says it all; a call that is
//! new gets its row here, and the compiler names those who must do something about it.

use std::time::Duration;

use crate::{
    internal::v1::{store_call, store_reply},
    v1::{self, Position},
};

/// A call that is older is not done: gateways refuse it, and stores drop it, since its client has
/// long tried again (D5).
///
/// Nobody counts the time that it spends on the network, up to 15 s from a client to a gateway and 4 s
/// from there to a store, after which pings end the connection. Together that is less than the 30 s
/// for which an end is remembered, whatever the clocks make of them.
pub const CALL_AGE_MAX: Duration = Duration::from_secs(10);

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

impl v1::ListLocksRequest {
    /// The name by which it is routed. A page has no name before its prefix, and none up to its token:
    /// what comes first of the rest is the range's that holds the larger of the two. Another one would
    /// take its own lack of such names for the end of the list.
    pub fn routed_by(&self) -> &str {
        (&self.prefix).max(&self.page_token)
    }
}

calls! {
    /// Acquire.
    Acquire(it) = "acquire", Ordinary, MayBeDone, Some(&it.name);
    /// Release.
    Release(it) = "release", Urgent, MayBeDone, Some(&it.name);
    /// Cancel.
    Cancel(it) = "cancel", Urgent, MayBeDone, Some(&it.name);
    /// KeepAlive. Its items were sorted by range, so that one stands for all.
    KeepAlive(it) = "keep_alive", Urgent, AskAgain, it.items.first().map(|item| item.name.as_str());
    /// CheckToken.
    CheckToken(it) = "check_token", Ordinary, AskAgain, Some(&it.name);
    /// GetLock.
    GetLock(it) = "get_lock", Ordinary, AskAgain, Some(&it.name);
    /// ListLocks.
    ListLocks(it) = "list_locks", Ordinary, AskAgain, Some(it.routed_by());
    /// ForceRelease.
    ForceRelease(it) = "force_release", Ordinary, MayBeDone, Some(&it.name);
    /// Describe.
    Describe(_) = "describe", Ordinary, AskAgain, None;
    /// Withdraw. It stays behind its acquire.
    Withdraw(it) = "withdraw", Ordinary, Nothing, Some(&it.name);
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
            Self::ListLocks(body) => body.position,
            Self::ForceRelease(body) => body.position,
            Self::Describe(_) | Self::Error(_) | Self::Event(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{internal::v1::DescribeStore, v1};

    fn list(prefix: &str, page_token: &str) -> store_call::Body {
        let (prefix, page_token) = (prefix.to_owned(), page_token.to_owned());
        store_call::Body::ListLocks(v1::ListLocksRequest { prefix, page_size: 0, page_token })
    }

    #[test]
    fn a_page_is_routed_by_the_first_name_that_it_can_have() {
        assert_eq!(list("", "").routed_by(), Some(""), "from the first range on");
        assert_eq!(list("jobs/", "").routed_by(), Some("jobs/"));
        assert_eq!(list("jobs/", "jobs/7").routed_by(), Some("jobs/7"), "behind its token");
        assert_eq!(list("jobs/", "a").routed_by(), Some("jobs/"), "a token before the prefix");
    }

    #[test]
    fn merged_keepalives_are_routed_by_an_item_and_a_question_to_a_store_by_no_name() {
        let item = |name: &str| v1::KeepAliveItem { name: name.to_owned(), ..Default::default() };
        let items = vec![item("b"), item("a")];
        let body =
            store_call::Body::KeepAlive(v1::KeepAliveRequest { items, ..Default::default() });
        assert_eq!(body.routed_by(), Some("b"));
        assert_eq!(store_call::Body::Describe(DescribeStore::default()).routed_by(), None);
    }

    #[test]
    fn what_keeps_a_promise_or_frees_a_lock_is_urgent() {
        let urgent: Vec<_> = CallKind::ALL.iter().filter(|kind| kind.is_urgent()).collect();
        assert_eq!(urgent, [&CallKind::Release, &CallKind::Cancel, &CallKind::KeepAlive]);
    }
}
