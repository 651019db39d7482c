//! An operator's calls about ranges.

use sharklock_proto::v1::{
    self, admin_service_client::AdminServiceClient, list_ranges_request, split_range_request,
};
use tonic::{Status, transport::Channel};

use super::Repeat;
use crate::{client::Client, error::CallError};

/// The range that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhichRange {
    /// By its id.
    Id(u64),
    /// The one that has this lock name.
    Named(String),
}

impl Client {
    /// Lists ranges in order of their names, as the stores that answer have told of them: all, or only
    /// one. The list is no snapshot; no name is left out of it.
    ///
    /// # Errors
    /// See [`CallError`]; `RANGE_UNKNOWN` if nobody who answers has the one that is asked for.
    pub async fn list_ranges(
        &self,
        which: Option<&WhichRange>,
    ) -> Result<Vec<v1::RangeStatus>, CallError> {
        const PAGE_SIZE: u32 = 1_000;
        let which = which.map(|which| match which.clone() {
            WhichRange::Id(id) => list_ranges_request::Which::RangeId(id),
            WhichRange::Named(name) => list_ranges_request::Which::Name(name),
        });
        let mut ranges = Vec::new();
        let mut page_token = String::new();
        loop {
            let request =
                v1::ListRangesRequest { which: which.clone(), page_size: PAGE_SIZE, page_token };
            let page = self
                .calls()
                .read(request, |channel, request| async move {
                    AdminServiceClient::new(channel).list_ranges(request).await
                })
                .await?;
            ranges.extend(page.ranges);
            if page.next_page_token.is_empty() {
                return Ok(ranges);
            }
            page_token = page.next_page_token;
        }
    }

    /// Says what [`split_range`](Self::split_range) would do, and why there.
    ///
    /// # Errors
    /// See [`CallError`]; the refusals are those of the split.
    pub async fn plan_split(
        &self,
        which: &WhichRange,
        at: Option<&str>,
        operator: &str,
    ) -> Result<v1::SplitRangeResponse, CallError> {
        let request = v1::SplitRangeRequest {
            which: Some(match which.clone() {
                WhichRange::Id(id) => split_range_request::Which::RangeId(id),
                WhichRange::Named(name) => split_range_request::Which::Name(name),
            }),
            at: at.map(str::to_owned),
            epoch: None,
            dry_run: true,
            operator: operator.to_owned(),
        };
        self.calls().read(request, split_range).await
    }

    /// Makes two ranges of one: the names from `at` on become a range of their own; without it the range
    /// chooses, so that both halves have as many locks. Answered once that is applied. `operator` is for
    /// the log.
    ///
    /// Range, epoch and place are decided first, by a call that does nothing. With those the split may be
    /// asked of several gateways, and again: it is made once.
    ///
    /// # Errors
    /// See [`CallError`]. Nothing was done unless it is [`CallError::Indeterminate`].
    pub async fn split_range(
        &self,
        which: &WhichRange,
        at: Option<&str>,
        operator: &str,
    ) -> Result<v1::SplitRangeResponse, CallError> {
        let plan = self.plan_split(which, at, operator).await?;
        let range_id = plan.lower.unwrap_or_default().range_id;
        let request = v1::SplitRangeRequest {
            which: Some(split_range_request::Which::RangeId(range_id)),
            at: Some(plan.at),
            epoch: plan.epoch,
            dry_run: false,
            operator: operator.to_owned(),
        };
        let done = self.calls().ask(request, Repeat::Freely, split_range).await?.response;
        // The call names the place, whoever has chosen it.
        Ok(v1::SplitRangeResponse { because: plan.because, ..done })
    }
}

async fn split_range(
    channel: Channel,
    request: v1::SplitRangeRequest,
) -> Result<tonic::Response<v1::SplitRangeResponse>, Status> {
    AdminServiceClient::new(channel).split_range(request).await
}
