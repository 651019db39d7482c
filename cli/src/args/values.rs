//! How values on the command line are read: a wrong one is refused with what it must be.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use sharklock_client::{BadClusterId, endpoints_of_list};

use super::{Cluster, Endpoints};
use crate::{config::listen, traces::collector_url};

/// A lease cannot be shorter (decisions.md, *Defaults*).
const TTL_MIN: Duration = Duration::from_secs(2);
/// A lease cannot be longer (decisions.md, *Defaults*).
const TTL_MAX: Duration = Duration::from_secs(600);
/// A lock-delay, or the grace of a holder who is asked, cannot be longer.
const DELAY_MAX: Duration = Duration::from_secs(3_600);
/// A bound on the time of a hold cannot be longer.
const MAX_HOLD_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
/// A part of a bench's time cannot be shorter.
const EVERY_MIN: Duration = Duration::from_millis(100);
/// Longer than any session of work, short enough that arithmetic on it cannot overflow.
const DURATION_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// `dev` speaks plaintext to whoever asks, so it must not be reachable from elsewhere.
pub fn loopback_address(text: &str) -> Result<SocketAddr, String> {
    let address = listen(text).ok_or("expected ADDRESS:PORT, like 127.0.0.1:7700")?;
    if !address.ip().is_loopback() {
        return Err("`dev` has no encryption and serves loopback addresses only".into());
    }
    Ok(address)
}

/// The URL of a collector of spans; empty, as a variable may be: there is none.
pub fn collector_or_none(text: &str) -> Result<String, String> {
    if text.is_empty() { Ok(String::new()) } else { collector_url(text) }
}

pub fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|why| format!("{why}; give a number with a unit, like 500ms, 10s or 1m30s"))?;
    if duration > DURATION_MAX {
        return Err("at most 10 years".into());
    }
    Ok(duration)
}

pub fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    if !(TTL_MIN..=TTL_MAX).contains(&ttl) {
        return Err("a lease is 2s to 10m".into());
    }
    Ok(ttl)
}

/// A lock-delay, or the grace of a holder who is asked.
pub fn delay(text: &str) -> Result<Duration, String> {
    clause(text, DELAY_MAX, "1ms to 1h")
}

pub fn max_hold(text: &str) -> Result<Duration, String> {
    clause(text, MAX_HOLD_MAX, "1ms to 30d")
}

fn clause(text: &str, max: Duration, limits: &str) -> Result<Duration, String> {
    let clause = duration(text)?;
    if !(Duration::from_millis(1)..=max).contains(&clause) {
        return Err(format!("{limits}, or leave the option out"));
    }
    Ok(clause)
}

pub fn every(text: &str) -> Result<Duration, String> {
    let every = duration(text)?;
    if every < EVERY_MIN {
        return Err("at least 100ms: a shorter part has too few cycles for a percentile".into());
    }
    Ok(every)
}

pub fn endpoints(list: &str) -> Result<Endpoints, String> {
    let endpoints = endpoints_of_list(list);
    if endpoints.is_empty() {
        return Err(
            "--endpoints, or the variable SHARKLOCK_ENDPOINTS, names no endpoint: give at \
                    least one, as http://127.0.0.1:7700"
                .to_owned(),
        );
    }
    Ok(Endpoints(endpoints))
}

/// A variable that is set to nothing is not set.
pub fn cluster(id: &str) -> Result<Cluster, BadClusterId> {
    match id.trim() {
        "" => Ok(Cluster(None)),
        id => Ok(Cluster(Some(id.parse()?))),
    }
}

/// The limits of names (decisions.md, *Defaults*), checked here so that a bad name costs no round
/// trip.
pub fn lock_name(text: &str) -> Result<String, String> {
    bounded_text(text, 512, "a lock name")
}

pub fn prefix(text: &str) -> Result<String, String> {
    // The rest of a lock's name is for the numbers of worker and name.
    bounded_text(text, 480, "a prefix")
}

pub fn owner(text: &str) -> Result<String, String> {
    bounded_text(text, 256, "an owner")
}

pub fn reason(text: &str) -> Result<String, String> {
    bounded_text(text, 1024, "a reason")
}

pub fn token(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| {
        "a fencing token is a whole number from 1 on, as `locks show` shows it".to_owned()
    })
}

/// A session's handle, or the first digits of it: so many that two sessions hardly share them.
pub fn session_handle(text: &str) -> Result<String, String> {
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !(8..=32).contains(&text.len()) || !is_hex {
        return Err("a session is named by 8 to 32 hex digits, as `sessions ls` shows them".into());
    }
    Ok(text.to_ascii_lowercase())
}

fn bounded_text(text: &str, bytes_max: usize, what: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > bytes_max {
        return Err(format!("{what} has 1 to {bytes_max} bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{what} has no control characters"));
    }
    Ok(text.to_owned())
}
