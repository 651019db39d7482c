//! The public `AdminService`, for operators.

use std::{sync::Arc, time::Duration};

use sharklock_proto::{
    internal::v1::{SplitRange, StoreDescription},
    v1::{
        CancelOperatorRequest, CancelOperatorResponse, ChangeMastersRequest, ChangeMastersResponse,
        ChangeRangeRequest, ChangeRangeResponse, ForceReleaseRequest, ForceReleaseResponse,
        GetScheduleRequest, GetScheduleResponse, GetSessionRequest, GetSessionResponse,
        GetStatusRequest, GetStatusResponse, ListMastersRequest, ListMastersResponse,
        ListOperatorsRequest, ListOperatorsResponse, ListRangesRequest, ListRangesResponse,
        ListRecoveriesRequest, ListRecoveriesResponse, ListSessionsRequest, ListSessionsResponse,
        PauseScheduleRequest, PauseScheduleResponse, RangeEpoch, RangeStatus, RebalanceRequest,
        RebalanceResponse, RecoverRangeRequest, RecoverRangeResponse, RevokeSessionRequest,
        RevokeSessionResponse, SetScheduleRequest, SetScheduleResponse, SetStoreDutyRequest,
        SetStoreDutyResponse, SplitRangeRequest, SplitRangeResponse,
        admin_service_server::AdminService,
    },
};
use sharklock_transport::{MastersError, wall_unix_ms};
use tokio::time::{Instant, timeout};
use tonic::{Request, Response, Status};

use super::{
    audit::{ForceReleaseLine, Order, OrderLine, RevocationLine},
    cluster_view::{Masters, Seen, complete_masters, masters, picture},
    directory::Directory,
    exchange::{ask, expect_body},
    fan_out::{Bounds, FanOut},
    host::Host,
    list::list,
    listen::Peer,
    lock_service::{admit, admit_look, peer, unary},
    operator_words::{goal_in_words, joined, range_goal_in_words},
    range_view,
};
use crate::{
    StoreId,
    failure::{Failure, Reason},
    validate::{self, Checked, SplitWish, Which},
};

/// The time that a status waits for masters and for each store. Both answer from memory; whoever
/// looks at a cluster does so because something does not answer.
const SEEN_WITHIN: Duration = Duration::from_secs(2);
/// Stores that are asked at a time.
const STORES_AT_ONCE: usize = 64;

/// Asks everybody at once, and fails only if nobody answers.
async fn look(host: &Arc<Host>) -> Result<Seen, Failure> {
    let linked = host.hub.stores();
    let asking_each = async {
        if let Some(masters) = &host.masters {
            host.master_words.ask(masters, host.cluster.id()).await;
        }
    };
    let (described, cluster, ()) =
        tokio::join!(describe_all(host, &linked, None), ask_masters(host), asking_each);
    let (described, failure) = described;
    let words = host.master_words.words();
    let is_silent = !words.values().any(|word| word.answers);
    if described.is_empty() && !matches!(cluster, Masters::Leading(_)) && is_silent {
        return Err(failure);
    }
    let linked = linked.into_iter().map(|store| store.0).collect();
    let (named, lost) = (host.named_stores(), host.lost_for());
    Ok(Seen { described, cluster, named, linked, lost, words })
}

async fn ask_masters(host: &Arc<Host>) -> Masters {
    let Some(masters) = &host.masters else { return Masters::None };
    match timeout(SEEN_WITHIN, masters.cluster()).await {
        Ok(Ok(cluster)) => match host.cluster.take(&cluster.cluster_id) {
            Ok(()) => Masters::Leading(cluster),
            Err(other) => Masters::Other(other),
        },
        Ok(Err(status)) => {
            tracing::debug!(why = status.message(), "the masters do not describe the cluster");
            Masters::Silent
        }
        Err(_elapsed) => Masters::Silent,
    }
}

/// The words of the stores that answer, in order of their ids, and why one did not.
async fn describe_all(
    host: &Arc<Host>,
    stores: &[StoreId],
    which: Option<&Which>,
) -> (Vec<StoreDescription>, Failure) {
    let all = Instant::now() + SEEN_WITHIN;
    let bounds = Bounds { at_once: STORES_AT_ONCE, each: SEEN_WITHIN / 2, all };
    let mut asking = FanOut::new(stores.iter(), bounds, |store| {
        let (host, checked) = (host.clone(), Checked::describe(*store, which));
        async move { expect_body!(ask(&host, checked).await, Describe) }
    });
    let mut described = Vec::new();
    let mut failure = Failure::no_leader();
    // A store that says nothing is missing in the picture, which shows it.
    while let Some((_, answer)) = asking.next().await {
        match answer {
            Ok(description) => described.push(description),
            Err(why) => failure = why,
        }
    }
    described.sort_by_key(|it| it.store.as_ref().map_or(0, |store| store.store_id));
    (described, failure)
}

