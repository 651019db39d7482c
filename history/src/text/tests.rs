use proptest::prelude::*;

use super::*;

fn any_mode() -> impl Strategy<Value = Mode> {
    prop_oneof![
        Just(Mode::Exclusive),
        Just(Mode::Shared),
        any::<(u16, u16)>().prop_map(|(units, units_max)| Mode::Permits { units, units_max }),
    ]
}

fn any_hold() -> impl Strategy<Value = Hold> {
    let end = prop::sample::select(ENDS.to_vec());
    (any::<[u64; 5]>(), any_mode(), any::<bool>(), end).prop_map(
        |([token, fence_floor, valid_until, end_invoked, end_returned], mode, reentered, end)| {
            let end = end.0;
            let times = (valid_until, end_invoked, end_returned);
            let (valid_until, end_invoked, end_returned) = times;
            Hold {
                token,
                fence_floor,
                valid_until,
                end_invoked,
                end_returned,
                mode,
                reentered,
                end,
            }
        },
    )
}

fn any_what() -> impl Strategy<Value = What> {
    prop_oneof![
        any_hold().prop_map(What::Granted),
        any::<u32>().prop_map(|place| What::Queued { place }),
        any::<u64>().prop_map(|holder| What::Refused { holder }),
        any::<u64>().prop_map(|holder| What::TimedOut { holder }),
        any::<u64>().prop_map(|reenter| What::Unknown { reenter }),
        any::<(u64, bool)>().prop_map(|(token, live)| What::Looked { token, live }),
    ]
}

fn any_record() -> impl Strategy<Value = Record> {
    (any::<[u32; 4]>(), any::<[u64; 4]>(), any_what()).prop_map(
        |([lock, session, range, version], [acquisition, invoked, returned, index], what)| {
            let position = Position { range, version, applied_index: index };
            Record { lock: LockId(lock), session, acquisition, invoked, returned, position, what }
        },
    )
}

fn read_text(text: &str) -> Result<History, String> {
    read(text.as_bytes()).map_err(|error| error.to_string())
}

proptest! {
    #[test]
    fn what_was_written_is_read(
        names in prop::collection::vec(any::<String>(), 0..5),
        records in prop::collection::vec(any_record(), 0..20),
    ) {
        let history = History { names, records };
        let mut text = Vec::new();
        write(&history, &mut text).unwrap();
        prop_assert_eq!(read(text.as_slice()).unwrap(), history);
    }

    /// Reading any file ends in a history or a sentence.
    #[test]
    fn garbage_is_refused_without_panic(
        records in prop::collection::vec(any_record(), 1..4),
        at in any::<prop::sample::Index>(),
        with in any::<char>(),
    ) {
        let history = History { names: vec!["a".to_owned()], records };
        let mut text = Vec::new();
        write(&history, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let at = at.index(text.chars().count());
        let spoilt: String =
            text.chars().enumerate().map(|(i, c)| if i == at { with } else { c }).collect();
        match read_text(&spoilt) {
            Ok(_) => {}
            Err(sentence) => prop_assert!(sentence.contains("line"), "{}", sentence),
        }
    }
}

#[test]
fn errors_name_the_line_and_the_reason() {
    let check = |text: &str, expected: &str| assert_eq!(read_text(text).unwrap_err(), expected);
    check("", "line 1 of the history: the file is empty");
    check("{}", "line 1 of the history: it is not a flat JSON object without spaces");
    check("{\"a\":1}", "line 1 of the history: the first line does not say that it is a history");
    check(
        "{\"sharklock_history\":2}",
        "line 1 of the history: it is of a format that this program does not know",
    );
    let head = "{\"sharklock_history\":1}\n";
    check(&format!("{head}{{\"lock\":0}}"), "line 2 of the history: a number is missing");
    check(
        &format!("{head}{{\"lock\":1,\"name\":\"a\"}}"),
        "line 2 of the history: the locks are not numbered in order",
    );
    check(
        &format!("{head}{{\"lock\":99999999999999999999}}"),
        "line 2 of the history: a value is no natural number below 2^64",
    );
}

#[test]
fn the_text_is_stable() {
    let hold = Hold {
        token: 7,
        fence_floor: 7,
        valid_until: 90,
        end_invoked: 50,
        end_returned: 60,
        mode: Mode::Permits { units: 2, units_max: 5 },
        reentered: false,
        end: End::Released,
    };
    let position = Position { range: 1, version: 2, applied_index: 33 };
    let record = Record {
        lock: LockId(0),
        session: 4,
        acquisition: 5,
        invoked: 10,
        returned: 20,
        position,
        what: What::Granted(hold),
    };
    let history = History { names: vec!["a \"b\"\n".to_owned()], records: vec![record] };
    let mut text = Vec::new();
    write(&history, &mut text).unwrap();
    assert_eq!(
        String::from_utf8(text).unwrap(),
        "{\"sharklock_history\":1}\n\
         {\"lock\":0,\"name\":\"a \\\"b\\\"\\u000a\"}\n\
         {\"lock\":0,\"session\":4,\"acquisition\":5,\"invoked\":10,\"returned\":20,\"range\":1,\
         \"version\":2,\"applied_index\":33,\"what\":\"granted\",\"token\":7,\"fence_floor\":7,\
         \"valid_until\":90,\"mode\":\"permits\",\"units\":2,\"units_max\":5,\"reentered\":false,\
         \"end\":\"released\",\"end_invoked\":50,\"end_returned\":60}\n"
    );
}
