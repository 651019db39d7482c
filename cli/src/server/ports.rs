//! Takes ports before anything is written, and opens them after everything is ready.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

use crate::exit::{CONFIG, Failure};

/// Connections that wait to be accepted: a burst of clients after a restart fits.
const BACKLOG_LEN: u32 = 1024;

/// A port that is taken and does not answer yet.
#[derive(Debug)]
pub struct ReservedPort {
    socket: TcpSocket,
    address: SocketAddr,
}

impl ReservedPort {
    /// Takes `address`; `other` is the option that chooses another one, to be named when this is not
    /// to be had.
    pub fn take(address: SocketAddr, other: &str) -> Result<Self, Failure> {
        let take = || -> io::Result<Self> {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            // A restart must not wait for the last run's connections to be forgotten. A port that
            // another process listens on is refused all the same.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let address = socket.local_addr()?;
            Ok(Self { socket, address })
        };
        take().map_err(|why| refused(address, other, &why))
    }

    /// The address at which it will answer. The port is a real one, also when port 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins to answer.
    pub fn open(self, other: &str) -> Result<TcpListener, Failure> {
        let address = self.address;
        self.socket.listen(BACKLOG_LEN).map_err(|why| refused(address, other, &why))
    }
}

fn refused(address: SocketAddr, other: &str, why: &io::Error) -> Failure {
    let what = match why.kind() {
        io::ErrorKind::AddrInUse => "is in use".to_owned(),
        _ => format!("cannot be used: {why}"),
    };
    Failure::new(CONFIG, format!("{address} {what}; choose another with {other}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[tokio::test]
    async fn a_port_in_use_is_refused_in_one_line_that_names_the_flag() {
        let taken = ReservedPort::take(any(), "--listen ADDR").expect("a free port");
        let listener = taken.open("--listen ADDR").expect("it opens");
        let address = listener.local_addr().expect("it has an address");
        let refused = ReservedPort::take(address, "--listen ADDR").expect_err("it is in use");
        assert_eq!(
            refused.to_string(),
            format!("error: {address} is in use; choose another with --listen ADDR\n")
        );
        assert_eq!(refused.code(), CONFIG);
    }

    #[tokio::test]
    async fn a_reserved_port_does_not_answer_before_it_is_opened() {
        let port = ReservedPort::take(any(), "--listen ADDR").expect("a free port");
        let address = port.address();
        assert_ne!(address.port(), 0);
        let early = tokio::net::TcpStream::connect(address).await;
        assert_eq!(early.expect_err("nobody listens").kind(), io::ErrorKind::ConnectionRefused);
        let _listener = port.open("--listen ADDR").expect("it opens");
        tokio::net::TcpStream::connect(address).await.expect("somebody listens");
    }
}
