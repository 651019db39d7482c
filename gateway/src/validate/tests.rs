//! Every limit of the API from both sides, and that no input can panic or be repeated in an error.

use prost::Message as _;
use sharklock_proto::v1::{self, KeepAliveItem, LockMode, SessionCall, SessionRequest};

use super::*;
use crate::failure::Code;

/// The reason and the field of a refusal; None: it passes.
type Want = Option<(&'static str, &'static str)>;

const ID: [u8; 16] = *b"0123456789abcdef";

fn frame() -> Frame {
    Frame::of_call(&Bytes::from_static(&ID), 1)
}

fn an_acquire() -> AcquireRequest {
    AcquireRequest {
        session_id: Bytes::from_static(&ID),
        instance: 1,
        acquisition_id: 7,
        seq: 9,
        name: "jobs/42".to_owned(),
        mode: LockMode::Exclusive as i32,
        ..AcquireRequest::default()
    }
}

fn a_release() -> ReleaseRequest {
    ReleaseRequest {
        session_id: Bytes::from_static(&ID),
        instance: 1,
        name: "jobs/42".to_owned(),
        token: 3,
        acquisition_id: 7,
        all: false,
    }
}

fn a_cancel() -> CancelRequest {
    CancelRequest {
        session_id: Bytes::from_static(&ID),
        instance: 1,
        name: "jobs/42".to_owned(),
        acquisition_id: 7,
    }
}

fn a_keep_alive(items: Vec<KeepAliveItem>) -> KeepAliveRequest {
    KeepAliveRequest { session_id: Bytes::from_static(&ID), instance: 1, seq: 9, items }
}

fn item(name: &str, acquisition_id: u64) -> KeepAliveItem {
    KeepAliveItem { name: name.to_owned(), acquisition_id }
}

fn a_force_release() -> ForceReleaseRequest {
    ForceReleaseRequest {
        name: "jobs/42".to_owned(),
        token: None,
        reason: "the host is gone".to_owned(),
        now: false,
        operator: "kim".to_owned(),
    }
}

#[track_caller]
fn check<T: std::fmt::Debug>(what: &str, got: Result<T, Failure>, want: Want) {
    let got = got.map(|_| ()).map_err(|failure| {
        assert!(!failure.message.is_empty(), "{what}: an error says what to do");
        assert!(failure.message.len() < 300, "{what}: an error does not repeat what is too long");
        assert_eq!(failure.metadata.get("field"), Some(&failure.field), "{what}");
        (failure.reason.as_str(), failure.field)
    });
    let want = want.map(|(reason, field)| (reason, field.to_owned()));
    assert_eq!(got.err(), want, "{what}");
}

#[test]
fn names() {
    let long = "ü".repeat(256);
    let too_long = format!("{long}x");
    let good = ["a", " ", "jobs/42", "ключ", "鍵/🦈", "a\u{200d}b", &long];
    let bad = [
        "",
        &too_long,
        "a\0b",
        "a\nb",
        "a\tb",
        "\r",
        "\x1b[31m",
        "a\u{7f}",
        "a\u{85}b",
        "a\u{2028}b",
        "a\u{2029}b",
        "a\u{202e}b",
        "a\u{2066}b",
        "\u{200f}",
        "\u{61c}",
    ];
    type Call = fn(String) -> Result<Checked, Failure>;
    let calls: [(&str, Call); 7] = [
        ("acquire", |name| {
            acquire(&RequestLimits::default(), &frame(), AcquireRequest { name, ..an_acquire() })
        }),
        ("release", |name| release(&frame(), ReleaseRequest { name, ..a_release() })),
        ("cancel", |name| cancel(&frame(), CancelRequest { name, ..a_cancel() })),
        ("check_token", |name| check_token(CheckTokenRequest { name, token: 1 })),
        ("get_lock", |name| get_lock(GetLockRequest { name, waiters_max: 0 })),
        ("force_release", |name| force_release(ForceReleaseRequest { name, ..a_force_release() })),
        ("keep_alive", |name| keep_alive(&frame(), a_keep_alive(vec![item(&name, 1)]))),
    ];
    for (call, checked) in calls {
        let field = if call == "keep_alive" { "items[0].name" } else { "name" };
        for name in good {
            check(&format!("{call} {name:?}"), checked(name.to_owned()), None);
        }
        for name in bad {
            let want = Some(("BAD_LOCK_NAME", field));
            let got = checked(name.to_owned());
            if let Err(failure) = &got {
                let echoed = !name.is_empty() && failure.message.contains(name);
                assert!(!echoed, "{call}: the error repeats the name");
            }
            check(&format!("{call} {name:?}"), got, want);
        }
    }
}

