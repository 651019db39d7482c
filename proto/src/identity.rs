//! Sixteen bytes that name something for ever: a cluster, a data directory, one life of a process.
//! Each is a type of its own, so that none is taken for another; on the wire they are bytes, and
//! people see 32 hex digits.

use std::{fmt, str::FromStr};

use bytes::Bytes;

/// A field has a wrong length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotSixteenBytes {
    /// So many bytes are there.
    pub found: usize,
}

impl fmt::Display for NotSixteenBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it has {} bytes: 16 are expected", self.found)
    }
}

impl std::error::Error for NotSixteenBytes {}

/// A text does not consist of 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotHex;

impl fmt::Display for NotHex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id has 32 hex digits, as `sharklock status` shows it")
    }
}

impl std::error::Error for NotHex {}

macro_rules! sixteen_bytes {
    ($(#[$meaning:meta])* $name:ident) => {
        $(#[$meaning])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// The one with these bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The bytes that the hex digits stand for.
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0
            }

            /// As a field of a message or record.
            pub fn to_wire(self) -> Bytes {
                Bytes::copy_from_slice(&self.0)
            }

            /// From a field of a message or record.
            ///
            /// # Errors
            /// It has not 16 bytes.
            pub fn from_wire(field: &[u8]) -> Result<Self, NotSixteenBytes> {
                let bytes = field.try_into();
                bytes.map(Self).map_err(|_length| NotSixteenBytes { found: field.len() })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = NotHex;

            fn from_str(text: &str) -> Result<Self, NotHex> {
                parse(text).map(Self).ok_or(NotHex)
            }
        }

        impl PartialEq<$name> for Bytes {
            fn eq(&self, other: &$name) -> bool {
                self[..] == other.0
            }
        }
    };
}

sixteen_bytes! {
    /// Names a cluster: 16 bytes, made when its masters formed it, written as 32 hex digits.
    ClusterId
}
sixteen_bytes! {
    /// Names a data directory: random, made with it, on the disk before anybody hears of it. It tells
    /// two directories apart that claim to be the same store or master.
    Identity
}
sixteen_bytes! {
    /// Names one life of a store's process, from its start to its end: random, never on a disk.
    Life
}

/// One start of a process on a store's data directory. Without the number nobody could tell a message
/// of an ended process that comes late from one of the process that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Counts the starts on the directory, from 1. The directory has it durably before anybody hears of
    /// the process.
    pub number: u64,
    /// Names the process: two that have one number are on two copies of a directory.
    pub life: Life,
}

impl Start {
    /// Whether a directory whose `last` start is known can have this one now: a later one, or that
    /// very process once more.
    pub fn may_follow(self, last: Self) -> bool {
        self.number > last.number || self == last
    }
}

fn parse(text: &str) -> Option<[u8; 16]> {
    let digits = text.as_bytes();
    if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_back_from_its_digits_and_from_the_wire() {
        let identity = Identity::from_bytes(std::array::from_fn(|at| 17 * at as u8));
        assert_eq!(identity.to_string(), "00112233445566778899aabbccddeeff");
        assert_eq!(identity.to_string().parse(), Ok(identity));
        assert_eq!("00112233445566778899AABBCCDDEEFF".parse(), Ok(identity));
        assert_eq!(Identity::from_wire(&identity.to_wire()), Ok(identity));
    }

    #[test]
    fn a_later_start_follows_and_so_does_the_same_process_but_no_other() {
        let start = |number, life| Start { number, life: Life::from_bytes([life; 16]) };
        let last = start(7, 1);
        assert!(start(8, 2).may_follow(last) && last.may_follow(last));
        assert!(!start(6, 3).may_follow(last) && !start(7, 2).may_follow(last));
    }

    #[test]
    fn what_has_not_sixteen_bytes_is_no_identity() {
        for text in ["", "0123", &"x".repeat(32), &"é".repeat(16), &format!("+{}", "0".repeat(31))]
        {
            assert_eq!(text.parse::<ClusterId>(), Err(NotHex), "{text}");
        }
        for found in [0, 15, 17] {
            assert_eq!(Life::from_wire(&vec![0; found]), Err(NotSixteenBytes { found }));
        }
    }
}
