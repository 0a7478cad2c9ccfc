//! A box has one owner at a time; each attempt on that, and that it would succeed without the check that stops it.

use gtvp_model::digest::Digest;
use gtvp_model::owner::{BoxId, Outcome, Owned, OwnerEpoch};

use super::super::act::Act;
use super::super::record::Refusal;
use super::super::testing::World;
use super::*;
use crate::Check;
use crate::planted::without;

const WEB: [u8; 32] = [7; 32];
const TICKET: Digest = Digest([8; 32]);

fn id() -> BoxId {
    WEB.into()
}

fn of(does: Owning) -> Act {
    Act::Box { id: id(), does }
}

fn placed() -> Act {
    of(Owning::Placed { name: "web".parse().unwrap() })
}

fn held(w: &World) -> &Owned {
    &w.record().view().boxes[&id()]
}

/// A union of a, b, c; `a` owns the box.
fn world() -> World {
    let mut w = World::begin(&["a", "b", "c"]);
    w.write("a", placed()).unwrap();
    w
}

/// `from` → `to`, in this epoch, with the consent of `by`.
fn moved(w: &World, from: &str, to: &str, epoch: OwnerEpoch, by: &str) -> Act {
    let (from, to) = (w.id(from), w.id(to));
    let state = Digest([9; 32]);
    let terms = Terms { union: w.union(), id: id(), epoch, from, to, ticket: TICKET, state };
    let consent = w.sign(by, &terms.signed_content());
    of(Owning::Moved { from, to, epoch, ticket: TICKET, state, consent })
}

#[track_caller]
fn refused(w: &World, author: &str, act: &Act) -> BoxRefusal {
    let mut attacked = w.clone();
    match attacked.write(author, act.clone()).unwrap_err() {
        Refusal::Box(refusal) => {
            assert_eq!(attacked.record(), w.record(), "{refusal}");
            refusal
        }
        other => panic!("{other}"),
    }
}

/// Refused, and taken where the check is left out.
#[track_caller]
fn stopped_by(name: Check, w: &World, author: &str, act: Act) -> BoxRefusal {
    let refusal = refused(w, author, &act);
    let control = without(name, || w.clone().write(author, act));
    assert_eq!(control, Ok(()), "{name:?} is not what stops it: {refusal}");
    refusal
}

#[test]
fn a_box_moves_in_its_epoch_and_is_then_the_targets_alone() {
    let mut w = world();
    let first = held(&w).epoch;
    assert_eq!(first, OwnerEpoch(w.record().view().head.number));
    // Either end may write it down, with the other one's consent.
    for (author, consent) in [("a", "b"), ("b", "a")] {
        let mut w = w.clone();
        w.write(author, moved(&w, "a", "b", first, consent)).unwrap();
        assert_eq!((held(&w).owner, held(&w).epoch), (w.id("b"), first.next()));
        assert_eq!(Outcome::of(Some(held(&w)), first, TICKET), Outcome::Moved);
    }
    w.write("a", moved(&w, "a", "b", first, "b")).unwrap();
    for does in
        [Owning::MoveAborted { epoch: first.next(), ticket: TICKET }, Owning::Ended { epoch: first.next() }]
    {
        assert!(matches!(
            stopped_by(Check::OwnerOnly, &w, "a", of(does)),
            BoxRefusal::NotOwner { owner, .. } if owner == w.id("b")
        ));
    }
}

#[test]
fn threat_33_a_move_that_was_settled_is_not_settled_again() {
    let w = world();
    let epoch = held(&w).epoch;
    let abort = of(Owning::MoveAborted { epoch, ticket: TICKET });
    let go = moved(&w, "a", "b", epoch, "b");
    let mut gone = w.clone();
    gone.write("a", go.clone()).unwrap();
    assert!(matches!(refused(&gone, "a", &abort), BoxRefusal::Epoch { .. }));
    let mut stayed = w.clone();
    stayed.write("a", abort.clone()).unwrap();
    assert_eq!(Outcome::of(Some(held(&stayed)), epoch, TICKET), Outcome::Aborted);
    stopped_by(Check::OwnerEpoch, &stayed, "a", go.clone());
    stopped_by(Check::OwnerEpoch, &stayed, "b", moved(&w, "a", "b", epoch, "a"));
    stopped_by(Check::OwnerEpoch, &stayed, "a", abort);
}

