//! One function per kind of field: its limit, and the words for a request that breaks it.

use std::collections::BTreeMap;

use sharklock_proto::v1::{AcquireRequest, LockMode};

use super::{ATTRIBUTES_BYTES_MAX, NAME_BYTES_MAX, PAGE_DEFAULT, PAGE_MAX, PERMITS_MAX};
use crate::failure::{Failure, Reason};

pub(super) fn check_acquisition_id(field: &str, id: u64) -> Result<(), Failure> {
    if id != 0 {
        return Ok(());
    }
    Err(Failure::of_field(
        Reason::BadAcquisitionId,
        field,
        "an acquisition id is not 0: number acquisitions from 1, and use no number twice",
    ))
}

pub(super) fn check_seq(seq: u64) -> Result<(), Failure> {
    if seq != 0 {
        return Ok(());
    }
    Err(Failure::of_field(
        Reason::BadSeq,
        "seq",
        "a seq is not 0: number attempts from 1, each larger than all before",
    ))
}

pub(super) fn check_token_number(field: &str, token: u64) -> Result<(), Failure> {
    if token != 0 {
        return Ok(());
    }
    Err(Failure::of_field(
        Reason::BadToken,
        field,
        "a fencing token is not 0: use the token of the grant",
    ))
}

pub(super) fn check_name(name: &str) -> Result<(), Failure> {
    check_text(Reason::BadLockName, "name", name, 1, NAME_BYTES_MAX)
}

pub(super) fn check_text(
    reason: Reason,
    field: &str,
    text: &str,
    bytes_min: usize,
    bytes_max: usize,
) -> Result<(), Failure> {
    if text.len() < bytes_min {
        let message = format!("{field} is empty: give 1 to {bytes_max} bytes");
        return Err(Failure::of_field(reason, field, message).with("max", bytes_max));
    }
    if text.len() > bytes_max {
        let message = format!(
            "{field} has {} bytes: shorten it to at most {bytes_max}, counted as UTF-8",
            text.len()
        );
        return Err(Failure::of_field(reason, field, message).with("max", bytes_max));
    }
    if !is_plain(text) {
        return Err(Failure::of_field(
            reason,
            field,
            format!(
                "{field} holds a control character (a line break, NUL, or one that changes the \
                 direction of text): remove or encode it"
            ),
        ));
    }
    Ok(())
}

/// Whether a text can be shown on one line of a terminal or a log and reads there as it is.
fn is_plain(text: &str) -> bool {
    // Nearly all names are ASCII, of which 0..0x20 and 0x7f are control characters.
    if text.is_ascii() {
        return text.bytes().all(|byte| byte >= b' ' && byte != 0x7f);
    }
    !text.chars().any(|c| c.is_control() || breaks_lines(c) || changes_direction(c))
}

fn breaks_lines(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}')
}

/// Unicode's `Bidi_Control`.
fn changes_direction(c: char) -> bool {
    matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

pub(super) fn check_mode(request: &AcquireRequest) -> Result<(), Failure> {
    let permits = match LockMode::try_from(request.mode) {
        Ok(LockMode::Exclusive | LockMode::Shared) => false,
        Ok(LockMode::Permits) => true,
        Ok(LockMode::Unspecified) | Err(_) => {
            return Err(Failure::of_field(
                Reason::BadMode,
                "mode",
                "mode says none of EXCLUSIVE, SHARED and PERMITS: choose one",
            ));
        }
    };
    let (wanted, max) = (request.permits, request.permits_max);
    if !permits && (wanted, max) != (0, 0) {
        return Err(Failure::of_field(
            Reason::BadPermits,
            "permits",
            "only mode PERMITS counts permits: leave permits and permits_max out, or set the mode",
        ));
    }
    if permits && !(1..=PERMITS_MAX).contains(&max) {
        return Err(Failure::of_field(
            Reason::BadPermits,
            "permits_max",
            format!("a lock has 1 to {PERMITS_MAX} permits: choose a permits_max within"),
        )
        .with("max", PERMITS_MAX));
    }
    if permits && !(1..=max).contains(&wanted) {
        return Err(Failure::of_field(
            Reason::BadPermits,
            "permits",
            "an acquisition takes 1 to permits_max permits: choose permits within",
        ));
    }
    Ok(())
}

pub(super) fn check_attributes(attributes: &BTreeMap<String, String>) -> Result<(), Failure> {
    let bytes: usize = attributes.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > ATTRIBUTES_BYTES_MAX {
        let message = format!(
            "the keys and values of attributes have {bytes} bytes together: shorten them to at \
             most {ATTRIBUTES_BYTES_MAX}"
        );
        return Err(Failure::of_field(Reason::BadAttributes, "attributes", message)
            .with("max", ATTRIBUTES_BYTES_MAX));
    }
    if !attributes.iter().all(|(key, value)| !key.is_empty() && is_plain(key) && is_plain(value)) {
        return Err(Failure::of_field(
            Reason::BadAttributes,
            "attributes",
            "an attribute has an empty key, or a control character (a line break, NUL, or one that \
             changes the direction of text): name the key, and remove or encode the character",
        ));
    }
    Ok(())
}

pub(super) fn clamp_page(asked: u32) -> u32 {
    match asked {
        0 => PAGE_DEFAULT,
        asked => asked.min(PAGE_MAX),
    }
}
