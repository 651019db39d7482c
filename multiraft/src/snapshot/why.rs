//! The reasons that a receiver gives on the wire, and what each means here.

use sharklock_proto::internal::v1::snapshot_reject::Why;

use super::fates::WhyEnded;

/// The meaning of a refusal.
pub(super) fn of(why: Why) -> WhyEnded {
    match why {
        Why::Busy => WhyEnded::Busy,
        Why::NoSpace => WhyEnded::NoSpace,
        Why::Stale => WhyEnded::Stale,
        Why::Damaged => WhyEnded::Damaged,
        Why::UnknownRange => WhyEnded::Absent,
        // A later program's reason, too.
        Why::Overlap | Why::Refused | Why::Unspecified => WhyEnded::Refused,
    }
}
