//! Operators' calls about sessions.

use bytes::Bytes;
use sharklock_proto::v1::{GetSessionRequest, ListSessionsRequest, RevokeSessionRequest};

use super::{
    HANDLE_BYTES, OWNER_BYTES_MAX, PAGE_MAX, REASON_BYTES_MAX,
    fields::{check_text, clamp_page},
};
use crate::{
    failure::{Failure, Reason},
    session_walks::{Revocation, SessionList, SessionLook},
    walk::Walk,
};

/// Hex digits of a handle.
const HANDLE_DIGITS: usize = 2 * HANDLE_BYTES;

/// Checks a list of sessions, and clamps its page.
///
/// # Errors
/// A field breaks a rule.
pub fn list_sessions(request: ListSessionsRequest) -> Result<SessionList, Failure> {
    let ListSessionsRequest { owner, session_prefix, page_size, page_token } = request;
    check_text(Reason::BadOwner, "owner", &owner, 0, OWNER_BYTES_MAX)?;
    let is_hex = session_prefix.bytes().all(|byte| byte.is_ascii_hexdigit());
    if session_prefix.len() > HANDLE_DIGITS || !is_hex {
        let message = format!(
            "session_prefix is no beginning of a session's handle: give up to {HANDLE_DIGITS} hex \
             digits, as a list of sessions shows them"
        );
        let failure = Failure::of_field(Reason::BadSession, "session_prefix", message);
        return Err(failure.with("max", HANDLE_DIGITS));
    }
    let session_prefix = session_prefix.to_ascii_lowercase();
    let of = format!("sessions\n{session_prefix}\n{owner}");
    let walk = Walk::new(of, &page_token, clamp_page(page_size))?;
    Ok(SessionList { walk, session_prefix, owner, page: Default::default() })
}

/// Checks a look at a session, and clamps its page.
///
/// # Errors
/// A field breaks a rule.
pub fn get_session(request: GetSessionRequest) -> Result<SessionLook, Failure> {
    let GetSessionRequest { session, page_size, page_token } = request;
    let handle = handle(&session)?;
    let of = format!("session\n{}", session.to_ascii_lowercase());
    let walk = Walk::new(of, &page_token, clamp_page(page_size))?;
    Ok(SessionLook { walk, handle, page: Default::default() })
}

/// Checks a revocation.
///
/// # Errors
/// A field breaks a rule.
pub fn revoke_session(request: RevokeSessionRequest) -> Result<Revocation, Failure> {
    let RevokeSessionRequest { session, reason, operator, dry_run, page_token } = request;
    let handle = handle(&session)?;
    check_text(Reason::BadReason, "reason", &reason, 1, REASON_BYTES_MAX)?;
    check_text(Reason::BadOperator, "operator", &operator, 0, OWNER_BYTES_MAX)?;
    let of = format!("revocation\n{}\n{dry_run}", session.to_ascii_lowercase());
    // One after the other: of a range that was asked in vain nobody would hear who has left it.
    let walk = Walk::new(of, &page_token, PAGE_MAX)?.step_by_step();
    Ok(Revocation { walk, handle, reason, operator, dry_run, page: Default::default() })
}

fn handle(text: &str) -> Result<Bytes, Failure> {
    let bad = || {
        let message = format!(
            "session is no handle, which has {HANDLE_DIGITS} hex digits: copy it from a list of \
             sessions or from a holder of a lock. It is not the session's id, which is secret"
        );
        Failure::of_field(Reason::BadSession, "session", message).with("length", HANDLE_DIGITS)
    };
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if text.len() != HANDLE_DIGITS || !is_hex {
        return Err(bad());
    }
    let number = u128::from_str_radix(text, 16).map_err(|_| bad())?;
    Ok(Bytes::copy_from_slice(&number.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field_of<T: std::fmt::Debug>(result: Result<T, Failure>) -> (Reason, String) {
        let failure = result.expect_err("it breaks a rule");
        assert!(failure.message.len() > 20 && !failure.message.contains("zebra"), "{failure:?}");
        (failure.reason, failure.field.to_string())
    }

    const HANDLE: &str = "00ff00ff00ff00ff00ff00ff00ff0a0B";

    fn look(session: &str) -> Result<SessionLook, Failure> {
        get_session(GetSessionRequest { session: session.to_owned(), ..Default::default() })
    }

    #[test]
    fn a_handle_has_32_hex_digits() {
        let good = look(HANDLE).expect("it is one");
        assert_eq!(good.handle[..2], [0, 0xff]);
        assert_eq!(good.handle[15], 0x0b);
        let long = format!("{HANDLE}0");
        for bad in ["", "zebra", &HANDLE[1..], &long, &HANDLE.replace('a', "+"), &"ä".repeat(16)] {
            assert_eq!(field_of(look(bad)), (Reason::BadSession, "session".to_owned()), "{bad}");
        }
    }

    #[test]
    fn a_list_takes_a_beginning_of_a_handle_and_a_part_of_an_owner() {
        let list = |session_prefix: &str, owner: &str| {
            let (session_prefix, owner) = (session_prefix.to_owned(), owner.to_owned());
            list_sessions(ListSessionsRequest { session_prefix, owner, ..Default::default() })
        };
        assert_eq!(list("00FF", "billing").expect("good").session_prefix, "00ff");
        list(HANDLE, &"x".repeat(256)).expect("as long as they may be");
        let bad_prefix = (Reason::BadSession, "session_prefix".to_owned());
        assert_eq!(field_of(list("zebra", "")), bad_prefix);
        assert_eq!(field_of(list(&format!("{HANDLE}0"), "")), bad_prefix);
        let bad_owner = (Reason::BadOwner, "owner".to_owned());
        assert_eq!(field_of(list("", &"x".repeat(257))), bad_owner);
        assert_eq!(field_of(list("", "zebra\n")), bad_owner);
    }

    #[test]
    fn a_revocation_says_why_and_may_say_who() {
        let revoke = |reason: &str, operator: &str, page_token: &str| {
            let (session, reason) = (HANDLE.to_owned(), reason.to_owned());
            let (operator, page_token) = (operator.to_owned(), page_token.to_owned());
            revoke_session(RevokeSessionRequest {
                session,
                reason,
                operator,
                page_token,
                dry_run: false,
            })
        };
        revoke("x", "", "").expect("good");
        revoke(&"x".repeat(1_024), &"x".repeat(256), "").expect("as long as they may be");
        let bad_reason = (Reason::BadReason, "reason".to_owned());
        assert_eq!(field_of(revoke("", "", "")), bad_reason);
        assert_eq!(field_of(revoke(&"x".repeat(1_025), "", "")), bad_reason);
        let bad_operator = (Reason::BadOperator, "operator".to_owned());
        assert_eq!(field_of(revoke("x", &"x".repeat(257), "")), bad_operator);
        let bad_token = (Reason::BadPageToken, "page_token".to_owned());
        assert_eq!(field_of(revoke("x", "", "zebra")), bad_token);
    }
}
