use super::*;

const ADDRESSES: [&str; 3] = ["a:1", "b:1", "c:1"];

fn names(addresses: &[&str]) -> Vec<String> {
    addresses.iter().map(|address| (*address).to_owned()).collect()
}

fn ident(of: &str, life: u8) -> Identity {
    let mut ident = [life; 16];
    ident[0] = of.as_bytes()[0];
    Identity::from_bytes(ident)
}

fn master(me: &str) -> Formation {
    Formation::new(me, ident(me, 0), &names(&ADDRESSES)).expect("the list is fine")
}

fn three() -> [Formation; 3] {
    ADDRESSES.map(master)
}

/// `to` asks `from`, as the edge does: both hear the other.
fn ask(to: &mut Formation, from: &mut Formation) -> Result<(), FormationError> {
    from.hear(&to.view())?;
    to.hear(&from.view())
}

fn meet(masters: &mut [Formation; 3], one: usize, other: usize) {
    let mut asked = masters[other].clone();
    ask(&mut masters[one], &mut asked).expect("they fit");
    masters[other] = asked;
}

#[test]
fn a_master_that_is_alone_forms_at_once() {
    let one = Formation::new("a:1", Identity::from_bytes([1; 16]), &names(&["a:1"]))
        .expect("one is fine");
    assert_eq!(one.formed().expect("nobody else is named").member_id("a:1"), Some(1));
}

#[test]
fn three_form_the_same_cluster_in_any_order_of_meetings() {
    let pairs = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)];
    let mut ids = BTreeSet::new();
    for start in 0..pairs.len() {
        let mut masters = three();
        let mut rounds = 0;
        while !masters.iter().all(|master| master.formed().is_some()) {
            for step in 0..pairs.len() {
                let (one, other) = pairs[(start + step * 5) % pairs.len()];
                meet(&mut masters, one, other);
            }
            rounds += 1;
            assert!(rounds <= 3, "everybody has met everybody");
        }
        ids.extend(masters.iter().map(|master| master.formed().expect("all").cluster_id()));
    }
    assert_eq!(ids.len(), 1, "identities decide, not the order");
}

#[test]
fn two_of_three_do_not_form() {
    let mut masters = three();
    for _ in 0..5 {
        meet(&mut masters, 0, 1);
        meet(&mut masters, 1, 0);
    }
    assert_eq!(masters[0].formed(), None);
    assert_eq!(masters[0].missing(), ["c:1"]);
}

#[test]
fn a_master_that_died_before_it_wrote_forms_the_same_when_it_is_back() {
    let mut masters = three();
    for _ in 0..3 {
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            meet(&mut masters, one, other);
        }
    }
    let formed = masters[0].formed().expect("all have met").clone();
    masters[2] = master("c:1");
    meet(&mut masters, 2, 0);
    assert_eq!(masters[2].formed(), Some(&formed));
}

#[test]
fn an_emptied_directory_is_refused_by_those_that_knew_the_first() {
    let mut masters = three();
    for _ in 0..3 {
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            meet(&mut masters, one, other);
        }
    }
    let mut emptied =
        Formation::new("c:1", ident("c:1", 9), &names(&ADDRESSES)).expect("the list is fine");
    let refused = masters[0].hear(&emptied.view());
    assert!(matches!(refused, Err(FormationError::Wiped(_))), "{refused:?}");
    let refused = emptied.hear(&masters[0].view()).expect_err("its place is taken");
    assert!(refused.to_string().contains("restore that directory"), "{refused}");
    assert_eq!(emptied.formed(), None);
}

#[test]
fn an_identity_that_changed_before_the_cluster_was_formed_counts_from_then_on() {
    let mut masters = three();
    meet(&mut masters, 0, 2);
    masters[2] = Formation::new("c:1", ident("c:1", 9), &names(&ADDRESSES)).expect("fine");
    for _ in 0..3 {
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            meet(&mut masters, one, other);
        }
    }
    let formed = masters.each_ref().map(|master| master.formed().expect("all").cluster_id());
    assert!(formed.iter().all(|id| *id == formed[0]));
}

