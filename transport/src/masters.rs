//! Finding the leading master, and asking it. Nothing here is on the way of a lock.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sharklock_proto::internal::v1::master_service_client::MasterServiceClient;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

use crate::{backoff::Backoff, dialling::Dialling};

mod calls;

/// The reason (`google.rpc.ErrorInfo`) with which a master refuses that does not lead; its metadata
/// `leader` is the address of the one that does, as far as known.
pub const NOT_LEADER: &str = "NOT_LEADER";

/// How long one master may take to answer before another is asked: an answer may wait for a commit
/// on a slow disk, and a paused master must not use up a caller's whole deadline.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Largest answer: the routes of some ten thousand ranges.
const ANSWER_BYTES_MAX: usize = 64 << 20;

pub(crate) type Client = MasterServiceClient<Channel>;

/// One master's answer on its way.
pub(crate) type Answering<T> =
    Pin<Box<dyn Future<Output = Result<tonic::Response<T>, Status>> + Send>>;

pub(crate) fn boxed<T>(
    answering: impl Future<Output = Result<tonic::Response<T>, Status>> + Send + 'static,
) -> Answering<T> {
    Box::pin(answering)
}

/// Why no master answered.
#[derive(Debug, thiserror::Error)]
pub enum MastersError {
    /// The leading master refuses: asking again is of no use.
    #[error("the master refuses: {}", .0.message())]
    Refused(Status),
    /// No leading master answered in time.
    #[error("no leading master answers ({0})")]
    Unavailable(String),
}

impl MastersError {
    /// The reason (`google.rpc.ErrorInfo`) of a refusal; empty where there is none.
    pub fn reason(&self) -> String {
        match self {
            Self::Refused(status) => {
                let details = status.get_error_details();
                details.error_info().map(|info| info.reason.clone()).unwrap_or_default()
            }
            Self::Unavailable(_) => String::new(),
        }
    }
}

/// The masters of a cluster, by their addresses: those that were [learned](Self::learn) last, then those
/// that it was made with. Clones share what is known of them.
#[derive(Clone, Debug)]
pub struct Masters(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Those that it was made with. They are asked behind those that are known to be masters today, for
    /// as long as it lives: whoever knows nothing better begins with them.
    seeds: Vec<String>,
    dialling: Dialling,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// In the order in which they are asked; never empty.
    addresses: Vec<String>,
    /// The next master to ask: an address of the list, or one that a master named.
    next: String,
    channels: BTreeMap<String, Channel>,
}

impl Known {
    fn after(&self, address: &str) -> String {
        let place = self.addresses.iter().position(|known| known == address);
        self.addresses[place.map_or(0, |place| (place + 1) % self.addresses.len())].clone()
    }
}

impl Masters {
    /// Masters at these addresses (`HOST:PORT`).
    ///
    /// # Errors
    /// When there is none, or one is not an address; a sentence for people.
    pub fn new(addresses: Vec<String>, dialling: Dialling) -> Result<Self, String> {
        let first = addresses.first().ok_or("no master is named")?.clone();
        for address in &addresses {
            dialling.endpoint(address)?;
        }
        let known = Known { addresses: addresses.clone(), next: first, channels: BTreeMap::new() };
        Ok(Self(Arc::new(Inner { seeds: addresses, dialling, known: Mutex::new(known) })))
    }

    /// The address that is asked next: of the master that has answered last as the leading one, as long
    /// as nobody has said otherwise.
    pub fn asked_next(&self) -> String {
        self.known().next.clone()
    }

    /// The addresses that are asked, in order.
    pub fn addresses(&self) -> Vec<String> {
        self.known().addresses.clone()
    }

    /// Where none of those that it was made with leads, these are asked as well: the masters as somebody
    /// remembers them. What is no address is passed over.
    pub fn ask_also(&self, masters: &[String]) {
        let mut known = self.known();
        for address in masters {
            if !known.addresses.contains(address) && self.0.dialling.endpoint(address).is_ok() {
                known.addresses.push(address.clone());
            }
        }
    }

