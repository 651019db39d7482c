//! A cluster under load while something breaks every three seconds: kills, freezes and cuts from a
//! plan that a seed decides.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use sharklock_tests::cluster::{CHAOS, Cluster};
use sharklock_tests::load::{Load, Plan};
use tokio::time::{Instant, sleep_until};

use crate::alone;

/// How long, in seconds; `scripts/chaos.sh` sets it.
const SECONDS: &str = "SHARKLOCK_CHAOS_SECONDS";
/// Which plan.
const SEED: &str = "SHARKLOCK_CHAOS_SEED";
/// A run that fits CI, by a plan of its own: the shares of so short a time differ by the luck of
/// who is struck more than they do in the five minutes of the script, whose plans are random.
const SECONDS_IN_CI: u64 = 45;
const SEED_IN_CI: u64 = 7;
/// Between two strikes.
const STRIKE_EVERY: Duration = Duration::from_secs(3);
/// The clients.
const CLIENTS: usize = 50;
/// The bounds for five minutes.
const CYCLES_PER_SECOND_MIN: f64 = 100_000.0 / 300.0;
const BUSY_SHARE_MIN: f64 = 0.7;
const GAP_MAX: Duration = Duration::from_secs(5);

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, which is no number")))
}

/// The damage that is to be mended before the next strike.
#[derive(Clone, Copy, Debug)]
enum Broken {
    Killed,
    Paused,
    CutOff { sends: bool, hears: bool },
}

impl Broken {
    fn draw(rng: &mut StdRng) -> Self {
        match rng.random_range(0..5) {
            0 | 1 => Self::Killed,
            2 => Self::Paused,
            3 => Self::CutOff { sends: true, hears: true },
            _ => {
                let sends = rng.random();
                Self::CutOff { sends, hears: !sends }
            }
        }
    }

    fn strike(self, cluster: &mut Cluster, node: usize) {
        match self {
            Self::Killed => cluster.kill(node),
            Self::Paused => cluster.pause(node),
            Self::CutOff { sends, hears } => cluster.links.cut_off(node, sends, hears),
        }
    }

    fn mend(self, cluster: &mut Cluster, node: usize) {
        match self {
            Self::Killed => cluster.spawn(node),
            Self::Paused => cluster.resume(node),
            Self::CutOff { .. } => cluster.links.mend(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_while_something_breaks_every_three_seconds() {
    let _alone = alone().await;
    let (seconds, any_seed) = match number(SECONDS) {
        Some(seconds) => (seconds, rand::random()),
        None => (SECONDS_IN_CI, SEED_IN_CI),
    };
    let seed = number(SEED).unwrap_or(any_seed);
    println!("{SEED}={seed} {SECONDS}={seconds}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(3, CHAOS).await;
    let plan = Plan { workers: CLIENTS, shared_names: 5, ..Plan::default() };
    let load = Load::start(&plan, || cluster.client());
    let begin = Instant::now();
    let end = begin + Duration::from_secs(seconds);
    let mut next = begin + STRIKE_EVERY;
    let mut strikes = 0;
    while next < end {
        sleep_until(next).await;
        let (broken, node) = (Broken::draw(&mut rng), rng.random_range(0..cluster.len()));
        // Mended well before the next strike, so that two of three nodes always go on.
        let mend_at = next + STRIKE_EVERY.mul_f64(rng.random_range(0.2..0.6));
        println!("{:>6.1?} {broken:?} node {node}, {} cycles", begin.elapsed(), load.done());
        broken.strike(&mut cluster, node);
        sleep_until(mend_at).await;
        broken.mend(&mut cluster, node);
        strikes += 1;
        next += STRIKE_EVERY;
    }
    sleep_until(end).await;
    let verdict = load.end().await;
    let (cycles, gap, share) = (verdict.cycles, verdict.longest_gap, verdict.busy_share);
    for (from, long) in &verdict.silences {
        println!("{from:>6.1?} silent for {long:.2?}");
    }
    // An acquire and a release are two operations.
    let operations = 2 * cycles;
    println!(
        "chaos: {strikes} strikes in {:.0?}, {operations} acknowledged operations, {:.1} % of tenths of a \
         second with a success, longest gap {gap:.2?}, 0 violations ({})",
        verdict.took,
        100.0 * share,
        verdict.report.counts
    );
    assert!(share >= BUSY_SHARE_MIN, "{share}");
    assert!(gap <= GAP_MAX, "{gap:?}");
    let wanted = CYCLES_PER_SECOND_MIN * seconds as f64;
    assert!(operations as f64 >= wanted, "{operations} of {wanted}");
    cluster.until_healthy().await;
}