/// The ranges of which the stores that answer tell: all, or those that may be meant. A store that is
/// behind may have another one under the name.
async fn ranges_now(host: &Arc<Host>, which: Option<&Which>) -> Result<Vec<RangeStatus>, Failure> {
    let (described, failure) = describe_all(host, &host.hub.stores(), which).await;
    if described.is_empty() { Err(failure) } else { Ok(range_view::ranges(&described)) }
}

/// A split of which no answer came, in words that fit it.
fn not_known(failure: Failure) -> Failure {
    match failure.reason {
        Reason::Indeterminate => Failure::new(
            Reason::Indeterminate,
            "the range may or may not have been split: look at it, or repeat the call with the epoch \
             and the name by which it was to be split, which cannot split it twice",
        ),
        _ => failure,
    }
}

const NAME: &str = "sharklock.v1.AdminService";

/// See the module.
pub(super) struct Admin {
    host: Arc<Host>,
}

impl Admin {
    pub(super) fn new(host: Arc<Host>) -> Self {
        Self { host }
    }

    /// Carries an order out, and leaves its line; a dry run leaves none.
    async fn ordered<T>(
        &self,
        peer: &Peer,
        (order, operator, subject, dry_run): (Order, &str, String, bool),
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut line = self.line(peer, order, operator, subject, dry_run);
        let answer = work.await;
        if let Some(line) = &mut line {
            line.answered(&answer);
        }
        answer
    }

    /// The line of an order; none of a dry run.
    fn line(
        &self,
        peer: &Peer,
        order: Order,
        operator: &str,
        subject: String,
        dry_run: bool,
    ) -> Option<OrderLine> {
        let metrics = self.host.metrics.clone();
        (!dry_run).then(|| OrderLine::new(&peer.address, order, operator, subject, metrics))
    }

    fn masters(&self) -> Result<&dyn Directory, Failure> {
        let masters = self.host.masters.as_deref();
        masters.ok_or_else(|| Failure::no_master("this gateway was given none"))
    }
}

