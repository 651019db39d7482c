//! Watching the routes: a stream from the leading master, which is sought anew whenever it ends.

use sharklock_proto::internal::v1::{RoutesUpdate, WatchRoutesRequest};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tonic::Streaming;

use crate::{
    backoff::Backoff,
    masters::{Client, Masters, boxed, is_worth_another_try},
    outage::{Outage, OutageNews},
};

/// Updates of routes that may wait for their reader. A reader that is slower misses nothing: the
/// stream waits.
const UPDATES_MAX: usize = 16;

impl Masters {
    /// The places of ranges and stores, and every change of them. The first update of each leading
    /// master is whole. Looks for one for as long as the receiver is there. To be called inside a
    /// tokio runtime.
    pub fn watch_routes(&self) -> mpsc::Receiver<RoutesUpdate> {
        let (updates, receiver) = mpsc::channel(UPDATES_MAX);
        let masters = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = masters.watch(&updates) => {}
                () = updates.closed() => {}
            }
        });
        receiver
    }

    async fn watch(&self, updates: &mpsc::Sender<RoutesUpdate>) {
        let (mut backoff, mut outage) = (Backoff::default(), Outage::default());
        loop {
            let ask = |mut client: Client| {
                boxed(async move { client.watch_routes(WatchRoutesRequest {}).await })
            };
            let mut lost = None;
            let why = match self.ask_once(ask).await {
                Ok((address, stream)) => {
                    let watch = Watch { address: lost.insert(address), stream };
                    watch.forward(updates, &mut backoff, &mut outage).await
                }
                Err(status) => {
                    // One that does not lead has said whom to ask; a refusal names nobody.
                    if !is_worth_another_try(&status) {
                        self.pass_over();
                    }
                    status.message().to_owned()
                }
            };
            if updates.is_closed() {
                return;
            }
            let address = lost.as_deref();
            match outage.failed(Instant::now()) {
                Some(OutageNews::Begins) => {
                    tracing::info!(address, why, "no master is connected; known routes stay");
                }
                Some(OutageNews::Lasts) => {
                    tracing::warn!(
                        address,
                        why,
                        "the masters stay out of reach; known routes stay"
                    );
                }
                None => {}
            }
            sleep(backoff.pause()).await;
        }
    }
}

/// The routes as one master tells them.
struct Watch<'a> {
    address: &'a str,
    stream: Streaming<RoutesUpdate>,
}

impl Watch<'_> {
    /// Hands updates on until the stream has ended, and why.
    async fn forward(
        mut self,
        updates: &mpsc::Sender<RoutesUpdate>,
        backoff: &mut Backoff,
        outage: &mut Outage,
    ) -> String {
        let mut is_first = true;
        loop {
            match self.stream.message().await {
                Ok(Some(update)) => {
                    if std::mem::take(&mut is_first) {
                        tracing::info!(address = self.address, "a master is connected");
                    }
                    backoff.reset();
                    outage.over();
                    if updates.send(update).await.is_err() {
                        return "nobody reads".to_owned();
                    }
                }
                Ok(None) => return "the master has ended the watch".to_owned(),
                Err(status) => return status.message().to_owned(),
            }
        }
    }
}