#[test]
fn a_traceparent_goes_on_in_our_own_words_however_long_it_came() {
    let passed_on = |said: String| {
        let request = AcquireRequest { traceparent: said, ..an_acquire() };
        let checked = acquire(&RequestLimits::default(), &frame(), request).expect("it is good");
        let Body::Acquire(request) = checked.into_parts().1 else { panic!("it was an acquire") };
        request.traceparent
    };
    let plain = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert_eq!(passed_on(plain.to_owned()), plain);
    let later = plain.replacen("00", "01", 1) + "-" + &"x".repeat(60_000);
    assert_eq!(passed_on(later), plain, "a later version may have a tail of any length");
    assert_eq!(passed_on("x".repeat(60_000)), "", "it is none");
}

#[test]
fn acquires() {
    let name = |length: usize| "n".repeat(length);
    let attribute = |key: &str, value: String| [(key.to_owned(), value)].into();
    let permits = |permits, permits_max| AcquireRequest {
        mode: LockMode::Permits as i32,
        permits,
        permits_max,
        ..an_acquire()
    };
    let cases: Vec<(&str, AcquireRequest, Want)> = vec![
        ("as it is", an_acquire(), None),
        (
            "id 0",
            AcquireRequest { acquisition_id: 0, ..an_acquire() },
            Some(("BAD_ACQUISITION_ID", "acquisition_id")),
        ),
        ("seq 0", AcquireRequest { seq: 0, ..an_acquire() }, Some(("BAD_SEQ", "seq"))),
        ("mode 0", AcquireRequest { mode: 0, ..an_acquire() }, Some(("BAD_MODE", "mode"))),
        ("mode 99", AcquireRequest { mode: 99, ..an_acquire() }, Some(("BAD_MODE", "mode"))),
        ("mode -1", AcquireRequest { mode: -1, ..an_acquire() }, Some(("BAD_MODE", "mode"))),
        ("shared", AcquireRequest { mode: 2, ..an_acquire() }, None),
        ("1 of 1", permits(1, 1), None),
        ("65,535 of 65,535", permits(65_535, 65_535), None),
        ("0 of 3", permits(0, 3), Some(("BAD_PERMITS", "permits"))),
        ("4 of 3", permits(4, 3), Some(("BAD_PERMITS", "permits"))),
        ("1 of 0", permits(1, 0), Some(("BAD_PERMITS", "permits_max"))),
        ("1 of 65,536", permits(1, 65_536), Some(("BAD_PERMITS", "permits_max"))),
        (
            "permits of an exclusive lock",
            AcquireRequest { permits: 1, ..an_acquire() },
            Some(("BAD_PERMITS", "permits")),
        ),
        ("ttl 0", ttl(0), Some(("BAD_TTL", "ttl_ms"))),
        ("ttl 1,999", ttl(1_999), Some(("BAD_TTL", "ttl_ms"))),
        ("ttl 2,000", ttl(2_000), None),
        ("ttl 600,000", ttl(600_000), None),
        ("ttl 600,001", ttl(600_001), Some(("BAD_TTL", "ttl_ms"))),
        ("ttl -1", ttl(u64::MAX), Some(("BAD_TTL", "ttl_ms"))),
        ("a try", wait(0), None),
        ("wait 1 h", wait(3_600_000), None),
        ("wait over 1 h", wait(3_600_001), Some(("BAD_WAIT", "wait_ms"))),
        ("wait -1", wait(u64::MAX), Some(("BAD_WAIT", "wait_ms"))),
        (
            "re-entry of no token",
            AcquireRequest { reenter_token: Some(0), ..an_acquire() },
            Some(("BAD_TOKEN", "reenter_token")),
        ),
        ("re-entry", AcquireRequest { reenter_token: Some(1), ..an_acquire() }, None),
        ("owner of 256", AcquireRequest { owner_id: name(256), ..an_acquire() }, None),
        (
            "owner of 257",
            AcquireRequest { owner_id: name(257), ..an_acquire() },
            Some(("BAD_OWNER", "owner_id")),
        ),
        (
            "owner with a line break",
            AcquireRequest { owner_id: "a\nlevel=ERROR".to_owned(), ..an_acquire() },
            Some(("BAD_OWNER", "owner_id")),
        ),
        (
            "attributes of 4,096",
            AcquireRequest { attributes: attribute("host", name(4_092)), ..an_acquire() },
            None,
        ),
        (
            "attributes of 4,097",
            AcquireRequest { attributes: attribute("host", name(4_093)), ..an_acquire() },
            Some(("BAD_ATTRIBUTES", "attributes")),
        ),
        (
            "an attribute without a key",
            AcquireRequest { attributes: attribute("", name(1)), ..an_acquire() },
            Some(("BAD_ATTRIBUTES", "attributes")),
        ),
        (
            "an attribute's key with NUL",
            AcquireRequest { attributes: attribute("a\0", name(1)), ..an_acquire() },
            Some(("BAD_ATTRIBUTES", "attributes")),
        ),
        (
            "an attribute's value that turns the text around",
            AcquireRequest { attributes: attribute("a", "\u{202e}".to_owned()), ..an_acquire() },
            Some(("BAD_ATTRIBUTES", "attributes")),
        ),
    ];
    for (what, request, want) in cases {
        check(what, acquire(&RequestLimits::default(), &frame(), request), want);
    }

    fn ttl(ttl_ms: u64) -> AcquireRequest {
        AcquireRequest { ttl_ms: Some(ttl_ms), ..an_acquire() }
    }
    fn wait(wait_ms: u64) -> AcquireRequest {
        AcquireRequest { wait_ms: Some(wait_ms), ..an_acquire() }
    }
}

