//! Messages and journals on bytes that nobody meant.

use std::collections::BTreeMap;

use super::super::message::*;
use super::super::*;
use super::{Source, Target, Wish, carry, ends, signed, world};
use crate::csp::Signature;
use crate::frame::Frame;
use gtvp_model::digest::Digest;

/// One message of each kind, of a move and of one that is given up.
fn messages() -> BTreeMap<u8, Frame> {
    let (mut world, ticket) = world();
    let (mut a, mut b) = ends(&world, &ticket);
    let mut all = Vec::new();
    let offer = a.on(&mut world, Event::Wish(Wish::Begin));
    carry(&mut world, &mut a, &mut b, offer, |m| {
        all.push(m.frame());
        m
    });
    let ticket = ticket.digest();
    all.push(Message::from(Lost { ticket }).frame());
    all.push(
        Message::from(Abort { ticket, code: Why::Cancelled, why: b"no".to_vec().try_into().unwrap() })
            .frame(),
    );
    let kinds: BTreeMap<u8, Frame> = all.into_iter().map(|f| (f.kind, f)).collect();
    assert_eq!(kinds.len(), Message::TABLE.len());
    kinds
}

#[test]
fn each_message_fits_and_comes_back_and_says_what_it_is() {
    for (name, kind, max) in Message::TABLE {
        let frame = &messages()[kind];
        assert!(frame.body.len() <= *max, "{name}");
        let message = Message::decode(frame).unwrap();
        assert_eq!((message.frame(), format!("{:?}", message.says())), (frame.clone(), (*name).to_owned()));
        assert_eq!(limits(*kind), Some(*max));
    }
    assert_eq!((limits(79), limits(90)), (None, None));
}

#[test]
fn no_other_plane_has_a_kind_of_these() {
    use crate::{csp, gossip, hsp, neighbour, results, vouch};
    let others = [
        hsp::message::limits,
        csp::node::limits,
        gossip::limits,
        neighbour::limits,
        results::limits,
        vouch::limits,
    ];
    let shared = |kind: &u8| others.iter().any(|limits| limits(*kind).is_some());
    let shared: Vec<u8> = Message::TABLE.iter().map(|(_, kind, _)| *kind).filter(shared).collect();
    assert!(shared.is_empty(), "{shared:?}");
}

#[test]
fn the_longest_messages_fit_too() {
    let signature = Signature {
        spki: vec![1; crate::csp::entry::MAX_SPKI].try_into().unwrap(),
        value: vec![2; crate::csp::entry::MAX_SIGNATURE].try_into().unwrap(),
    };
    let (_, mut offered) = world();
    offered.expires = gtvp_model::union::UnixTime(u64::MAX);
    let (ticket, state) = (Digest([3; 32]), Digest([4; 32]));
    let consent = signature.clone();
    let why = vec![b'x'; MAX_WHY].try_into().unwrap();
    for message in [
        Message::from(Offer { offered: Box::new(offered), signature: signature.clone() }),
        Accept { ticket, signature: signature.clone() }.into(),
        Ready { ticket, state, consent: consent.clone() }.into(),
        Switch { ticket, consent }.into(),
        Still { ticket, state }.into(),
        Abort { ticket, code: Why::Refused, why }.into(),
    ] {
        let frame = message.frame();
        let max = limits(frame.kind).unwrap();
        assert!(frame.body.len() <= max, "{:?}: {} of {max}", message.says(), frame.body.len());
    }
}

#[test]
fn every_byte_of_every_message_can_be_anything() {
    for (kind, frame) in messages() {
        for at in 0..frame.body.len() {
            for with in
                [0x00, 0x01, 0x17, 0x18, 0x1B, 0x3B, 0x5B, 0x5F, 0x7B, 0x9B, 0x9F, 0xBF, 0xDB, 0xF6, 0xFF]
            {
                let mut body = frame.body.clone();
                body[at] = with;
                let bad = Frame { kind, body };
                if let Ok(message) = Message::decode(&bad) {
                    assert_eq!(message.frame(), bad, "a message has one form");
                }
            }
            assert!(Message::decode(&Frame { kind, body: frame.body[..at].to_vec() }).is_err());
        }
        let longer = Frame { kind, body: [&frame.body[..], &[0]].concat() };
        assert!(Message::decode(&longer).is_err());
    }
}

#[test]
fn a_journal_is_read_as_it_was_written_and_damaged_ones_are_none() {
    let (world, ticket) = world();
    let facts = Facts::new(signed(&world, ticket));
    for state in Source::ALL {
        let journal = Journal { state: *state, facts: facts.clone() };
        assert_eq!(Journal::<Source>::decode(&journal.encode()), Ok(journal));
    }
    let mut full = Facts { state: Some(Digest([1; 32])), ..facts };
    full.mine = Some(world.sign("a", b"x"));
    full.theirs = full.mine.clone();
    full.ticket.target = full.mine.clone();
    let bytes = Journal { state: Target::Promised, facts: full }.encode();
    assert!(bytes.len() < engine::MAX_JOURNAL);
    assert!(Journal::<Target>::decode(&bytes).is_ok());
    for at in 0..bytes.len() {
        assert!(Journal::<Target>::decode(&bytes[..at]).is_err());
        let mut other = bytes.clone();
        other[at] ^= 0xFF;
        if let Ok(journal) = Journal::<Target>::decode(&other) {
            assert_eq!(journal.encode(), other);
        }
    }
    assert!(Journal::<Target>::decode(&vec![0; engine::MAX_JOURNAL + 1]).is_err());
}
