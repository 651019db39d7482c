//! From calls to messages of a `Session` stream: whatever waits when the stream is free goes out as
//! one message (D16), within the limits of servers.

use bytes::Bytes;
use prost::Message as _;
use sharklock_proto::v1;

/// Calls of one message (lock.proto).
const CALLS_MAX: usize = 1024;

/// Bytes of one message. A server refuses more than 64 KiB; one call is below 34 KiB (a KeepAlive
/// of 64 names of 512 bytes), and the last call that begins below this mark still fits.
const MESSAGE_BYTES_MAX: usize = 24 * 1024;

/// Takes the first calls out, as many as one message holds; None when there are none. The session's
/// secret goes into every frame and nowhere else.
pub fn take_message(
    calls: &mut Vec<v1::SessionCall>,
    session_id: &Bytes,
    instance: u64,
) -> Option<v1::SessionRequest> {
    if calls.is_empty() {
        return None;
    }
    let rest = calls.split_off(fitting_count(calls));
    let calls = std::mem::replace(calls, rest);
    Some(v1::SessionRequest { session_id: session_id.clone(), instance, calls })
}

/// How many of the calls go into one message: at least one.
fn fitting_count(calls: &[v1::SessionCall]) -> usize {
    let mut bytes = 0;
    let fitting = calls.iter().take(CALLS_MAX).take_while(|call| {
        let fits = bytes < MESSAGE_BYTES_MAX;
        bytes += call.encoded_len();
        fits
    });
    fitting.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(name_bytes: usize) -> v1::SessionCall {
        let name = "n".repeat(name_bytes);
        let release = v1::ReleaseRequest { name, ..Default::default() };
        v1::SessionCall { call_id: 1, body: Some(v1::session_call::Body::Release(release)) }
    }

    #[test]
    fn messages_keep_within_the_limits_of_servers() {
        assert_eq!(fitting_count(&vec![release(1); 5000]), CALLS_MAX);
        let large = vec![release(512); 5000];
        let message = large[..fitting_count(&large)].to_vec();
        let message = v1::SessionRequest { calls: message, ..Default::default() };
        assert!(message.encoded_len() < 64 * 1024);
        // A call larger than the mark goes alone.
        assert_eq!(fitting_count(&[release(33_000), release(1)]), 1);
    }

    #[test]
    fn messages_take_calls_in_order_until_none_is_left() {
        let mut calls: Vec<_> =
            (0..2_500).map(|call_id| v1::SessionCall { call_id, body: None }).collect();
        let secret = Bytes::from_static(&[7; 16]);
        let mut taken = Vec::new();
        while let Some(message) = take_message(&mut calls, &secret, 3) {
            assert_eq!((&message.session_id, message.instance), (&secret, 3));
            taken.extend(message.calls.into_iter().map(|call| call.call_id));
        }
        assert_eq!(taken, (0..2_500).collect::<Vec<_>>());
    }
}
