//! Explores every scenario: with all rules it holds, and without a rule it tells its story. Run with
//! `--nocapture` to read the stories and the numbers of states.

use std::collections::BTreeSet;

use sharklock_model::{
    rules::Rule,
    run,
    scenario::{self, Scenario},
    story,
};

/// The holes that concern D7–D9 (`holes.md`), each of which wants a counter-example here.
const HOLES: [u8; 19] = [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 16, 17, 18, 20, 21, 22];

/// Set by `make long`: also what takes minutes.
const LARGE: &str = "SHARKLOCK_LARGE_WORLDS";

fn prove(scenario: &Scenario) {
    let name = scenario.name;
    let report = run::check(scenario, &[]);
    println!("{name}: {} states, depth {}", report.states, report.depth);
    if let Some((property, path)) = report.violation {
        panic!("{name}: not \"{property}\":\n{}", story::tell(&scenario.bounds, path));
    }
    assert!(report.unreached.is_empty(), "{name} never reaches {:?}", report.unreached);
    let (states, states_min) = (report.states, scenario.states_min);
    assert!(states_min > 0 && states >= states_min, "{name}: {states} states of {states_min}");
    for &spare in &scenario.spare {
        let violation = run::check(scenario, &[spare]).violation;
        let violation = violation.map(|(_, path)| story::tell(&scenario.bounds, path));
        assert_eq!(violation, None, "{name} needs {spare:?}");
    }
    for broken in &scenario.breaks {
        let path = run::counter_example(scenario, broken);
        let path = path.unwrap_or_else(|| panic!("{name} holds without {:?}", broken.off));
        println!("{name} without {:?}:\n{}", broken.off, story::tell(&scenario.bounds, path));
    }
}

fn prove_named(name: &str) {
    let scenario = scenario::all().into_iter().find(|scenario| scenario.name == name);
    prove(&scenario.unwrap_or_else(|| panic!("no scenario is called {name}")));
}

/// One test per scenario, and the list of their names.
macro_rules! scenarios {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            prove_named($name);
        })*

        const NAMES: &[&str] = &[$($name),*];
    };
}

scenarios! {
    hole_1_a_range_answers_for_a_session: "hole-1",
    hole_2_an_expire_ends_a_younger_use: "hole-2",
    hole_3_the_wrong_send_time: "hole-3",
    hole_4_a_push_carries_time: "hole-4",
    hole_5_one_hold_has_two_leases: "hole-5",
    hole_6_an_expire_ends_what_has_joined: "hole-6",
    hole_6_a_pending_lease_is_answered: "hole-6-silence",
    hole_7_a_superseded_leader_acts: "hole-7",
    hole_7_a_scan_before_the_mailbox: "hole-7-mailbox",
    hole_8_a_follower_splits_first: "hole-8",
    hole_9_a_fast_server_clock: "hole-9",
    hole_11_an_early_end: "hole-11",
    hole_12_an_ending_is_evaded: "hole-12",
    hole_12_an_ending_is_reclaimed: "hole-12-reclaim",
    hole_13_a_release_by_token_alone: "hole-13",
    hole_14_a_late_duplicate_joins: "hole-14",
    hole_15_a_reentry_onto_a_fresh_grant: "hole-15",
    hole_16_a_ghost_is_renewed: "hole-16",
    hole_17_a_cancel_overtakes_its_acquire: "hole-17",
    hole_17_an_unknown_grant_is_kept: "hole-17-unknown",
    hole_18_a_time_out_after_the_grant: "hole-18",
    hole_19_a_refused_try_is_granted: "hole-19",
    hole_35_a_forgotten_try_is_granted: "forgotten-try",
    hole_35_a_forgotten_cancel_stops_nothing: "forgotten-cancel",
    hole_20_instances_collide: "hole-20",
    hole_21_a_live_hold_is_reclaimed: "hole-21",
    hole_21_an_orphan_is_taken_back: "orphan",
    hole_22_a_late_claim: "hole-22",
    hole_31_gone_by_a_stale_route: "hole-31",
    hole_31_a_keepalive_overtakes_its_acquire: "hole-31-overtaken",
    an_ending_is_acknowledged_over_a_join: "acknowledged",
    an_older_grant_is_taken_for_the_newer: "newest-grant",
    a_duplicate_is_answered_and_not_renewed: "receipt",
    a_split_child_counts_tokens_anew: "split-tokens",
    an_unseen_grant_does_not_stay: "unseen",
    a_longer_lease_is_agreed: "longer",
    a_hold_ends_by_its_longest_time: "held-too-long",
    who_has_asked_goes_away: "asked",
    a_reclaimer_goes_away: "left-reclaim",
    an_operator_ends_a_reclaim: "taken-while-reclaimed",
    an_orphan_goes_back_to_its_own_client: "own-orphan",
    an_older_life_takes_nothing_back: "older-life",
    a_session_is_revoked_and_comes_again: "revoked",
    a_session_is_revoked_while_it_reclaims: "revoked-reclaim",
    a_session_is_revoked_range_by_range: "revoked-by-range",
    two_names_a_leader_change_and_a_split: "two-names",
    a_queue_moves_to_a_split_child: "moved-queue",
    nested_holds_and_an_operator: "nested-and-taken",
    two_instances_and_a_leader_change: "two-instances",
}

#[test]
fn every_scenario_has_its_test() {
    let scenarios: Vec<_> = scenario::all().into_iter().map(|scenario| scenario.name).collect();
    let (tested, known) = (BTreeSet::from_iter(NAMES), BTreeSet::from_iter(&scenarios));
    assert_eq!(tested, known);
}

#[test]
fn every_rule_is_switched_off_somewhere_and_every_hole_is_told() {
    let scenarios = scenario::all();
    let breaks = || scenarios.iter().flat_map(|scenario| &scenario.breaks);
    for rule in Rule::ALL {
        assert!(breaks().any(|broken| broken.off.contains(&rule)), "nothing needs {rule:?}");
    }
    for hole in HOLES {
        let told = |scenario: &&Scenario| scenario.hole == hole && !scenario.breaks.is_empty();
        assert!(scenarios.iter().any(|scenario| told(&scenario)), "hole {hole} is not told");
    }
}

/// Minutes of CPU: `make long` runs it.
#[test]
fn large_worlds_hold_where_they_are_asked_for() {
    if std::env::var_os(LARGE).is_none() {
        println!("not explored: {LARGE} is not set");
        return;
    }
    scenario::large().iter().for_each(prove);
}
