//! The end of holds against their holders' will, so that a repetition cannot end a later hold.

use sharklock_proto::v1::{self, admin_service_client::AdminServiceClient};
use tonic::{Status, transport::Channel};

use super::{Answered, LockSeen, Repeat, check_words};
use crate::{
    client::Client,
    error::CallError,
    ids::{FencingToken, Position},
    race::Race,
    request::Holder,
    session::wire,
};

/// Holds that are ended at a time, where an operator ends all holds of a lock.
const ENDED_AT_A_TIME: usize = 32;

/// The outcome of a force-release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForceReleased {
    /// When and where.
    pub position: Position,
    /// The holds it ends, as they were.
    pub holders: Vec<Holder>,
    /// They have ended already. Otherwise they end when their holders have stopped, or when their
    /// leases have run out at the latest.
    pub ended: bool,
}

impl Client {
    /// Ends the hold of a lock with this token, or every hold that the lock has now, against its
    /// holders' will. `reason` (1 to 1,024 bytes) is shown to them. Unless `now` is set the cluster
    /// waits until the holders have stopped, or their leases have run out; with `now` it does not
    /// wait and BREAKS THE PROMISE of one holder at a time: only tokens protect the resource then.
    ///
    /// A gateway that says nothing is asked beside the next. So that a repetition cannot end a later
    /// hold, "every hold" is what a look finds first, and each of those is ended by its token.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn force_release(
        &self,
        name: &str,
        token: Option<FencingToken>,
        reason: &str,
        now: bool,
        operator: &str,
    ) -> Result<ForceReleased, CallError> {
        check_words("reason", "BAD_REASON", reason, 1..=1_024)?;
        check_words("operator", "BAD_OPERATOR", operator, 0..=256)?;
        let request = |token: Option<FencingToken>| v1::ForceReleaseRequest {
            name: name.to_owned(),
            token: token.map(FencingToken::as_u64),
            reason: reason.to_owned(),
            now,
            operator: operator.to_owned(),
        };
        let LockSeen { position, lock } = self.get_lock(name).await?;
        if token.is_some() {
            let holders = lock.map_or_else(Vec::new, |lock| lock.holders);
            let seen = holders.into_iter().find(|holder| holder.token == token);
            return self.end_one(request(token), seen).await;
        }
        let (holders, count) = lock.map_or((Vec::new(), 0), |it| (it.holders, it.holders_count));
        if holders.len() < count as usize {
            // A look does not name them all: one call ends them, which must not be repeated.
            return self.end_all_unseen(request(None)).await;
        }
        // An orphan ends at once also without `now`, since it has no lease to wait for.
        let ended = now || !holders.is_empty();
        let mut done = ForceReleased { position, holders: Vec::new(), ended };
        let mut holders = holders.into_iter();
        loop {
            let mut ending = Race::default();
            for (at, holder) in holders.by_ref().take(ENDED_AT_A_TIME).enumerate() {
                let (client, request) = (self.clone(), request(holder.token));
                ending.add(at, async move { client.end_one(request, Some(holder)).await });
            }
            if ending.count() == 0 {
                return Ok(done);
            }
            while ending.count() > 0 {
                let (_, one) = ending.next().await;
                let one = one?;
                done.position = one.position;
                done.holders.extend(one.holders);
                done.ended &= one.ended;
                done.holders.sort_by_key(|holder| holder.token.map(FencingToken::as_u64));
            }
        }
    }

    /// Ends the hold with the request's token. `seen` is what a look said of it: told where an earlier
    /// attempt, whose answer was lost, may have ended it.
    async fn end_one(
        &self,
        request: v1::ForceReleaseRequest,
        seen: Option<Holder>,
    ) -> Result<ForceReleased, CallError> {
        assert!(request.token.is_some(), "only a hold that is named can be ended twice");
        let now = request.now;
        let answered = self.calls().ask(request, Repeat::Freely, force_release).await?;
        let Answered { response, is_first } = answered;
        let mut holders: Vec<_> = response.holders.into_iter().map(wire::holder).collect();
        let mut ended = response.ended;
        if let (true, false, Some(seen)) = (holders.is_empty(), is_first, seen) {
            holders.push(seen);
            ended |= now;
        }
        Ok(ForceReleased { position: wire::position(response.position), holders, ended })
    }

    async fn end_all_unseen(
        &self,
        request: v1::ForceReleaseRequest,
    ) -> Result<ForceReleased, CallError> {
        let answered = self.calls().ask(request, Repeat::UnlessSent, force_release).await?;
        let v1::ForceReleaseResponse { position, holders, ended } = answered.response;
        let holders = holders.into_iter().map(wire::holder).collect();
        Ok(ForceReleased { position: wire::position(position), holders, ended })
    }
}

async fn force_release(
    channel: Channel,
    request: v1::ForceReleaseRequest,
) -> Result<tonic::Response<v1::ForceReleaseResponse>, Status> {
    AdminServiceClient::new(channel).force_release(request).await
}
