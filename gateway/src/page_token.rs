//! The token with which a list goes on: the first name that is still to come, and of which list.
//!
//! Nobody keeps anything for it, so any gateway of the cluster takes it, at any time. It is no
//! secret and no proof: whoever makes one up could have asked for those names as well. What is
//! checked is that it came from a page of the same list, and came whole.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::failure::{Failure, Reason};

/// What the bytes mean.
const VERSION: u8 = 1;
/// Of the SHA-256 over everything that has to be right.
const CHECK_BYTES: usize = 8;

/// The token of a list of `prefix` that goes on at `from`.
pub fn encode(prefix: &str, from: &str) -> String {
    let bytes = [&[VERSION], &check(prefix, from)[..], from.as_bytes()].concat();
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut token, byte| {
        write!(token, "{byte:02x}").expect("a string takes all");
        token
    })
}

/// Where a list of `prefix` goes on.
///
/// # Errors
/// BAD_PAGE_TOKEN: this is no token of a list of `prefix`.
pub fn decode(prefix: &str, token: &str) -> Result<String, Failure> {
    read(prefix, token).ok_or_else(none_of_this_list)
}

/// The refusal of a token.
pub fn none_of_this_list() -> Failure {
    let message = "page_token is none of this list: send next_page_token of the page before as it \
                   came, with the same question, or leave it out to begin anew";
    Failure::of_field(Reason::BadPageToken, "page_token", message)
}

fn read(prefix: &str, token: &str) -> Option<String> {
    let bytes = bytes(token)?;
    let (version, rest) = bytes.split_first()?;
    let (told, from) = rest.split_at_checked(CHECK_BYTES)?;
    let from = str::from_utf8(from).ok()?;
    (*version == VERSION && told == check(prefix, from)).then(|| from.to_owned())
}

/// Only as [`encode`] writes them, so that a list has one token for each place.
fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    rest.is_empty().then(|| pairs.iter().map(byte).collect())?
}

fn check(prefix: &str, from: &str) -> [u8; CHECK_BYTES] {
    let mut hash = Sha256::new();
    hash.update([VERSION]);
    hash.update((prefix.len() as u64).to_be_bytes());
    hash.update(prefix);
    hash.update(from);
    *hash.finalize().first_chunk().expect("a SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written() {
        for (prefix, from) in [("", "a\0"), ("jobs/", "jobs/7\0"), ("ä", "äöü\0"), ("", "m")] {
            let token = encode(prefix, from);
            assert_eq!(decode(prefix, &token), Ok(from.to_owned()));
            assert!(token.bytes().all(|byte| byte.is_ascii_hexdigit()), "{token}");
        }
    }

    #[test]
    fn everything_else_is_refused_in_plain_words() {
        let token = encode("jobs/", "jobs/7\0");
        let spoilt = |at: usize, with: &str| {
            let mut spoilt = token.clone();
            spoilt.replace_range(at..=at, with);
            spoilt
        };
        let bad = [
            "jobs/7".to_owned(),
            "ä".repeat(20),
            token[..token.len() - 1].to_owned(),
            token[..token.len() - 2].to_owned(),
            token[2..].to_owned(),
            token.to_uppercase(),
            format!("{token}00"),
            spoilt(1, "2"),
            spoilt(7, "x"),
            spoilt(token.len() - 3, "8"),
            "01".to_owned(),
            "f".repeat(60_000),
        ];
        for token in bad {
            let failure = decode("jobs/", &token).expect_err(&token);
            assert_eq!((failure.reason, &*failure.field), (Reason::BadPageToken, "page_token"));
            assert!(!failure.message.contains(&token), "{failure:?}");
        }
        for prefix in ["", "jobs", "jobs/7", "other"] {
            decode(prefix, &token).expect_err("it is a token of another list");
        }
    }
}