#[test]
fn releases_cancels_tokens_and_force_releases() {
    let released = |request| release(&frame(), request);
    check("release", released(a_release()), None);
    check("release all", released(ReleaseRequest { all: true, ..a_release() }), None);
    let no_token = ReleaseRequest { token: 0, ..a_release() };
    check("release token 0", released(no_token), Some(("BAD_TOKEN", "token")));
    let no_id = ReleaseRequest { acquisition_id: 0, ..a_release() };
    check("release id 0", released(no_id), Some(("BAD_ACQUISITION_ID", "acquisition_id")));
    check("cancel", cancel(&frame(), a_cancel()), None);
    let no_id = CancelRequest { acquisition_id: 0, ..a_cancel() };
    let want = Some(("BAD_ACQUISITION_ID", "acquisition_id"));
    check("cancel id 0", cancel(&frame(), no_id), want);
    let no_token = CheckTokenRequest { name: "a".to_owned(), token: 0 };
    check("check token 0", check_token(no_token), Some(("BAD_TOKEN", "token")));

    let force = |change: fn(&mut ForceReleaseRequest)| {
        let mut request = a_force_release();
        change(&mut request);
        force_release(request)
    };
    check("force-release", force(|_| {}), None);
    check("operator left out", force(|r| r.operator.clear()), None);
    let no_reason = force(|r| r.reason.clear());
    check("no reason", no_reason, Some(("BAD_REASON", "reason")));
    check("reason of 1,024", force(|r| r.reason = "r".repeat(1_024)), None);
    let long = force(|r| r.reason = "r".repeat(1_025));
    check("reason of 1,025", long, Some(("BAD_REASON", "reason")));
    let lines = force(|r| r.reason = "a\nb".to_owned());
    check("reason of two lines", lines, Some(("BAD_REASON", "reason")));
    let long = force(|r| r.operator = "o".repeat(257));
    check("operator of 257", long, Some(("BAD_OPERATOR", "operator")));
    check("token 0", force(|r| r.token = Some(0)), Some(("BAD_TOKEN", "token")));
}

#[test]
fn sessions() {
    let cases: [(&str, &[u8], u64, Want); 7] = [
        ("as it is", &ID, 1, None),
        ("empty", b"", 1, Some(("BAD_SESSION", "session_id"))),
        ("short", &ID[1..], 1, Some(("BAD_SESSION", "session_id"))),
        ("long", b"0123456789abcdefg", 1, Some(("BAD_SESSION", "session_id"))),
        ("zeros", &[0; 16], 1, Some(("BAD_SESSION", "session_id"))),
        ("no instance", &ID, 0, Some(("BAD_SESSION", "instance"))),
        ("last instance", &ID, u64::MAX, None),
    ];
    for (what, id, instance, want) in cases {
        let id = Bytes::copy_from_slice(id);
        let frame = Frame::of_call(&id, instance);
        let mut request = a_cancel();
        (request.session_id, request.instance) = (id, instance);
        check(what, cancel(&frame, request), want);
        let look = GetLockRequest { name: "a".to_owned(), waiters_max: 0 };
        check("a look needs no session", call_of(&frame, session_call::Body::GetLock(look)), None);
    }
}

