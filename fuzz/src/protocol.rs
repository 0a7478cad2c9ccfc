//! What another member sends: frames of every kind, entries of the record, whole pages of it, what the TLS key is to sign.

use gtvp_model::digest::Digest;
use gtvp_model::owner::OwnerEpoch;
use gtvp_model::union::{Epoch, UnixTime};
use gtvp_protocol::csp::{Entry, Signature, node, page};
use gtvp_protocol::frame::wire::encode;
use gtvp_protocol::frame::{Frame, FrameReader};
use gtvp_protocol::hsp::signable::CertificateVerify;
use gtvp_protocol::hsp::{Message, message};
use gtvp_protocol::smp::{self, Facts, Journal, SignedTicket, Source, Target, Ticket};
use gtvp_protocol::{neighbour, results, vouch};

use crate::seeds::{files, named};
use crate::{Row, same};

pub const TARGETS: &[Row] = &[
    ("frames", frames, stream),
    ("record-entry", entries, |bytes| match Entry::decode(bytes) {
        Ok(entry) => same("an entry", bytes, &entry.encode()),
        Err(_) => Ok(()),
    }),
    ("record-page", pages, |bytes| match page::split(bytes) {
        Ok(items) => {
            let _ = page::offer(&items);
            same("a page of the record", bytes, &page::join(&items))
        }
        Err(_) => Ok(()),
    }),
    ("migration-journal", journals, |bytes| {
        if let Ok(journal) = Journal::<Source>::decode(bytes) {
            same("a source's journal", bytes, &journal.encode())?;
        }
        match Journal::<Target>::decode(bytes) {
            Ok(journal) => same("a target's journal", bytes, &journal.encode()),
            Err(_) => Ok(()),
        }
    }),
    ("tls-signable", signable, |bytes| {
        let _ = CertificateVerify::parse(bytes);
        Ok(())
    }),
];

/// One of each kind, and all in a row.
fn frames() -> Vec<Vec<u8>> {
    let kind = |name: &str| name.split('-').next().and_then(|k| k.parse().ok());
    let simulated = named("seeds/frames", "").into_iter();
    let mut all: Vec<Frame> =
        simulated.filter_map(|(name, body)| Some(Frame { kind: kind(&name)?, body })).collect();
    all.extend(results::Told::frame(vec![1; 90], vec![2; 400]));
    all.push(results::Suspect { member: [7; 32].into() }.frame());
    all.extend(vouch::Answer::frames(7, &[1; 300]));
    all.push(vouch::Answer::refusal(7, "there is no such box"));
    all.push(neighbour::Endpoints::frame(Vec::new()));
    all.extend(migration().iter().map(smp::Message::frame));
    let mut seeds: Vec<Vec<u8>> = all.iter().filter_map(Frame::encode).collect();
    seeds.push(seeds.concat());
    seeds
}

fn limits(kind: u8) -> Option<usize> {
    let all: [fn(u8) -> Option<usize>; 6] =
        [message::limits, node::limits, results::limits, vouch::limits, neighbour::limits, smp::limits];
    all.into_iter().find_map(|limits| limits(kind))
}

fn stream(bytes: &[u8]) -> Result<(), String> {
    let mut reader = FrameReader::new(limits);
    // As it comes from the network: in two pieces.
    let (one, two) = bytes.split_at(bytes.len() / 3);
    for mut piece in [one, two] {
        loop {
            match reader.read(&mut piece) {
                Ok(Some(frame)) => decode(&frame)?,
                Ok(None) => break,
                Err(_) => return Ok(()),
            }
        }
    }
    Ok(())
}

fn decode(frame: &Frame) -> Result<(), String> {
    let written = match frame.kind {
        k if message::limits(k).is_some() => Message::decode(frame).ok().map(|m| m.frame().body),
        k if node::limits(k).is_some() => node::Message::decode(frame).ok().map(|m| m.frame().body),
        k if smp::limits(k).is_some() => smp::Message::decode(frame).ok().map(|m| m.frame().body),
        65 => results::Told::decode(frame).ok().map(|m| encode(&m)),
        66 => results::Suspect::decode(frame).ok().map(|m| encode(&m)),
        vouch::ASK => vouch::Ask::decode(frame).ok().map(|m| encode(&m)),
        vouch::ANSWER => vouch::Answer::decode(frame).ok().map(|m| encode(&m)),
        _ => neighbour::Endpoints::decode(frame).ok().map(|m| encode(&m)),
    };
    written.map_or(Ok(()), |w| same(&format!("a frame of kind {}", frame.kind), &frame.body, &w))
}

fn ticket() -> SignedTicket {
    let hash = smp::ticket::Hash([3; 32]);
    let ticket = Ticket {
        version: 1,
        union: [1; 32].into(),
        id: [2; 32].into(),
        epoch: OwnerEpoch(7),
        source: [4; 32].into(),
        target: [5; 32].into(),
        composition: Digest([6; 32]),
        policy: Epoch(0),
        channel: Digest([7; 32]),
        expires: UnixTime(1_900_000_000),
        template: Some(hash),
        target_result: Digest([8; 32]),
        source_result: Digest([9; 32]),
        nonce: hash,
    };
    SignedTicket { ticket, source: signature(), target: Some(signature()) }
}

fn signature() -> Signature {
    Signature {
        spki: vec![1; 91].try_into().unwrap_or_default(),
        value: vec![2; 71].try_into().unwrap_or_default(),
    }
}

/// What the ends of a migration say.
fn migration() -> Vec<smp::Message> {
    use smp::message::{Abort, Accept, Built, Offer, Ready, Still, Switch, Why};
    let SignedTicket { ticket, source, .. } = ticket();
    let (digest, state, consent) = (ticket.digest(), Digest([9; 32]), signature());
    let why = b"because".to_vec().try_into().unwrap_or_default();
    vec![
        Offer { offered: Box::new(ticket), signature: source }.into(),
        Accept { ticket: digest, signature: signature() }.into(),
        Built { ticket: digest }.into(),
        Still { ticket: digest, state }.into(),
        Ready { ticket: digest, state, consent: consent.clone() }.into(),
        Switch { ticket: digest, consent }.into(),
        Abort { ticket: digest, code: Why::Failed, why }.into(),
    ]
}

fn journals() -> Vec<Vec<u8>> {
    let full = Facts {
        state: Some(Digest([9; 32])),
        mine: Some(signature()),
        theirs: Some(signature()),
        ..Facts::new(ticket())
    };
    vec![
        Journal { state: Source::Offered, facts: Facts::new(ticket()) }.encode(),
        Journal { state: Target::Promised, facts: full }.encode(),
    ]
}

/// The record that a joiner was sent.
fn pages() -> Vec<Vec<u8>> {
    let bodies = files("seeds/frames", "18-").into_iter().map(|body| Frame { kind: 18, body });
    let records = bodies.filter_map(|f| match Message::decode(&f) {
        Ok(Message::Record(record)) => Some(record.bytes.into_vec()),
        _ => None,
    });
    records.collect()
}

fn entries() -> Vec<Vec<u8>> {
    let items = pages().into_iter().filter_map(|p| page::split(&p).ok()).flatten();
    items.map(|c| c.entry.entry.as_slice().to_vec()).collect()
}

fn signable() -> Vec<Vec<u8>> {
    let context = |who: &str| {
        [&[0x20; 64][..], format!("TLS 1.3, {who} CertificateVerify\0").as_bytes(), &[9; 32]].concat()
    };
    vec![context("client"), context("server")]
}
