//! Ids for splits, from the masters. No lock waits for them: while no master answers it is the split
//! that is not made.

use std::{sync::Arc, time::Duration};

use sharklock_multiraft::Split;
use sharklock_proto::{ClusterId, internal::v1::AllocateIdsRequest};
use sharklock_rangemap::{PeerId, RangeId};
use sharklock_transport::{Masters, MastersError};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    edge::porter::Porter,
    ports::{IdsWanted, Input},
};

/// The masters are asked for so long: longer than one that is frozen is waited for, so that the next
/// one is asked as well, and shorter than whoever asks for a split waits.
const ASK_FOR: Duration = Duration::from_millis(2_500);
/// Splits that may wait until the masters can be asked.
const WAITING_MAX: usize = 1_024;
/// Splits whose ids are asked for in one request: fewer than a thousand ids, whatever has how many
/// replicas.
const AT_ONCE_MAX: usize = 64;
/// Requests under way at a time.
const REQUESTS_MAX: usize = 8;

/// The desk at which workers ask for ids.
#[derive(Clone, Debug)]
pub struct IdsDesk(mpsc::Sender<IdsWanted>);

impl IdsDesk {
    /// Asks for ids of a split; gives it back where too many wait.
    pub fn ask(&self, wanted: IdsWanted) -> Result<(), IdsWanted> {
        self.0.try_send(wanted).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(wanted) | mpsc::error::TrySendError::Closed(wanted) => {
                wanted
            }
        })
    }
}

/// Asks the masters for what waits at the desk.
pub struct IdsClerk {
    cluster_id: ClusterId,
    masters: Masters,
    porter: Arc<Porter>,
    waiting: mpsc::Receiver<IdsWanted>,
}

impl IdsClerk {
    /// A desk, and who serves it.
    pub fn new(cluster_id: ClusterId, masters: Masters, porter: Arc<Porter>) -> (IdsDesk, Self) {
        let (sender, waiting) = mpsc::channel(WAITING_MAX);
        (IdsDesk(sender), Self { cluster_id, masters, porter, waiting })
    }

    /// Serves until `stopping`.
    pub async fn serve(mut self, stopping: CancellationToken) {
        let mut asking = JoinSet::new();
        loop {
            let mut wanted = Vec::new();
            tokio::select! {
                count = self.waiting.recv_many(&mut wanted, AT_ONCE_MAX), if asking.len() < REQUESTS_MAX => {
                    if count == 0 {
                        return;
                    }
                    asking.spawn(ask(self.cluster_id, self.masters.clone(), self.porter.clone(), wanted));
                }
                Some(_) = asking.join_next() => {}
                () = stopping.cancelled() => return,
            }
        }
    }
}

async fn ask(cluster_id: ClusterId, masters: Masters, porter: Arc<Porter>, wanted: Vec<IdsWanted>) {
    let needs: usize = wanted.iter().map(|wanted| 1 + wanted.replicas).sum();
    let count = u32::try_from(needs).expect("a range has few replicas");
    let request = AllocateIdsRequest { cluster_id: cluster_id.to_wire(), count };
    match masters.allocate_ids(request, ASK_FOR).await {
        Ok(given) => {
            let splits = hand_out(given.first, wanted);
            splits.into_iter().for_each(|split| porter.tell(split));
        }
        Err(error) => {
            let why = match error {
                // That none answers is what the worker says of it.
                MastersError::Unavailable(why) => why,
                refused @ MastersError::Refused(_) => refused.to_string(),
            };
            let no_ids = |wanted| Input::NoIds { wanted, why: why.clone() };
            wanted.into_iter().for_each(|wanted| porter.tell(no_ids(wanted)));
        }
    }
}

/// The splits with the ids from `first` on.
fn hand_out(first: u64, wanted: Vec<IdsWanted>) -> Vec<Input> {
    let mut ids = first..;
    let mut next = || ids.next().expect("nobody has been given so many");
    let mut split = |IdsWanted { range, epoch, key, replicas, term }| {
        let child = RangeId(next());
        let child_peers = (0..replicas).map(|_| PeerId(next())).collect();
        let split = Split { epoch, key, child, child_peers };
        Input::Split { range, term: Some(term), split }
    };
    wanted.into_iter().map(&mut split).collect()
}

#[cfg(test)]
mod tests {
    use sharklock_rangemap::Epoch;

    use super::*;

    #[test]
    fn no_id_is_handed_out_twice() {
        let epoch = Epoch { conf_ver: 1, version: 4 };
        let wanted = |range, replicas| IdsWanted {
            range: RangeId(range),
            epoch,
            key: "m".to_owned(),
            replicas,
            term: 5,
        };
        let splits = hand_out(1_000, vec![wanted(1, 3), wanted(2, 1)]);
        let ids = |input: &Input| match input {
            Input::Split { range, split, term: Some(5) } => {
                let Split { child, child_peers, .. } = split;
                (range.0, child.0, child_peers.iter().map(|peer| peer.0).collect::<Vec<_>>())
            }
            other => panic!("{other:?}"),
        };
        let all: Vec<_> = splits.iter().map(ids).collect();
        assert_eq!(all, [(1, 1_000, vec![1_001, 1_002, 1_003]), (2, 1_004, vec![1_005])]);
    }
}