fn call_of(frame: &Frame, body: session_call::Body) -> Result<Checked, Failure> {
    call(&RequestLimits::default(), frame, Some(body))
}

#[test]
fn a_call_of_a_frame_may_repeat_its_session_but_not_name_another() {
    let frame = frame();
    let named = |id: &[u8], instance| {
        let session_id = Bytes::copy_from_slice(id);
        let request = CancelRequest { session_id, instance, ..a_cancel() };
        call_of(&frame, session_call::Body::Cancel(request))
    };
    check("neither", named(b"", 0), None);
    check("both", named(&ID, 1), None);
    let other = named(b"fedcba9876543210", 1);
    check("another session", other, Some(("BAD_SESSION", "session_id")));
    check("another instance", named(&ID, 2), Some(("BAD_SESSION", "instance")));
}

#[test]
fn batches() {
    let items = |count| (0..count).map(|at| item("a", at + 1)).collect();
    let kept = |items| keep_alive(&frame(), a_keep_alive(items));
    check("64 items", kept(items(64)), None);
    check("65 items", kept(items(65)), Some(("BAD_BATCH", "items")));
    check("no items", kept(vec![]), Some(("BAD_BATCH", "items")));
    check("one id, two names", kept(vec![item("a", 1), item("b", 1)]), None);
    let twice = kept(vec![item("a", 1), item("a", 2), item("a", 1)]);
    check("an item twice", twice, Some(("BAD_BATCH", "items[2]")));
    let no_id = kept(vec![item("a", 1), item("a", 0)]);
    check("an item of id 0", no_id, Some(("BAD_ACQUISITION_ID", "items[1].acquisition_id")));
    let no_seq = KeepAliveRequest { seq: 0, ..a_keep_alive(items(1)) };
    check("seq 0", keep_alive(&frame(), no_seq), Some(("BAD_SEQ", "seq")));
    check("1,024 calls", calls_count(1_024), None);
    check("1,025 calls", calls_count(1_025), Some(("BAD_BATCH", "calls")));
    check("call id 0", call_id(0), Some(("BAD_CALL_ID", "calls.call_id")));
    let unknown = call(&RequestLimits::default(), &frame(), None);
    check("a call of nothing", unknown, Some(("UNKNOWN_CALL", "body")));
}

#[test]
fn listings() {
    let listed = |prefix: &str, page_token: &str| {
        let (prefix, page_token) = (prefix.to_owned(), page_token.to_owned());
        list_locks(ListLocksRequest { prefix, page_token, page_size: 0 })
    };
    check("everything", listed("", ""), None);
    check("a page", listed("jobs/", &page_token::encode("jobs/", "jobs/42\0")), None);
    check("prefix", listed("a\n", ""), Some(("BAD_LOCK_NAME", "prefix")));
    check("no token", listed("jobs/", "jobs/42"), Some(("BAD_PAGE_TOKEN", "page_token")));
    let of_another = page_token::encode("", "jobs/42\0");
    check("another list", listed("jobs/", &of_another), Some(("BAD_PAGE_TOKEN", "page_token")));
}

#[test]
fn page_sizes_are_clamped() {
    for (asked, got) in [(0, 100), (1, 1), (1_000, 1_000), (1_001, 1_000), (u32::MAX, 1_000)] {
        let request = ListLocksRequest { page_size: asked, ..ListLocksRequest::default() };
        let round = list_locks(request).expect("it is good").round(|_, _| Vec::new());
        assert_eq!(round.first().map(|question| question.locks_max), Some(got));
        let request = GetLockRequest { name: "a".to_owned(), waiters_max: asked };
        let Ok(Body::GetLock(request)) = get_lock(request).map(|checked| checked.body) else {
            panic!("a look stays a look");
        };
        assert_eq!(request.waiters_max, got);
    }
}

