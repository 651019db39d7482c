//! Cuts and bad links, by rules in the network namespaces of containers. They go with the namespace when a
//! container ends.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// A rule about what a container hears or sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// It hears nobody.
    Deaf,
    /// Nobody hears it.
    Mute,
    /// It hears none of these.
    DeafTo(Vec<Ipv4Addr>),
    /// Of what it sends so many percent are lost.
    Loses(u64),
}

/// The rules as `nft -f -` reads them, in place of those from before. What stays inside of the container is
/// left alone: Docker's names are resolved there.
pub fn script(rules: &[Rule]) -> String {
    let mut text = format!("{}table inet chaos {{\n", mended());
    let chain = |text: &mut String, hook: &str, lines: Vec<String>| {
        let _ = writeln!(text, "  chain {hook} {{\n    type filter hook {hook} priority 0;");
        for line in lines {
            let _ = writeln!(text, "    {line}");
        }
        text.push_str("  }\n");
    };
    let (mut heard, mut said) = (Vec::new(), Vec::new());
    for rule in rules {
        match rule {
            Rule::Deaf => heard.push("iifname != \"lo\" drop".to_owned()),
            Rule::Mute => said.push("oifname != \"lo\" drop".to_owned()),
            Rule::DeafTo(from) => {
                let from: Vec<_> = from.iter().map(Ipv4Addr::to_string).collect();
                heard.push(format!("ip saddr {{ {} }} drop", from.join(", ")));
            }
            Rule::Loses(percent) => {
                said.push(format!("oifname != \"lo\" numgen random mod 100 < {percent} drop"));
            }
        }
    }
    chain(&mut text, "input", heard);
    chain(&mut text, "output", said);
    text.push_str("}\n");
    text
}

/// No rules, whether there were some or not.
pub fn mended() -> String {
    "add table inet chaos\ndelete table inet chaos\n".to_owned()
}

/// Who does not hear whom where each hears its two neighbours in this order alone.
pub fn ring<T: Clone>(order: &[T]) -> Vec<(T, Vec<T>)> {
    let count = order.len();
    let deaf_to = |at: usize| {
        let others = (0..count).filter(|other| {
            let apart = (count + other - at) % count;
            apart != 0 && apart != 1 && apart != count - 1
        });
        others.map(|other| order[other].clone()).collect()
    };
    (0..count).map(|at| (order[at].clone(), deaf_to(at))).collect()
}

/// The same of two halves; with `bridge` the first of the order hears and is heard by both.
pub fn halves<T: Clone>(order: &[T], bridge: bool) -> Vec<(T, Vec<T>)> {
    let (both, rest) = order.split_at(usize::from(bridge));
    let (left, right) = rest.split_at(rest.len() / 2);
    both.iter().map(|one| (one.clone(), Vec::new())).chain(apart(left, right)).collect()
}

/// The same of two groups that do not hear each other.
pub fn apart<T: Clone>(left: &[T], right: &[T]) -> Vec<(T, Vec<T>)> {
    let side = |own: &[T], other: &[T]| -> Vec<(T, Vec<T>)> {
        own.iter().map(|one| (one.clone(), other.to_vec())).collect()
    };
    [side(left, right), side(right, left)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_written_as_nft_reads_them() {
        let from = vec![Ipv4Addr::new(172, 18, 0, 2), Ipv4Addr::new(172, 18, 0, 3)];
        let text = script(&[Rule::DeafTo(from), Rule::Loses(20)]);
        assert!(
            text.starts_with("add table inet chaos\ndelete table inet chaos\ntable inet chaos {")
        );
        assert!(text.contains("    ip saddr { 172.18.0.2, 172.18.0.3 } drop\n"), "{text}");
        assert!(text.contains("    oifname != \"lo\" numgen random mod 100 < 20 drop\n"), "{text}");
        let text = script(&[Rule::Deaf, Rule::Mute]);
        assert!(text.contains("iifname != \"lo\" drop") && text.contains("oifname != \"lo\" drop"));
    }

    #[test]
    fn in_a_ring_of_five_each_hears_two() {
        for (one, deaf_to) in ring(&[1, 2, 3, 4, 5]) {
            assert_eq!(deaf_to.len(), 2, "{one}");
            assert!(!deaf_to.contains(&one));
        }
        assert_eq!(ring(&[1, 2, 3, 4, 5])[0], (1, vec![3, 4]));
    }

    #[test]
    fn halves_do_not_hear_each_other_and_a_bridge_hears_both() {
        let cut = halves(&[1, 2, 3, 4, 5], false);
        assert_eq!(cut[0], (1, vec![3, 4, 5]));
        assert_eq!(cut[4], (5, vec![1, 2]));
        let cut = halves(&[1, 2, 3, 4, 5], true);
        assert_eq!(cut[0], (1, vec![]));
        assert_eq!(cut[1], (2, vec![4, 5]));
        assert!(cut.iter().all(|(_, deaf_to)| !deaf_to.contains(&1)));
    }

    #[test]
    fn two_groups_apart_hear_their_own() {
        let cut = apart(&["data-1", "data-2"], &["master-1"]);
        let of = |name: &str| cut.iter().find(|it| it.0 == name).expect("it is cut").1.clone();
        assert_eq!(of("data-2"), ["master-1"]);
        assert_eq!(of("master-1"), ["data-1", "data-2"]);
    }
}
