//! Sessions that stand beside the cycles: each holds one lock of its own, and renews it all the time
//! over connections that it shares with others.

use std::time::Instant;

use sharklock_client::{Client, Connections, Guard};

use crate::{
    beside::{AllStood, Told, end, give_back, names, take},
    load::LoadError,
    measure,
    report::{KeepAlives, Latencies, Stood},
    worker::now,
};

/// They stand.
///
/// Invariant: no guard is dropped before the run is over.
#[derive(Debug)]
pub struct Sessions {
    connections: Connections,
    clients: Vec<Client>,
    guards: Vec<Guard>,
    /// Since when keepalives are counted.
    counts_from: Instant,
}

impl Sessions {
    /// Builds so many up; `client` makes the clients, which share `connections`.
    pub async fn build(
        wanted: u32,
        prefix: &str,
        client: impl Fn(&Connections) -> Result<Client, LoadError>,
        told: Told,
        stood: &mut AllStood,
    ) -> Result<Self, LoadError> {
        let (begun, connections) = (now(), Connections::new());
        let clients: Vec<_> =
            (0..wanted).map(|_| client(&connections)).collect::<Result<_, _>>()?;
        let name = names(format!("{prefix}session/"));
        let taken = take(&clients, 1, wanted, name, told).await;
        stood.errors.add_all(&taken.errors);
        stood.sessions = Some(Stood {
            wanted,
            count: taken.guards.len() as u64,
            built_up_s: begun.elapsed().as_secs_f64(),
            acquire: Some(measure::latencies(taken.latencies)),
            ..Stood::default()
        });
        Ok(Self { connections, clients, guards: taken.guards, counts_from: now() })
    }

    /// The run begins: keepalives count from here on.
    pub fn begin(&mut self) {
        drop(self.connections.take_keepalive_delays());
        self.counts_from = now();
    }

    /// The run is over: counts what is lost, and gives all back.
    pub async fn end(self, told: Told, all: &mut AllStood) {
        let delays = self.connections.take_keepalive_delays();
        let counted_s = self.counts_from.elapsed().as_secs_f64();
        let us = |part: f64| delays.within(part).as_secs_f64() * 1e6;
        all.keepalives = Some(KeepAlives {
            connections: self.connections.count() as u64,
            per_s: delays.sent() as f64 / counted_s.max(f64::MIN_POSITIVE),
            answers: Latencies {
                count: delays.answered(),
                p50_us: us(0.5),
                p99_us: us(0.99),
                p999_us: us(0.999),
                max_us: delays.longest().as_secs_f64() * 1e6,
            },
        });
        let lost = self.guards.iter().filter(|guard| !guard.is_valid()).count() as u64;
        let begun = now();
        give_back(self.guards, told, &mut all.errors).await;
        end(self.clients).await;
        if let Some(stood) = &mut all.sessions {
            (stood.lost, stood.given_back_s) = (lost, begun.elapsed().as_secs_f64());
        }
    }
}
