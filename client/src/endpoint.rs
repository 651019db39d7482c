//! An endpoint as a user writes it, and how a connection to it behaves.

use std::time::Duration;

use tonic::transport::Endpoint;

use crate::error::ConfigError;

/// Connecting to one endpoint; then the next is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A peer that answers no HTTP/2 ping for so long is given up. Interval and timeout together are
/// the time in which a silent connection is found: 10 s.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers under way on one stream: a second's worth at the highest rates, so that credit is not
/// what a batch waits for.
const WINDOW_BYTES: u32 = 1 << 20;

/// The endpoints of a list that is separated by commas. Spaces around them and empty places do not
/// matter: lists are put together by scripts.
pub fn parse_list(list: &str) -> Vec<String> {
    let places = list.split(',').map(str::trim);
    places.filter(|place| !place.is_empty()).map(str::to_owned).collect()
}

/// As people know it.
pub(crate) fn shown(endpoint: &Endpoint) -> String {
    endpoint.uri().to_string().trim_end_matches('/').to_owned()
}

pub(crate) fn parse(endpoint: &str) -> Result<Endpoint, ConfigError> {
    let refuse =
        |why: &str| ConfigError::Endpoint { endpoint: endpoint.to_owned(), why: why.to_owned() };
    let address = match endpoint.split_once("://") {
        None => endpoint,
        Some(("http", address)) => address,
        Some(("https", _)) => return Err(refuse("this build has no TLS")),
        Some((_, _)) => return Err(refuse("unknown scheme")),
    };
    let address = address.strip_suffix('/').unwrap_or(address);
    let Some((host, port)) = address.rsplit_once(':') else {
        return Err(refuse("the port is missing"));
    };
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(refuse("not host:port"));
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| refuse("not a valid address"))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(2 * WINDOW_BYTES)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_with_and_without_scheme_are_understood() {
        for endpoint in
            ["http://127.0.0.1:7700", "127.0.0.1:7700", "http://lock.example:7700/", "[::1]:7700"]
        {
            assert!(parse(endpoint).is_ok(), "{endpoint}");
        }
    }

    #[test]
    fn lists_may_have_spaces_and_stray_commas() {
        assert_eq!(parse_list(" a:1 ,\tb:2,,\n"), ["a:1", "b:2"]);
        assert_eq!(parse_list(",a:1"), ["a:1"]);
        assert!(parse_list(" , ").is_empty());
    }

    #[test]
    fn endpoints_that_cannot_work_are_refused_with_the_reason() {
        for (endpoint, why) in [
            ("https://127.0.0.1:7700", "this build has no TLS"),
            ("redis://127.0.0.1:7700", "unknown scheme"),
            ("127.0.0.1", "the port is missing"),
            ("127.0.0.1:77000", "not host:port"),
            (":7700", "not host:port"),
            ("", "the port is missing"),
            ("a b:7700", "not a valid address"),
        ] {
            let refused = ConfigError::Endpoint { endpoint: endpoint.into(), why: why.into() };
            assert_eq!(parse(endpoint).unwrap_err(), refused);
        }
    }
}