#[test]
fn what_is_sent_has_the_default_ttl_and_the_handle_but_not_the_secret() {
    let checked = acquire(&RequestLimits::default(), &frame(), an_acquire()).expect("it is good");
    let (session, body) = checked.into_parts();
    let session = session.expect("an acquire has a session");
    // sha256("0123456789abcdef")
    assert_eq!(session.handle()[..4], [0x9f, 0x9f, 0x51, 0x11]);
    assert_eq!(session.handle().len(), HANDLE_BYTES);
    let Body::Acquire(request) = body else { panic!("an acquire stays one") };
    assert_eq!(request.ttl_ms, Some(TTL_MS_DEFAULT));
    assert!(request.session_id.is_empty());
    assert!(!format!("{session:?}{request:?}").contains("0123456789abcdef"));
}

#[test]
fn a_cache_gives_the_handle_of_the_session_that_is_asked_for() {
    let mut handles = HandleCache::default();
    let handle = |id: &'static [u8; 16], handles: &mut HandleCache| {
        let frame = Frame::new(&Bytes::from_static(id), 1, handles);
        let checked = cancel(&frame, CancelRequest { session_id: Bytes::new(), ..a_cancel() });
        checked.expect("it is good").session().expect("a cancel has one").handle().clone()
    };
    let a = handle(&ID, &mut handles);
    let b = handle(b"fedcba9876543210", &mut handles);
    assert_ne!(a, b);
    assert_eq!(handle(&ID, &mut handles), a);
    assert_eq!(handle(&ID, &mut handles), a);
}

#[test]
fn ranges_and_where_they_are_split() {
    use list_ranges_request::Which as Listed;
    use split_range_request::Which as Split;
    let split = |which, at: Option<&str>, operator: &str| {
        let (at, operator) = (at.map(str::to_owned), operator.to_owned());
        split_range(SplitRangeRequest { which, at, operator, ..SplitRangeRequest::default() })
    };
    let by_id = || Some(Split::RangeId(1));
    check("by id", split(by_id(), Some("jobs/"), "kim"), None);
    check("by name", split(Some(Split::Name("jobs/7".into())), None, ""), None);
    check("none", split(None, None, ""), Some(("BAD_RANGE", "which")));
    check("id 0", split(Some(Split::RangeId(0)), None, ""), Some(("BAD_RANGE", "which")));
    let no_name = split(Some(Split::Name(String::new())), None, "");
    check("no name", no_name, Some(("BAD_LOCK_NAME", "name")));
    for at in ["", "a\0b", "a\u{202e}b", &"x".repeat(513)] {
        check("at", split(by_id(), Some(at), ""), Some(("BAD_LOCK_NAME", "at")));
    }
    let operator = split(by_id(), None, &"x".repeat(257));
    check("operator", operator, Some(("BAD_OPERATOR", "operator")));

    let list = |which, page_size, page_token: &str| {
        let page_token = page_token.to_owned();
        list_ranges(ListRangesRequest { which, page_size, page_token })
    };
    check("all", list(None, 0, ""), None);
    check("listed 0", list(Some(Listed::RangeId(0)), 0, ""), Some(("BAD_RANGE", "which")));
    check("page token", list(None, 0, "a\n"), Some(("BAD_LOCK_NAME", "page_token")));
    let size = |asked| list(None, asked, "").expect("it is good").page_size;
    assert_eq!([0, 7, 5_000].map(size), [PAGE_DEFAULT, 7, PAGE_MAX]);
}

#[test]
fn every_refusal_is_an_invalid_argument_or_an_unknown_call() {
    let refusals = Reason::ALL.iter().filter(|reason| reason.as_str().starts_with("BAD_"));
    let answers = [Reason::BadAnswer];
    for reason in refusals.filter(|reason| !answers.contains(reason)) {
        assert_eq!(reason.code(), Code::InvalidArgument, "{reason:?}");
    }
}

/// Marsaglia's xorshift64: the seed decides everything.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