    /// These are the masters of today, by the word of one of them or of somebody whom it told: from now on
    /// they are asked first. What is no address is passed over, and so is a list without any.
    pub fn learn(&self, masters: &[String]) {
        let mut addresses: Vec<String> = Vec::new();
        let dialled = |address: &&String| self.0.dialling.endpoint(address).is_ok();
        for address in masters.iter().filter(dialled) {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        if addresses.is_empty() {
            return;
        }
        let is_news = |seed: &&String| !addresses.contains(seed);
        let seeds: Vec<_> = self.0.seeds.iter().filter(is_news).cloned().collect();
        addresses.extend(seeds);
        let mut known = self.known();
        if known.addresses != addresses {
            tracing::info!(masters = masters.join(","), "these are the masters from now on");
            known.channels.retain(|address, _| addresses.contains(address));
            known.addresses = addresses;
        }
    }

    /// Asks one master after the other until the leading one has answered.
    async fn ask<T: Send>(
        &self,
        within: Duration,
        call: impl Fn(Client) -> Answering<T> + Sync,
    ) -> Result<T, MastersError> {
        let deadline = Instant::now() + within;
        let mut backoff = Backoff::default();
        let mut asked = 0;
        let mut last = "nobody was asked".to_owned();
        loop {
            let answer = timeout_at(deadline, self.ask_once(&call)).await;
            let Ok(answer) = answer else { return Err(MastersError::Unavailable(last)) };
            let status = match answer {
                Ok((_, answer)) => return Ok(answer),
                Err(status) => status,
            };
            if !is_worth_another_try(&status) {
                return Err(MastersError::Refused(status));
            }
            last = status.message().to_owned();
            asked += 1;
            // Every master once without a pause, then with ever longer ones.
            if asked % self.known().addresses.len() == 0 {
                let pause = backoff.pause();
                if Instant::now() + pause >= deadline {
                    return Err(MastersError::Unavailable(last));
                }
                sleep(pause).await;
            }
        }
    }

    /// Asks whom seems to lead, and gives its address with the answer; where it does not lead, the next
    /// question goes elsewhere.
    pub(crate) async fn ask_once<T: Send>(
        &self,
        call: impl Fn(Client) -> Answering<T> + Sync,
    ) -> Result<(String, T), Status> {
        let address = self.known().next.clone();
        let client = self.client(&address)?;
        let status = match timeout(ANSWER_WITHIN, call(client)).await {
            Ok(Ok(answer)) => return Ok((address, answer.into_inner())),
            Ok(Err(status)) => status,
            Err(_elapsed) => Status::unavailable(format!("{address} does not answer")),
        };
        if is_worth_another_try(&status) {
            self.led_away(&address, leader_of(&status));
        }
        Err(status)
    }

    /// A master does not lead: the one that it names is asked next, or the one after it.
    fn led_away(&self, from: &str, leader: Option<String>) {
        let mut known = self.known();
        if known.next != from {
            // Somebody else has learnt more meanwhile.
            return;
        }
        known.next = match leader {
            Some(leader) if leader != from => leader,
            _ => known.after(from),
        };
    }

    /// The next question goes to the master after the one that was asked.
    pub(crate) fn pass_over(&self) {
        let mut known = self.known();
        known.next = known.after(&known.next);
    }

    fn client(&self, address: &str) -> Result<Client, Status> {
        let mut known = self.known();
        let channel = match known.channels.get(address) {
            Some(channel) => channel.clone(),
            None => {
                let endpoint = self.0.dialling.endpoint(address);
                let channel = endpoint.map_err(Status::unavailable)?.connect_lazy();
                known.channels.insert(address.to_owned(), channel.clone());
                channel
            }
        };
        Ok(MasterServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic aborts the process; should a test catch one, what is known is whole all the same.
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether another master, or the same a moment later, may answer.
pub(crate) fn is_worth_another_try(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
    )
}

fn leader_of(status: &Status) -> Option<String> {
    let details = status.get_error_details();
    let info = details.error_info().filter(|info| info.reason == NOT_LEADER)?;
    info.metadata.get("leader").filter(|leader| !leader.is_empty()).cloned()
}
