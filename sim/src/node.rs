//! The names of a world's nodes.

use std::fmt;

/// One machine of the world, counted from 1 within its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// A data server.
    Store(usize),
    /// A gateway.
    Gateway(usize),
    /// A client's process.
    Client(usize),
    /// A master.
    Master(usize),
    /// Somebody at a terminal, who gives orders to the masters.
    Operator,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(number) => write!(f, "s{number}"),
            Self::Gateway(number) => write!(f, "g{number}"),
            Self::Client(number) => write!(f, "c{number}"),
            Self::Master(number) => write!(f, "m{number}"),
            Self::Operator => write!(f, "operator"),
        }
    }
}
