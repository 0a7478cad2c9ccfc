//! One application asks about another, on real software TPMs of both members and of the other box: what is vouched for, and each way in
//! which it is not.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

#[allow(dead_code, reason = "what other tests need of it")]
mod played;

use gtvp_appraisal::appraise::TpmClass;
use gtvp_appraisal::file::EvidenceFile;
use gtvp_appraisal::ownlog::EntryKind;
use gtvp_appraisal::result::{AttestationResult, SignedResult};
use gtvp_appraisal::tpm::{Public, VerifyingKey};
use gtvp_ipc::bulk;
use gtvp_ipc::security::{AttestBox, ChallengePeer, PeerChallenge, PeerVouched, VouchForPeer};
use gtvp_model::composition::{Composition, Item};
use gtvp_model::digest::Digest;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::Slot;
use gtvp_model::peer::PeerQuestion;
use gtvp_security::attest;
use gtvp_security::tpm::actor::{Measured, Tpm};
use gtvp_security::vtpm::Vtpms;
use played::SoftwareTpm;
use played::server::{NOW, Server, at, measured};
use played::union::{joins, token};

/// Two members, and a box `web` of the second one.
struct World {
    m1: Server,
    m2: Server,
    _vtpm: SoftwareTpm,
    web: Tpm,
    composition: Composition,
}

impl World {
    fn new() -> Self {
        let (m1, m2) = (Server::start("m1"), Server::start("m2"));
        m1.begin().unwrap();
        let token = token(&[&m1]);
        joins(&m2, &m1, &token);
        let vtpm = SoftwareTpm::start();
        let web = Tpm::start(vtpm.address(), vtpm.state()).unwrap();
        let item = |reference: &str| Item {
            reference: reference.parse().unwrap(),
            source: Digest::of(reference.as_bytes()),
            size: 1,
        };
        let composition = Composition {
            format: 1,
            kernel: item("deb:linux-image-x=6.1:amd64"),
            items: vec![item("deb:nginx=1.22.1-9:amd64")],
        };
        let world = Self { m1, m2, _vtpm: vtpm, web, composition };
        world.measure_box(&world.m2.actor);
        for item in &world.composition.items {
            let (subject, value) = (item.reference.to_string(), item.source);
            world.web.measure(Measured { kind: EntryKind::Component, subject, value }).unwrap();
        }
        world
    }

    fn measure_box(&self, of: &Tpm) {
        let key = self.web.state().unwrap().identity.ak_public;
        let entry = |kind, value| Measured { kind, subject: "web".into(), value };
        of.measure(entry(EntryKind::Composition, self.composition.digest())).unwrap();
        of.measure(entry(EntryKind::Vtpm, Digest::of(&key))).unwrap();
    }

    fn ask(&self, peer: &str, ms: u64) -> Result<PeerChallenge, Fault> {
        let peer = PeerQuestion { peer: peer.into(), nonce: "0a".repeat(16) };
        self.m1.peers.challenge_peer(&ChallengePeer { asker: "shop".parse().unwrap(), peer }, at(ms))
    }

    /// What the box's member answers.
    fn evidence(&self, of: &Server, nonce: &[u8]) -> EvidenceFile {
        let asked = AttestBox {
            for_member: true,
            slot: Slot::new(1).unwrap(),
            name: "web".parse().unwrap(),
            composition: self.composition.clone(),
            nonce: String::new(),
        };
        let file = attest::make(&of.actor, None, TpmClass::Software, nonce.to_vec(), 0).unwrap();
        Vtpms::attest(&self.web, &asked, nonce, file).unwrap()
    }

    fn vouch(&self, nonce: [u8; 32], file: &EvidenceFile, ms: u64) -> Result<PeerVouched, Fault> {
        let fd = bulk::give(&file.encode()).unwrap();
        self.m1.peers.vouch_for_peer(&VouchForPeer { nonce }, vec![fd], at(ms))
    }

