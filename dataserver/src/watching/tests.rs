use super::*;
use crate::front::LinkId;

fn watch(tag: u64, known: u64) -> Watch {
    Watch { to: ReplyTo { link: LinkId(1), tag }, shown_max: 8, known }
}

fn tags<'a>(watches: impl IntoIterator<Item = &'a Watch>) -> Vec<u64> {
    watches.into_iter().map(|watch| watch.to.tag).collect()
}

const NOW: Duration = Duration::from_secs(100);

#[test]
fn a_change_concerns_those_who_wait_for_that_lock_and_do_not_know_its_state() {
    let mut watches = Watches::default();
    for (tag, name, known) in [(1, "a", 7), (2, "a", 8), (3, "b", 7)] {
        watches.wait(NOW, name.into(), watch(tag, known));
    }
    watches.changed(&"c".into());
    assert!(watches.take_changed().is_empty(), "nobody waits for it");
    watches.changed(&"a".into());
    assert_eq!(watches.take_changed(), ["a".into()].into());
    let answered = watches.take_answered(&"a".into(), |watch| watch.known != 8);
    assert_eq!(tags(&answered), [1]);
    let over = watches.take_over(NOW + WATCH_WAITS_MAX);
    assert_eq!(tags(over.iter().map(|(_, watch)| watch)), [2, 3], "they have waited on");
    assert_eq!(watches.next_alarm(), None);
}

#[test]
fn a_question_waits_for_so_long_and_no_longer() {
    let mut watches = Watches::default();
    watches.wait(NOW, "a".into(), watch(1, 7));
    watches.wait(NOW + Duration::from_secs(1), "a".into(), watch(2, 7));
    assert_eq!(watches.next_alarm(), Some(NOW + WATCH_WAITS_MAX));
    assert!(watches.take_over(NOW + WATCH_WAITS_MAX - Duration::from_nanos(1)).is_empty());
    let over = watches.take_over(NOW + WATCH_WAITS_MAX);
    assert_eq!(tags(over.iter().map(|(_, watch)| watch)), [1]);
    assert_eq!(watches.next_alarm(), Some(NOW + Duration::from_secs(1) + WATCH_WAITS_MAX));
}

#[test]
fn whoever_waits_for_what_is_not_here_any_more_is_told() {
    let mut watches = Watches::default();
    for (tag, name) in [(1, "a"), (2, "m"), (3, "z"), (4, "m")] {
        watches.wait(NOW, name.into(), watch(tag, 7));
        watches.changed(&name.into());
    }
    let bounds = Bounds { start: vec![], end: b"m".to_vec() };
    let left = watches.take_outside(&bounds);
    let left: Vec<_> = left.iter().map(|(name, to)| (name.as_str(), to.tag)).collect();
    assert_eq!(left, [("m", 2), ("m", 4), ("z", 3)]);
    assert_eq!(watches.take_changed(), ["a".into()].into());
    assert_eq!(watches.take_all().len(), 1);
    assert_eq!(watches.next_alarm(), None);
}

#[test]
fn no_more_wait_than_may() {
    let mut watches = Watches::default();
    for tag in 0..WATCHES_MAX as u64 {
        assert!(watches.has_room());
        watches.wait(NOW, "a".into(), watch(tag, 7));
    }
    assert!(!watches.has_room());
    watches.take_answered(&"a".into(), |watch| watch.to.tag == 9);
    assert!(watches.has_room());
}
