//! From what was found to one likely cause: what explains most comes first. Pure.

use std::collections::BTreeSet;

use sharklock_client::{NO_ANSWER, NOT_CONNECTED};

use super::{Endpoint, Examination, Member, Verdict, clock_words};

/// A healthy disk syncs in less, by far.
const SYNC_SLOW_US: u64 = 200_000;
/// Of fewer syncs the slowest of a hundred says nothing: a start has a few that are slow.
const SYNCS_MIN: u64 = 100;

/// Fills in cause, next step and verdict. `meant`: the cluster that is meant, if it was said.
pub(super) fn find(examination: &mut Examination, meant: Option<&str>) {
    let (verdict, cause, next_step) = likely(examination, meant);
    (examination.verdict, examination.cause, examination.next_step) = (verdict, cause, next_step);
}

fn likely(seen: &Examination, meant: Option<&str>) -> (Verdict, String, String) {
    let answering: Vec<_> = seen.endpoints.iter().filter(|it| it.answers).collect();
    let silent: Vec<_> = seen.endpoints.iter().filter(|it| !it.answers).collect();
    if let Some(found) = two_clusters(&answering, meant) {
        return found;
    }
    if answering.is_empty() {
        let (cause, next_step) = unreachable(&silent);
        return (Verdict::Unreachable, cause, next_step);
    }
    let degraded = |cause: String, next: &str| (Verdict::Degraded, cause, next.to_owned());
    if let Some(worst) = answering.iter().find(|it| !it.problem.is_empty()) {
        return degraded(worst.problem.clone(), &worst.next_step);
    }
    if let Some(wrong) = silent.first() {
        let (cause, next_step) = unreachable(&silent[..1]);
        let others =
            format!("{cause}; the cluster answers elsewhere, at {}", answering[0].endpoint);
        let next = match wrong.reason.as_str() {
            NOT_CONNECTED | NO_ANSWER => {
                "start it, or take it from --endpoints: clients go on without"
            }
            _ => next_step.as_str(),
        };
        return degraded(others, next);
    }
    if let Some(clock) = clock_off(seen) {
        return degraded(
            clock,
            "set that clock right (chronyc tracking, timedatectl): leases do not depend on it, but the \
             times in tables and logs do",
        );
    }
    let is_slow = |it: &&Member| it.sync_p99_us.0 >= SYNC_SLOW_US && it.syncs.0 >= SYNCS_MIN;
    if let Some(store) = seen.stores.iter().find(is_slow) {
        let ms = store.sync_p99_us.0 / 1_000;
        return degraded(
            format!("the disk of {} is slow: 1 of 100 syncs takes {ms} ms or more", name(store)),
            "look at that disk; `sharklock schedule show` tells whether leaders move away from it",
        );
    }
    if let Some(versions) = versions(seen) {
        return degraded(versions, "finish the upgrade: new features begin when all are upgraded");
    }
    (Verdict::Well, String::new(), String::new())
}