#[test]
fn threat_34_nobody_moves_a_box_whose_owner_has_not_agreed_nor_onto_one_that_does_not_hold_it() {
    let w = world();
    let epoch = held(&w).epoch;
    for (author, consent) in [("b", "b"), ("b", "c"), ("a", "a"), ("a", "c")] {
        let act = moved(&w, "a", "b", epoch, consent);
        assert_eq!(stopped_by(Check::MoveConsent, &w, author, act), BoxRefusal::Consent);
    }
    // Agreed, of something else.
    let other = moved(&w, "a", "c", epoch, "b");
    let Act::Box { does: Owning::Moved { consent, .. }, .. } = other else { panic!() };
    let mut act = moved(&w, "a", "b", epoch, "b");
    if let Act::Box { does: Owning::Moved { consent: put, .. }, .. } = &mut act {
        *put = consent;
    }
    assert_eq!(stopped_by(Check::MoveConsent, &w, "a", act), BoxRefusal::Consent);
    assert_eq!(stopped_by(Check::MoveEnds, &w, "c", moved(&w, "a", "b", epoch, "b")), BoxRefusal::NotAnEnd);
    let not_hers = moved(&w, "c", "b", epoch, "b");
    assert!(matches!(stopped_by(Check::OwnerOnly, &w, "c", not_hers), BoxRefusal::NotOwner { .. }));
    assert_eq!(refused(&w, "a", &moved(&w, "a", "a", epoch, "a")), BoxRefusal::Nowhere);
    assert!(matches!(refused(&w, "a", &moved(&w, "a", "q", epoch, "q")), BoxRefusal::Target(_)));
}

#[test]
fn threat_46_of_two_moves_of_one_box_one_is_taken() {
    let mut w = world();
    let epoch = held(&w).epoch;
    let (to_b, to_c) = (moved(&w, "a", "b", epoch, "b"), moved(&w, "a", "c", epoch, "c"));
    w.write("a", to_b).unwrap();
    assert!(matches!(refused(&w, "a", &to_c), BoxRefusal::Epoch { .. }));
    assert_eq!(held(&w).owner, w.id("b"));
}

#[test]
fn a_box_whose_owner_was_removed_waits_for_who_adopts_it_and_one_whose_owner_leaves_goes_along() {
    let mut w = world();
    let epoch = held(&w).epoch;
    let adopt = of(Owning::Adopted { epoch, ticket: Some(TICKET) });
    assert!(matches!(stopped_by(Check::Ownerless, &w, "c", adopt.clone()), BoxRefusal::Owner { .. }));
    w.voters(&["a", "b"]);
    w.voters(&["b"]);
    let mut left = w.clone();
    left.write("a", Act::Left).unwrap();
    assert!(left.record().view().boxes.is_empty());
    let agreed = moved(&w, "a", "b", epoch, "a");
    let a = w.id("a");
    w.write("b", Act::Evicted { member: a, reason: "test".into() }).unwrap();
    assert_eq!(held(&w).owner, a, "it stays, ownerless");
    let mut adopted = w.clone();
    adopted.write("c", adopt).unwrap();
    assert_eq!((held(&adopted).owner, held(&adopted).epoch), (w.id("c"), epoch.next()));
    assert_eq!(Outcome::of(Some(held(&adopted)), epoch, TICKET), Outcome::Moved);
    // What the source agreed to while it was a member still counts.
    w.write("b", agreed.clone()).unwrap();
    assert_eq!(held(&w).owner, w.id("b"));
    assert!(matches!(refused(&adopted, "b", &agreed), BoxRefusal::Epoch { .. }));
    // And anybody may end what is nobody's.
    let mut ended = w.clone();
    let b = ended.id("b");
    for voters in [vec![b, ended.id("c")], vec![ended.id("c")]] {
        ended.write("b", Act::Voters(voters.into_iter().collect())).unwrap();
    }
    ended.write("c", Act::Evicted { member: b, reason: "test".into() }).unwrap();
    ended.write("c", of(Owning::Ended { epoch: epoch.next() })).unwrap();
    assert_eq!(Outcome::of(ended.record().view().boxes.get(&id()), epoch, TICKET), Outcome::Past);
}

