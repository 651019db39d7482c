//! An address at which another cluster answers for a while: an empty one, which grants whatever it is
//! asked for. Clients know their cluster, so nothing of that reaches them: their connections to the
//! address break, and a dial that meets the other one is left.

use std::collections::{BTreeMap, BTreeSet};

use sharklock_client::{ClusterId, Membership};
use sharklock_proto::v1::{self, SessionAnswer, SessionRequest, SessionResponse};
use sharklock_proto::v1::{session_answer, session_call};

use crate::node::Node;
use crate::note;
use crate::streams::{ConnId, End, Payload};
use crate::world::World;

const OURS: ClusterId = ClusterId::from_bytes([0xc1; 16]);
const ANOTHER: ClusterId = ClusterId::from_bytes([0xee; 16]);

/// The gateways at whose addresses another cluster answers.
#[derive(Debug, Default)]
pub struct Impostors {
    /// By gateway: until when.
    until: BTreeMap<usize, u64>,
    /// Clients that speak to it.
    conns: BTreeSet<ConnId>,
    /// The last token that it gave.
    tokens: u64,
}

/// The knowledge of a client that begins, and was told its cluster.
pub fn told(gateways: usize) -> Membership {
    Membership::new((1..=gateways).map(|number| format!("g{number}")).collect(), Some(OURS))
}

impl World {
    /// Another cluster answers at a gateway's address.
    pub(crate) fn impostor_comes(&mut self, number: usize, length: u64) {
        note!(self, "another cluster answers at g{number}");
        self.impostors.until.insert(number, self.now + length);
        for (conn, end) in self.streams.of(Node::Gateway(number)) {
            let of_client = self.streams.get_mut(conn).map(|it| it.node(end.other()));
            if matches!(of_client, Some(Node::Client(_))) {
                self.cut_stream(conn);
            }
        }
    }

    pub(crate) fn impostors_go(&mut self) {
        self.impostors.until.clear();
    }

    fn is_impostor(&self, gateway: usize) -> bool {
        self.impostors.until.get(&gateway).is_some_and(|until| *until > self.now)
    }

    /// The gateway that answers has said which cluster it belongs to. False: the client has nothing
    /// to do with it.
    pub(crate) fn client_meets(&mut self, number: usize, at: usize) -> bool {
        let cluster = if self.is_impostor(1 + at) { ANOTHER } else { OURS };
        let client = &mut self.clients[number - 1];
        let now = client.now(self.now);
        let Some(process) = &mut client.process else { return false };
        let known = &mut process.known;
        known.said(at, cluster);
        process.rotation.bar(|at| known.mismatch(at).is_some());
        process.driver.clusters(now, known);
        let is_ours = known.is_ours(at);
        if !is_ours {
            note!(self, "c{number} meets another cluster at g{}", 1 + at);
            self.counters.count("clients meet another cluster");
        }
        is_ours
    }

    /// A client that has taken it for a gateway of its own cluster connects.
    pub(crate) fn impostor_accepts(&mut self, number: usize, conn: ConnId) -> bool {
        self.is_impostor(number) && self.impostors.conns.insert(conn)
    }

    /// Something arrives at the other cluster; None: it was not for it.
    pub(crate) fn impostor_receives(
        &mut self,
        conn: ConnId,
        payload: Option<Payload>,
    ) -> Option<Option<Payload>> {
        if !self.impostors.conns.contains(&conn) {
            return Some(payload);
        }
        match payload {
            Some(Payload::Request(half, request)) => {
                let answers = self.impostor_answers(*request);
                let response = Box::new(SessionResponse { answers });
                self.send(conn, End::Dialler, Payload::Response(half, response));
            }
            _ => drop(self.impostors.conns.remove(&conn)),
        }
        None
    }

    /// Everything is free there, and whoever asks is granted it.
    fn impostor_answers(&mut self, request: SessionRequest) -> Vec<SessionAnswer> {
        let mut answers = Vec::new();
        for call in request.calls {
            let body = match call.body {
                Some(session_call::Body::Acquire(it)) => {
                    self.impostors.tokens += 1;
                    let token = self.impostors.tokens;
                    let mut answer = v1::AcquireResponse {
                        acquisition_id: it.acquisition_id,
                        seq: it.seq,
                        token,
                        fence_floor: token,
                        ttl_ms: it.ttl_ms.unwrap_or_default(),
                        ..Default::default()
                    };
                    answer.set_outcome(v1::AcquireOutcome::Granted);
                    session_answer::Body::Acquire(answer)
                }
                Some(session_call::Body::Cancel(_)) => {
                    session_answer::Body::Cancel(v1::CancelResponse::default())
                }
                _ => continue,
            };
            answers.push(SessionAnswer { call_id: call.call_id, body: Some(body) });
        }
        answers
    }
}