    /// Asks, has the evidence changed on its way, and gives what is said of it.
    fn changed(&self, change: impl FnOnce(&mut EvidenceFile)) -> Result<PeerVouched, Fault> {
        let nonce = self.ask("m2/web", 0).unwrap().nonce;
        let mut file = self.evidence(&self.m2, &nonce);
        change(&mut file);
        self.vouch(nonce, &file, 0)
    }
}

fn why(outcome: Result<PeerVouched, Fault>) -> String {
    let fault = outcome.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Denied, "{fault:?}");
    fault.causes.join(": ")
}

/// As whoever trusts `verifier` reads it.
fn read(verifier: &Server, result: &[u8], now: i64) -> Result<AttestationResult, String> {
    let public = Public::parse(&verifier.union.own_keys().unwrap().in_tpm().unwrap().ak_public).unwrap();
    let key = VerifyingKey::of(&public).unwrap();
    SignedResult::parse(result).and_then(|r| r.verify(&key, public.name(), now)).map_err(|e| e.to_string())
}

#[test]
fn a_box_of_a_trusted_member_is_vouched_for() {
    let world = World::new();
    let challenge = world.ask("m2/web", 0).unwrap();
    assert_eq!(challenge.member, Some(world.m2.id()));
    let file = world.evidence(&world.m2, &challenge.nonce);
    let vouched = world.vouch(challenge.nonce, &file, 0).unwrap();
    assert_eq!(
        (vouched.verdict.as_str(), vouched.member.as_str(), vouched.name.as_str()),
        ("trusted", "m2", "web")
    );
    assert_eq!(vouched.composition, world.composition.digest());
    assert!(vouched.not_checked.iter().any(|n| n.contains("there is no policy yet")), "{vouched:?}");
    assert!(vouched.not_checked.iter().any(|n| n.contains("software TPM")));
    // It can be passed on: it says by whom, about whom, for whom, until when.
    let now = i64::try_from(NOW).unwrap();
    let result = read(&world.m1, &vouched.result, now).unwrap();
    let about = result.claims.about.unwrap();
    assert_eq!((about.name.as_str(), about.linked, about.asked.by.as_str()), ("web", 1, "shop"));
    assert_eq!(about.asked.nonce, [10; 16]);
    assert_eq!((result.expires, vouched.expires), (now + 5, now + 5), "as long as the verdict: 2.5 periods");
    assert!(read(&world.m1, &vouched.result, now + 5).is_err(), "not longer");
    assert!(read(&world.m2, &vouched.result, now).is_err(), "by nobody else");
    // The evidence was good for one answer.
    let again = world.vouch(challenge.nonce, &file, 0).unwrap_err();
    assert_eq!(again.kind, FaultKind::WrongState);
    // A box of the same member, which says that it speaks for itself.
    world.measure_box(&world.m1.actor);
    let own = world.ask("web", 0).unwrap();
    assert_eq!(own.member, None);
    let vouched = world.vouch(own.nonce, &world.evidence(&world.m1, &own.nonce), 0).unwrap();
    assert_eq!(vouched.member.as_str(), "m1");
    assert!(vouched.not_checked.iter().any(|n| n.contains("speaks for itself")), "{vouched:?}");
}