fn a_message() -> SessionRequest {
    const SECRET: &str = "s3cr3t-name";
    let named = |name: &str| name.to_owned();
    let bodies = vec![
        session_call::Body::Acquire(AcquireRequest {
            name: named(SECRET),
            ttl_ms: Some(10_000),
            wait_ms: Some(5),
            owner_id: named(SECRET),
            attributes: [(named("host"), named(SECRET))].into(),
            ..an_acquire()
        }),
        session_call::Body::Release(ReleaseRequest { name: named(SECRET), ..a_release() }),
        session_call::Body::Cancel(CancelRequest { name: named(SECRET), ..a_cancel() }),
        session_call::Body::KeepAlive(a_keep_alive(vec![item(SECRET, 1), item(SECRET, 2)])),
        session_call::Body::CheckToken(CheckTokenRequest { name: named(SECRET), token: 4 }),
        session_call::Body::GetLock(GetLockRequest { name: named(SECRET), waiters_max: 3 }),
    ];
    let calls = bodies
        .into_iter()
        .zip(1..)
        .map(|(body, call_id)| SessionCall { call_id, body: Some(body) });
    SessionRequest { session_id: Bytes::from_static(&ID), instance: 1, calls: calls.collect() }
}

/// One change of the kind that wires and careless encoders make.
fn mutate(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let at = dice.below(bytes.len().max(1));
    match dice.below(6) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << dice.below(8),
        1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][dice.below(5)],
        2 => bytes.truncate(at),
        3 => bytes.insert(at.min(bytes.len()), dice.below(256) as u8),
        4 if !bytes.is_empty() => {
            bytes.remove(at);
        }
        _ => {
            let piece = bytes[at.min(bytes.len())..].iter().copied().take(dice.below(40));
            let piece: Vec<_> = piece.collect();
            let to = dice.below(bytes.len() + 1);
            bytes.splice(to..to, piece);
        }
    }
}

#[test]
fn no_message_makes_decoding_or_checking_panic() {
    let original = a_message().encode_to_vec();
    let mut dice = Dice(0x5eed_0000_0002);
    let (mut decoded, mut passed, mut refused) = (0, 0, 0);
    for _ in 0..60_000 {
        let mut bytes = original.clone();
        for _ in 0..=dice.below(4) {
            mutate(&mut bytes, &mut dice);
        }
        let Ok(message) = SessionRequest::decode(bytes.as_slice()) else { continue };
        decoded += 1;
        let frame = Frame::of_call(&message.session_id, message.instance);
        for SessionCall { body, .. } in message.calls {
            match call(&RequestLimits::default(), &frame, body) {
                Ok(checked) => {
                    passed += 1;
                    check_passed(&checked);
                }
                Err(failure) => {
                    refused += 1;
                    let message = failure.into_message();
                    assert!(!format!("{message:?}").contains("s3cr3t"), "{message:?}");
                }
            }
        }
    }
    // The mutations are neither too tame nor too wild to mean something.
    assert!(decoded > 4_000 && passed > 10_000 && refused > 4_000, "{decoded} {passed} {refused}");
}

/// The promises to the state machine about a call that has passed.
fn check_passed(checked: &Checked) {
    let names: Vec<&str> = match checked.body() {
        Body::Acquire(request) => {
            assert!(request.session_id.is_empty());
            assert!((TTL_MS_MIN..=TTL_MS_MAX).contains(&request.ttl_ms.expect("filled in")));
            assert!(request.wait_ms.is_none_or(|wait_ms| wait_ms <= WAIT_MS_MAX));
            assert_ne!(request.mode(), v1::LockMode::Unspecified);
            vec![&request.name]
        }
        Body::Release(request) => vec![&request.name],
        Body::Cancel(request) => vec![&request.name],
        Body::KeepAlive(request) => request.items.iter().map(|item| item.name.as_str()).collect(),
        Body::CheckToken(request) => vec![&request.name],
        Body::GetLock(request) => vec![&request.name],
        Body::WatchLock(request) => vec![&request.name],
        Body::Claim(request) => vec![&request.name],
        Body::SetCondition(request) => vec![&request.name],
        Body::Reclaim(request) => vec![&request.name],
        Body::Ask(request) => vec![&request.name],
        Body::Downgrade(request) => vec![&request.name],
        Body::SetAttributes(request) => vec![&request.name],
        other => panic!("a session asks no {other:?}"),
    };
    for name in names {
        assert!((1..=NAME_BYTES_MAX).contains(&name.len()));
        assert!(!name.contains(char::is_control));
    }
    let needs_none = match checked.body() {
        Body::CheckToken(_) | Body::GetLock(_) | Body::WatchLock(_) => true,
        Body::Ask(ask) => ask.acquisition_id == 0,
        _ => false,
    };
    assert_eq!(checked.session().is_none(), needs_none);
}