fn failure_of_masters(error: MastersError) -> Failure {
    match error {
        MastersError::Unavailable(why) => Failure::no_master(&why),
        MastersError::Refused(ref status) => Failure::of_master(&error.reason(), status.message()),
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn get_status(
        &self,
        request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "GetStatus", async {
            let _call = admit(&self.host, &peer)?;
            let seen = look(&self.host).await?;
            let mut picture = picture(seen, &self.host.config);
            picture.unix_ms = wall_unix_ms();
            if let Some(served) = self.host.cluster.id() {
                served.clone_into(&mut picture.cluster_id);
            }
            Ok(picture)
        })
        .await
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "ListSessions", async {
            let _look = admit_look(&self.host, &peer).await?;
            list(&self.host, validate::list_sessions(request.into_inner())?).await
        })
        .await
    }

    async fn get_session(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Result<Response<GetSessionResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "GetSession", async {
            let _look = admit_look(&self.host, &peer).await?;
            list(&self.host, validate::get_session(request.into_inner())?).await
        })
        .await
    }

    async fn revoke_session(
        &self,
        request: Request<RevokeSessionRequest>,
    ) -> Result<Response<RevokeSessionResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "RevokeSession", async {
            let _look = admit_look(&self.host, &peer).await?;
            let request = request.into_inner();
            let session = request.session.to_ascii_lowercase();
            let revocation = validate::revoke_session(request)?;
            if revocation.dry_run() {
                return list(&self.host, revocation).await;
            }
            let mut line = RevocationLine::new(
                &peer.address,
                &session,
                &revocation,
                self.host.metrics.clone(),
            );
            let answer = list(&self.host, revocation).await;
            line.answered(&answer);
            answer
        })
        .await
    }

    async fn list_ranges(
        &self,
        request: Request<ListRangesRequest>,
    ) -> Result<Response<ListRangesResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "ListRanges", async {
            let _look = admit_look(&self.host, &peer).await?;
            let list = validate::list_ranges(request.into_inner())?;
            range_view::page(ranges_now(&self.host, list.which.as_ref()).await?, &list)
        })
        .await
    }

    async fn split_range(
        &self,
        request: Request<SplitRangeRequest>,
    ) -> Result<Response<SplitRangeResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "SplitRange", async {
            let _call = admit(&self.host, &peer)?;
            let SplitWish { which, at, epoch, dry_run, operator } =
                validate::split_range(request.into_inner())?;
            // No lock name: logs are read by more people than locks.
            let subject = match &which {
                Which::Id(range_id) => format!("range {range_id}"),
                Which::Named(_) => "the range of a lock".to_owned(),
            };
            // It begins before the range is looked for, so that also an order which ends there leaves it.
            let mut line = self.line(&peer, Order::SplitRange, &operator, subject, dry_run);
            let work = async {
                let range = range_view::find(ranges_now(&self.host, Some(&which)).await?, &which)?;
                // Decided once: whatever is repeated from here on cannot split twice.
                let seen = range.position.unwrap_or_default();
                let now = RangeEpoch { conf_ver: seen.conf_ver, version: seen.version };
                let RangeEpoch { conf_ver, version } = epoch.unwrap_or(now);
                let RangeStatus { range_id, start: name, .. } = range;
                if let Some(line) = &mut line {
                    line.is_about(format!("range {range_id}"));
                }
                let split = SplitRange { name, range_id, conf_ver, version, at, dry_run };
                let answer = ask(&self.host, Checked::split_range(split)).await;
                expect_body!(answer.map_err(not_known), SplitRange)
            };
            let answer = work.await;
            if let Some(line) = &mut line {
                line.answered(&answer);
            }
            answer
        })
        .await
    }

    async fn change_range(
        &self,
        request: Request<ChangeRangeRequest>,
    ) -> Result<Response<ChangeRangeResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "ChangeRange", async {
            let _call = admit(&self.host, &peer)?;
            let request = validate::change_range(request.into_inner())?;
            let (range_id, dry_run) = (request.range_id, request.dry_run);
            let operator = request.operator.clone();
            let subject = range_goal_in_words(range_id, request.goal.as_ref());
            let order = (Order::ChangeRange, &*operator, subject, dry_run);
            let work =
                async { self.masters()?.change_range(request).await.map_err(failure_of_masters) };
            self.ordered(&peer, order, work).await
        })
        .await
    }

    async fn list_operators(
        &self,
        request: Request<ListOperatorsRequest>,
    ) -> Result<Response<ListOperatorsResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "ListOperators", async {
            let _call = admit(&self.host, &peer)?;
            let request = request.into_inner();
            self.masters()?.list_operators(request).await.map_err(failure_of_masters)
        })
        .await
    }

    async fn cancel_operator(
        &self,
        request: Request<CancelOperatorRequest>,
    ) -> Result<Response<CancelOperatorResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "CancelOperator", async {
            let _call = admit(&self.host, &peer)?;
            let request = validate::cancel_operator(request.into_inner())?;
            let (operator_id, by) = (request.operator_id, request.operator.clone());
            let order = (Order::CancelOperator, &*by, format!("operator {operator_id}"), false);
            let work = async {
                self.masters()?.cancel_operator(request).await.map_err(failure_of_masters)
            };
            self.ordered(&peer, order, work).await
        })
        .await
    }

    async fn set_store_duty(
        &self,
        request: Request<SetStoreDutyRequest>,
    ) -> Result<Response<SetStoreDutyResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "SetStoreDuty", async {
            let _call = admit(&self.host, &peer)?;
            let request = validate::set_store_duty(request.into_inner())?;
            let (store_id, duty) = (request.store_id, request.duty().as_str_name());
            let (dry_run, operator) = (request.dry_run, request.operator.clone());
            let subject = format!("store {store_id}: {duty}");
            let order = (Order::SetStoreDuty, &*operator, subject, dry_run);
            let work =
                async { self.masters()?.set_store_duty(request).await.map_err(failure_of_masters) };
            self.ordered(&peer, order, work).await
        })
        .await
    }

    async fn list_masters(
        &self,
        request: Request<ListMastersRequest>,
    ) -> Result<Response<ListMastersResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "ListMasters", async {
            let _call = admit(&self.host, &peer)?;
            self.masters()?;
            match ask_masters(&self.host).await {
                Masters::Leading(cluster) => {
                    let mut masters = masters(&cluster);
                    complete_masters(&mut masters, &self.host.master_words.words());
                    Ok(ListMastersResponse {
                        cluster_id: format!("{:x}", cluster.cluster_id),
                        masters,
                        waiting: cluster.waiting_masters,
                    })
                }
                Masters::Other(other) => Err(Failure::no_master(&format!("they are of {other}"))),
                Masters::None | Masters::Silent => Err(Failure::no_master("none has said a word")),
            }
        })
        .await
    }

    async fn get_schedule(
        &self,
        request: Request<GetScheduleRequest>,
    ) -> Result<Response<GetScheduleResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "GetSchedule", async {
            let _call = admit(&self.host, &peer)?;
            self.masters()?.schedule().await.map_err(failure_of_masters)
        })
        .await
    }

    async fn set_schedule(
        &self,
        request: Request<SetScheduleRequest>,
    ) -> Result<Response<SetScheduleResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "SetSchedule", async {
            let _call = admit(&self.host, &peer)?;
            let request = validate::set_schedule(request.into_inner())?;
            let named = request.settings.iter().map(|it| format!("{}={}", it.key, it.value));
            let named: Vec<String> = named.collect();
            let reset = request.reset.iter().map(|key| format!("{key}=reset"));
            let subject = joined(&named.into_iter().chain(reset).collect::<Vec<_>>());
            let (operator, dry_run) = (request.operator.clone(), request.dry_run);
            let order = (Order::SetSchedule, &*operator, subject, dry_run);
            let work =
                async { self.masters()?.set_schedule(request).await.map_err(failure_of_masters) };
            self.ordered(&peer, order, work).await
        })
        .await
    }

    async fn rebalance(
        &self,
        request: Request<RebalanceRequest>,
    ) -> Result<Response<RebalanceResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "Rebalance", async {
            let _call = admit(&self.host, &peer)?;
            let request = validate::rebalance(request.into_inner())?;
            let (operator, dry_run) = (request.operator.clone(), request.dry_run);
            let order = (Order::Rebalance, &*operator, "all stores".to_owned(), dry_run);
            let work =
                async { self.masters()?.rebalance(request).await.map_err(failure_of_masters) };
            self.ordered(&peer, order, work).await
        })
        .await
    }

    async fn pause_schedule(
        &self,
        request: Request<PauseScheduleRequest>,
    ) -> Result<Response<PauseScheduleResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "PauseSchedule", async {
            let _call = admit(&self.host, &peer)?;
            let request = validate::pause_schedule(request.into_inner())?;
            let (is_paused, operator) = (request.is_paused, request.operator.clone());
            let subject = if is_paused { "paused" } else { "resumed" }.to_owned();
            let order = (Order::PauseSchedule, &*operator, subject, false);
            let work =
                async { self.masters()?.pause_schedule(request).await.map_err(failure_of_masters) };
            self.ordered(&peer, order, work).await
        })
        .await
    }

    async fn change_masters(
        &self,
        request: Request<ChangeMastersRequest>,
    ) -> Result<Response<ChangeMastersResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "ChangeMasters", async {
            let _call = admit(&self.host, &peer)?;
            let request = validate::change_masters(request.into_inner())?;
            let subject = request.goal.as_ref().map(goal_in_words).unwrap_or_default();
            let (operator, dry_run) = (request.operator.clone(), request.dry_run);
            let order = (Order::ChangeMasters, &*operator, subject, dry_run);
            let work =
                async { self.masters()?.change_masters(request).await.map_err(failure_of_masters) };
            self.ordered(&peer, order, work).await
        })
        .await
    }

    async fn list_recoveries(
        &self,
        request: Request<ListRecoveriesRequest>,
    ) -> Result<Response<ListRecoveriesResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "ListRecoveries", async {
            let _call = admit(&self.host, &peer)?;
            self.masters()?.list_recoveries().await.map_err(failure_of_masters)
        })
        .await
    }

    async fn recover_range(
        &self,
        request: Request<RecoverRangeRequest>,
    ) -> Result<Response<RecoverRangeResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "RecoverRange", async {
            let _call = admit(&self.host, &peer)?;
            let request = validate::recover_range(request.into_inner())?;
            let RecoverRangeRequest { range_id, now, .. } = request;
            let lost = joined(&request.lost_store_ids);
            let subject = format!("range {range_id}: lost stores {lost}, now {now}");
            let (operator, dry_run) = (request.operator.clone(), request.dry_run);
            let order = (Order::RecoverRange, &*operator, subject, dry_run);
            let work =
                async { self.masters()?.recover_range(request).await.map_err(failure_of_masters) };
            self.ordered(&peer, order, work).await
        })
        .await
    }

    async fn force_release(
        &self,
        request: Request<ForceReleaseRequest>,
    ) -> Result<Response<ForceReleaseResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "ForceRelease", async {
            let _call = admit(&self.host, &peer)?;
            let request = request.into_inner();
            let checked = validate::force_release(request.clone())?;
            let has_name = self.host.config.logs_lock_names;
            let mut line =
                ForceReleaseLine::new(&peer.address, request, has_name, self.host.metrics.clone());
            let answer = expect_body!(ask(&self.host, checked).await, ForceRelease);
            line.answered(&answer);
            answer
        })
        .await
    }
}