#[test]
fn evidence_for_another_question_or_of_another_box_is_none() {
    let world = World::new();
    assert!(world.changed(|_| ()).is_ok(), "control");
    // Replayed: it answers the question before.
    let first = world.ask("m2/web", 0).unwrap().nonce;
    let old = world.evidence(&world.m2, &first);
    let second = world.ask("m2/web", 0).unwrap().nonce;
    assert!(why(world.vouch(second, &old, 0)).contains("something else than was asked"));
    // The same with the new nonce written over the old one: the quotes tell.
    let mut forged = old.clone();
    let third = world.ask("m2/web", 0).unwrap().nonce;
    forged.claims.nonce = third.to_vec();
    forged.about.as_mut().unwrap().nonce = third.to_vec();
    assert!(why(world.vouch(third, &forged, 0)).starts_with("bound-elsewhere"), "the member's quote");
    let said =
        why(world.changed(|f| f.about.as_mut().unwrap().evidence = old.about.clone().unwrap().evidence));
    assert!(said.contains("vTPM's quote is bound to something else"), "{said}");
    // Another member's evidence, its own box's, for the box that was asked about.
    world.measure_box(&world.m1.actor);
    let nonce = world.ask("m2/web", 0).unwrap().nonce;
    let said = why(world.vouch(nonce, &world.evidence(&world.m1, &nonce), 0));
    assert!(said.contains("another attestation key"), "{said}");
    let said = why(world.changed(|f| f.about.as_mut().unwrap().evidence.name = "db".parse().unwrap()));
    assert_eq!(said, "the evidence is about db");
    assert_eq!(why(world.changed(|f| f.about = None)), "the evidence is about no box");
    // Another composition than the member has measured, and a log without what was linked.
    let said = why(world.changed(|f| {
        f.about.as_mut().unwrap().evidence.composition.items[0].source = Digest([1; 32]);
    }));
    assert!(said.contains("measured composition"), "{said}");
    let said = why(world.changed(|f| f.about.as_mut().unwrap().evidence.log.clear()));
    assert!(said.contains("does not give the quoted PCR"), "{said}");
}

#[test]
fn a_box_is_never_better_than_its_member() {
    let world = World::new();
    assert!(world.changed(|_| ()).is_ok(), "control");
    // Silent for more than two and a half periods.
    let nonce = world.ask("m2/web", 5_001).unwrap().nonce;
    let file = world.evidence(&world.m2, &nonce);
    assert_eq!(why(world.vouch(nonce, &file, 5_001)), "its member m2 is unknown here");
    // A program that nobody knows, since it proved itself last.
    world.m2.actor.measure(measured(EntryKind::Binary, "drivers", 66)).unwrap();
    let said = why(world.changed(|_| ()));
    assert!(said.starts_with("own-entry: ") && said.contains("drivers"), "{said}");
}

#[test]
fn questions_that_name_nobody_and_servers_in_no_union_are_refused() {
    let world = World::new();
    assert_eq!(world.ask("m3/web", 0).unwrap_err().kind, FaultKind::NotFound);
    assert_eq!(world.ask("M2/web", 0).unwrap_err().kind, FaultKind::Invalid);
    assert_eq!(world.ask("", 0).unwrap_err().kind, FaultKind::Invalid);
    let alone = Server::start("m9");
    let peer = PeerQuestion { peer: "web".into(), nonce: "0a".repeat(16) };
    let asked = ChallengePeer { asker: "shop".parse().unwrap(), peer };
    assert_eq!(alone.peers.challenge_peer(&asked, at(0)).unwrap_err().kind, FaultKind::WrongState);
    // A challenge of nobody, and one that is too old.
    let nonce = world.ask("m2/web", 0).unwrap().nonce;
    let file = world.evidence(&world.m2, &nonce);
    assert_eq!(world.vouch([9; 32], &file, 0).unwrap_err().kind, FaultKind::WrongState);
    assert_eq!(world.vouch(nonce, &file, 60_000).unwrap_err().kind, FaultKind::WrongState);
    // Without a descriptor, and with bytes that are no evidence.
    for bytes in [None, Some(&b"nonsense"[..])] {
        let nonce = world.ask("m2/web", 0).unwrap().nonce;
        let fds = bytes.map(|b| bulk::give(b).unwrap()).into_iter().collect();
        let refused = world.m1.peers.vouch_for_peer(&VouchForPeer { nonce }, fds, at(0)).unwrap_err();
        assert_eq!(refused.kind, FaultKind::Denied);
    }
}