#[test]
fn a_box_that_is_placed_anew_does_not_go_back_to_an_epoch_that_it_had() {
    let mut w = world();
    let epoch = held(&w).epoch;
    assert_eq!(refused(&w, "b", &placed()), BoxRefusal::There(id()));
    let old = moved(&w, "a", "b", epoch, "b");
    w.write("a", of(Owning::MoveAborted { epoch, ticket: TICKET })).unwrap();
    w.write("a", of(Owning::Ended { epoch: epoch.next() })).unwrap();
    assert_eq!(refused(&w, "a", &old), BoxRefusal::NoBox(id()));
    w.write("a", placed()).unwrap();
    assert!(held(&w).epoch > epoch.next());
    assert!(matches!(refused(&w, "a", &old), BoxRefusal::Epoch { .. }));
}

#[test]
fn nobody_fills_the_union_alone_and_who_has_no_tpm_owns_nothing() {
    let mut w = World::begin(&["a", "b"]);
    let act = |n: u16| {
        let bytes = n.to_be_bytes();
        let id = Digest::of(&bytes).0.into();
        Act::Box { id, does: Owning::Placed { name: format!("b{n}").parse().unwrap() } }
    };
    for n in 0..u16::try_from(MAX_BOXES_OF_A_MEMBER).unwrap() {
        w.write("a", act(n)).unwrap();
    }
    assert!(matches!(refused(&w, "a", &act(9999)), BoxRefusal::Full(MAX_BOXES_OF_A_MEMBER, _)));
    w.write("b", placed()).unwrap();
    let onto = moved(&w, "b", "a", held(&w).epoch, "a");
    assert!(matches!(refused(&w, "b", &onto), BoxRefusal::Full(MAX_BOXES_OF_A_MEMBER, _)));
    let bare = w.bare("bare");
    let placed = act(9998);
    assert_eq!(w.write("bare", placed), Err(Refusal::WithoutTpm(bare)));
}

/// The record as one message between domains has members, tokens and these.
#[test]
fn all_boxes_are_a_quarter_of_a_message_between_domains() {
    const MESSAGE: usize = 8 * 1024 * 1024;
    let largest = Owned {
        name: "x".repeat(63).parse().unwrap(),
        owner: [255; 32].into(),
        key: [255; 32].into(),
        epoch: OwnerEpoch(u64::MAX),
        last: Some(gtvp_model::owner::Settled { ticket: TICKET, moved: false }),
    };
    let one = serde_json::to_vec(&BTreeMap::from([(id(), largest)])).unwrap().len();
    assert!(one * MAX_BOXES <= MESSAGE / 4, "{one} bytes a box");
}

#[test]
fn every_field_of_the_terms_is_in_what_is_signed() {
    let base = Terms {
        union: [1; 32].into(),
        id: [2; 32].into(),
        epoch: OwnerEpoch(3),
        from: [4; 32].into(),
        to: [5; 32].into(),
        ticket: Digest([6; 32]),
        state: Digest([7; 32]),
    };
    for other in [
        Terms { union: [9; 32].into(), ..base },
        Terms { id: [9; 32].into(), ..base },
        Terms { epoch: OwnerEpoch(9), ..base },
        Terms { from: [9; 32].into(), ..base },
        Terms { to: [9; 32].into(), ..base },
        Terms { ticket: Digest([9; 32]), ..base },
        Terms { state: Digest([9; 32]), ..base },
    ] {
        assert_ne!(other.signed_content(), base.signed_content(), "{other:?}");
    }
}