#[test]
fn lists_that_cannot_be_are_refused_and_say_why() {
    let new = |list: &[&str]| {
        Formation::new("a:1", Identity::from_bytes([1; 16]), &names(list)).expect_err("refused")
    };
    assert_eq!(new(&["a:1", "b:1"]), FormationError::Size(2));
    assert_eq!(new(&["a:1", "b:1", "b:1"]), FormationError::Twice("b:1".into()));
    assert!(new(&["b:1"]).to_string().contains("not among the named masters b:1"));
    let mut one = master("a:1");
    let other =
        Formation::new("b:1", Identity::from_bytes([2; 16]), &names(&["a:1", "b:1", "d:1"]))
            .expect("fine");
    let refused = one.hear(&other.view()).expect_err("another list").to_string();
    assert!(refused.contains("a:1,b:1,d:1") && refused.contains("a:1,b:1,c:1"), "{refused}");
}

#[test]
fn a_restart_with_another_identity_or_address_is_refused_whatever_the_list() {
    let members = ADDRESSES.map(|address| (address.to_owned(), ident(address, 0)));
    let formed = Formed { members: members.into() };
    let again = |me: &str, ident| Formation::again(me, ident, formed.clone()).map(|_| ());
    assert_eq!(again("a:1", ident("a:1", 0)), Ok(()));
    let moved = again("d:1", ident("a:1", 0)).expect_err("it is known at a:1").to_string();
    assert!(moved.contains("d:1") && moved.contains("a:1 or b:1 or c:1"), "{moved}");
    let wiped = again("a:1", Identity::from_bytes([9; 16]));
    assert!(matches!(wiped, Err(FormationError::Wiped(_))), "{wiped:?}");
}

/// A master that was started as for a new cluster must not begin one beside that which is there.
#[test]
fn a_cluster_that_is_there_is_joined_and_not_formed_again() {
    let members = [("a:1".to_owned(), ident("a:1", 0))];
    let one = Formation::again("a:1", ident("a:1", 0), Formed { members: members.into() });
    let mut fresh = master("b:1");
    let refused = fresh.hear(&one.expect("it is its own").view()).expect_err("it is formed");
    assert_eq!(refused, FormationError::Exists("a:1".to_owned()));
    assert!(refused.to_string().contains("--join"), "{refused}");
    assert_eq!(fresh.formed(), None);
    // Members have changed since: the cluster's id does not follow from those of today.
    let mut view = master("a:1").view();
    view.idents = ADDRESSES.map(|at| (at.to_owned(), ident(at, 0).to_wire())).into();
    view.cluster_id = vec![7; 16].into();
    assert_eq!(fresh.hear(&view), Err(FormationError::Exists("a:1".to_owned())));
    assert_eq!(fresh.formed(), None);
}

#[test]
fn two_clusters_do_not_mix() {
    let formed = |life| {
        let members = ADDRESSES.map(|address| (address.to_owned(), ident(address, life)));
        Formed { members: members.into() }
    };
    let master =
        |me: &str, life| Formation::again(me, ident(me, life), formed(life)).expect("fine");
    let mut one = master("a:1", 1);
    let other = master("b:1", 2);
    assert_eq!(one.hear(&other.view()), Err(FormationError::OtherCluster("b:1".into())));
}

#[test]
fn malformed_views_are_refused_and_change_nothing() {
    let mut one = master("a:1");
    let good = master("b:1").view();
    let stranger = MasterView { address: "x:1".into(), ..good.clone() };
    let short = MasterView { ident: Bytes::from_static(b"short"), ..good.clone() };
    let nobody = MasterView { idents: BTreeMap::new(), ..good };
    for view in [stranger, short, nobody] {
        let refused = one.hear(&view);
        assert!(matches!(refused, Err(FormationError::Malformed(_))), "{refused:?} of {view:?}");
    }
    assert_eq!(one.missing().len(), 2);
}