fn two_clusters(answering: &[&Endpoint], meant: Option<&str>) -> Option<(Verdict, String, String)> {
    let clusters: BTreeSet<&str> = answering.iter().map(|it| it.cluster_id.as_str()).collect();
    let each = || {
        let one = |it: &&Endpoint| match it.cluster_name.as_str() {
            "" => format!("{} is of {}", it.endpoint, it.cluster_id),
            name => format!("{} is of {} ({name})", it.endpoint, it.cluster_id),
        };
        answering.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let cause = match meant {
        Some(meant) if clusters.iter().any(|cluster| *cluster != meant) => {
            format!("--cluster says {meant}, but {}", each())
        }
        None if clusters.len() > 1 => format!("the endpoints belong to two clusters: {}", each()),
        _ => return None,
    };
    let next = "name the gateways of one cluster with --endpoints".to_owned();
    Some((Verdict::TwoClusters, cause, next))
}

/// Of endpoints at which no gateway answers.
fn unreachable(silent: &[&Endpoint]) -> (String, String) {
    let telling = silent.iter().find(|it| ![NOT_CONNECTED, NO_ANSWER].contains(&&*it.reason));
    let Some(one) = telling.or(silent.first()) else {
        return ("no endpoint is named".to_owned(), "name one with --endpoints".to_owned());
    };
    let Endpoint { endpoint, reason, why, admin, admin_address, .. } = one;
    match reason.as_str() {
        "WRONG_PORT" => (
            format!("{endpoint} is no gateway's port: {why}"),
            "name the port of a gateway with --endpoints".to_owned(),
        ),
        NO_ANSWER => (
            format!("{endpoint} takes connections and does not answer: its process stands still, or is \
                     no SharkLock"),
            "look at that process: is it stopped (SIGSTOP), swapping, or another program?".to_owned(),
        ),
        NOT_CONNECTED if !admin.is_empty() => (
            format!("nothing listens at {endpoint}, but a server is there: its admin port {admin_address} \
                     says: {admin}"),
            "wait until it is ready, or name its gateway's port with --endpoints".to_owned(),
        ),
        NOT_CONNECTED => (
            format!("nothing answers at {endpoint} ({why})"),
            "start a server there (`sharklock dev` on this machine), or name another with --endpoints"
                .to_owned(),
        ),
        _ => (format!("{endpoint}: {why}"), "look with `sharklock status`".to_owned()),
    }
}

fn clock_off(seen: &Examination) -> Option<String> {
    let of_gateways = seen.endpoints.iter().filter(|it| it.answers);
    let of_gateways = of_gateways.map(|it| (gateway(it), it.clock_ahead_ms, "this machine's"));
    let of_masters = seen.masters.iter().filter(|it| it.answers);
    let of_masters = of_masters.map(|it| (name(it), it.clock_ahead_ms, "the gateway's"));
    let worst = of_gateways.chain(of_masters).max_by_key(|(_, ahead, _)| ahead.unsigned_abs());
    let (who, ahead, whose) = worst?;
    clock_words(&who, ahead, whose)
}

fn versions(seen: &Examination) -> Option<String> {
    let of_gateways = seen.endpoints.iter().filter(|it| it.answers);
    let of_gateways = of_gateways.map(|it| (it.version.as_str(), gateway(it)));
    let members = seen.masters.iter().chain(&seen.stores);
    let of_members = members.map(|it| (it.version.as_str(), name(it)));
    let all: Vec<_> =
        of_gateways.chain(of_members).filter(|(version, _)| !version.is_empty()).collect();
    let (first, _) = all.first()?;
    let (other, who) = all.iter().find(|(version, _)| version != first)?;
    Some(format!("programs of different versions serve: {who} is {other}, others are {first}"))
}

fn gateway(endpoint: &Endpoint) -> String {
    format!("gateway {} ({})", endpoint.node, endpoint.endpoint)
}

fn name(member: &Member) -> String {
    match member.node.as_str() {
        "" => member.address.clone(),
        node => format!("{node} ({})", member.address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Wide;

    fn answers(endpoint: &str, cluster_id: &str) -> Endpoint {
        Endpoint {
            endpoint: endpoint.into(),
            answers: true,
            node: "n1".into(),
            version: "1".into(),
            cluster_id: cluster_id.into(),
            ..Endpoint::default()
        }
    }

    fn silent(endpoint: &str, reason: &str, why: &str) -> Endpoint {
        let (endpoint, reason, why) = (endpoint.into(), reason.into(), why.into());
        Endpoint { endpoint, reason, why, ..Endpoint::default() }
    }

    fn found(endpoints: Vec<Endpoint>) -> Examination {
        let mut seen = Examination::new(endpoints);
        find(&mut seen, None);
        seen
    }

    #[test]
    fn nothing_is_found_where_all_is_well() {
        let seen = found(vec![answers("a:1", "c1"), answers("b:1", "c1")]);
        assert_eq!((seen.verdict, seen.cause.as_str()), (Verdict::Well, ""));
        assert!(seen.text().starts_with("nothing is the matter\n\nENDPOINT"), "{}", seen.text());
    }

    #[test]
    fn two_clusters_come_before_everything_else() {
        let mut ill = answers("a:1", "c1");
        ill.problem = "no majority".into();
        let seen = found(vec![ill, answers("b:1", "c2"), silent("c:1", NOT_CONNECTED, "refused")]);
        assert_eq!(seen.verdict, Verdict::TwoClusters);
        assert!(seen.cause.contains("a:1 is of c1, b:1 is of c2"), "{}", seen.cause);
        let mut seen = Examination::new(vec![answers("a:1", "c1")]);
        find(&mut seen, Some("c9"));
        assert!(seen.cause.starts_with("--cluster says c9, but a:1 is of c1"), "{}", seen.cause);
    }

    #[test]
    fn what_an_endpoint_says_is_told_before_silence() {
        let seen = found(vec![
            silent("a:1", NOT_CONNECTED, "connection refused"),
            silent("b:1", "WRONG_PORT", "this is the admin port of n1: clients are served at b:7"),
        ]);
        assert_eq!(seen.verdict, Verdict::Unreachable);
        assert!(seen.cause.starts_with("b:1 is no gateway's port: this is the admin"), "{seen:?}");
        let seen = found(vec![silent("a:1", NOT_CONNECTED, "connection refused")]);
        assert_eq!(seen.cause, "nothing answers at a:1 (connection refused)");
        let mut starting = silent("a:1", NOT_CONNECTED, "connection refused");
        (starting.admin_address, starting.admin) =
            ("a:91".into(), "master: opens its store".into());
        let seen = found(vec![starting]);
        assert!(seen.cause.ends_with("a:91 says: master: opens its store"), "{seen:?}");
        let seen = found(vec![silent("a:1", NO_ANSWER, "")]);
        assert!(seen.next_step.contains("SIGSTOP"), "{seen:?}");
    }

    #[test]
    fn the_clusters_own_words_come_before_an_endpoint_that_is_silent() {
        let mut ill = answers("a:1", "c1");
        (ill.problem, ill.next_step) = ("no majority".into(), "start n2".into());
        let down = silent("b:1", NOT_CONNECTED, "refused");
        let seen = found(vec![ill, down.clone()]);
        let told = (seen.verdict, seen.cause.as_str(), seen.next_step.as_str());
        assert_eq!(told, (Verdict::Degraded, "no majority", "start n2"));
        let seen = found(vec![answers("a:1", "c1"), down]);
        assert!(seen.cause.ends_with("; the cluster answers elsewhere, at a:1"), "{seen:?}");
    }

    #[test]
    fn clocks_disks_and_versions_are_looked_at_last() {
        let with = |change: &dyn Fn(&mut Examination)| {
            let mut seen = Examination::new(vec![answers("a:1", "c1")]);
            change(&mut seen);
            find(&mut seen, None);
            seen.cause
        };
        let member = |node: &str| Member {
            node: node.into(),
            address: "h:2".into(),
            answers: true,
            version: "1".into(),
            ..Member::default()
        };
        let clock =
            with(&|seen| seen.masters.push(Member { clock_ahead_ms: -37_200, ..member("n2") }));
        assert_eq!(clock, "the wall clock of n2 (h:2) is 37.2 s behind the gateway's");
        let slow =
            |syncs| Member { sync_p99_us: Wide(900_000), syncs: Wide(syncs), ..member("n3") };
        assert_eq!(with(&|seen| seen.stores.push(slow(5))), "");
        let slow = with(&|seen| seen.stores.push(slow(100)));
        assert_eq!(slow, "the disk of n3 (h:2) is slow: 1 of 100 syncs takes 900 ms or more");
        let old = with(&|seen| seen.stores.push(Member { version: "0".into(), ..member("n3") }));
        assert!(old.ends_with("n3 (h:2) is 0, others are 1"), "{old}");
    }
}
