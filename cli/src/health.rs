//! `sharklock health`: whether the process on this machine is ready, for whoever runs containers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Serialize;

use crate::{
    args::{HealthArgs, Output},
    config::{self, Origin, Raw, said},
    exit::{FAILED, Failure, OK, UNREACHABLE},
    probe::{Readiness, readiness},
    render::{json, print},
    runtime,
};

/// `sharklock health`, where the process is ready.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.Health")]
struct Health {
    /// The port that was asked.
    admin: String,
    /// Always true: a process that is not ready is a failure.
    ready: bool,
}

/// Asks once. The port is the one that a server with this environment would open.
pub fn run(args: HealthArgs) -> Result<u8, Failure> {
    let flag = args.admin.map(|at| said("listen.admin", Raw::Text(at), Origin::Flag("--admin")));
    let settings = config::load(args.config.as_deref(), flag.into_iter().collect())?;
    let admin = reachable(settings.listen("listen.admin"));
    match runtime::start(1)?.block_on(readiness(admin)) {
        Readiness::Ready => {
            print(&match args.output.output {
                Output::Table => "ready\n".to_owned(),
                Output::Json => json(&Health { admin: admin.to_string(), ready: true }),
            })?;
            Ok(OK)
        }
        Readiness::Lacks(what) => {
            Err(Failure::new(FAILED, format!("the process at {admin} is not ready"))
                .reason("NOT_READY")
                .cause(what)
                .hint("sharklock status"))
        }
        Readiness::Silent => Err(Failure::new(UNREACHABLE, format!("nothing answers at {admin}"))
            .hint("--admin IP:PORT names the admin port of a process, as its listen.admin")),
    }
}

/// A process that listens on every address of a machine is asked at its loopback address.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_asked_at_loopback() {
        let asked = |at: &str| reachable(at.parse().expect("an address")).to_string();
        assert_eq!(asked("0.0.0.0:7790"), "127.0.0.1:7790");
        assert_eq!(asked("[::]:7790"), "[::1]:7790");
        assert_eq!(asked("10.0.0.1:1"), "10.0.0.1:1");
    }
}
