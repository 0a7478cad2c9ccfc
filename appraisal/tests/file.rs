//! Evidence files: the vertical chain from a member to a box, offline.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use gtvp_appraisal::alg::HashAlg;
use gtvp_appraisal::appraise::{NotMade, State, TpmClass};
use gtvp_appraisal::boxes::{BoxEvidence, BoxRefusal, qualifying_data};
use gtvp_appraisal::ek::Roots;
use gtvp_appraisal::evidence::LogPart;
use gtvp_appraisal::file::{AboutBox, Blob, Conclusion, EkFinding, EvidenceFile, FileRefusal};
use gtvp_appraisal::ownlog::EntryKind;
use gtvp_appraisal::reference::{Manifest, OwnMatch, OwnRule, Rule, Status};
use gtvp_appraisal::tpm::{Name, Scheme, Signature};
use gtvp_model::composition::{Composition, Item};
use gtvp_model::digest::Digest;
use support::*;

fn item(reference: &str) -> Item {
    Item { reference: reference.to_owned(), source: Digest::of(reference.as_bytes()), size: 1000 }
}

fn composition() -> Composition {
    let items = vec![item("deb:nginx=1.22.1-9:amd64"), item("deb:libc6=2.36-9:amd64")];
    Composition { format: 1, kernel: item("deb:linux-image=6.1:amd64"), items }
}

struct World {
    file: EvidenceFile,
    member: Machine,
    vtpm: Machine,
    authority: Key,
}

impl World {
    fn known(&self) -> Vec<Name> {
        vec![*self.authority.parsed().name()]
    }

    fn verify(&self, file: &EvidenceFile) -> Result<Conclusion, BoxRefusal> {
        let file = EvidenceFile::decode(&file.encode()).unwrap();
        let verdict = file.verify(&Roots::new(), &self.known(), NOW).unwrap();
        match &verdict.about {
            Some(Err(e)) => {
                assert_eq!(verdict.conclusion(), Conclusion::Refused);
                Err(e.clone())
            }
            _ => Ok(verdict.conclusion()),
        }
    }

    /// The file again, after something happened to member or vTPM.
    fn renew(&mut self) {
        self.file.evidence = self.member.evidence(&self.file.qualifying);
        let qualifying = qualifying_data(&self.file.evidence.quote, NONCE);
        let quoted = self.vtpm.evidence(&qualifying.0);
        self.file.about.as_mut().unwrap().evidence = BoxEvidence {
            name: "web".parse().unwrap(),
            composition: composition(),
            ak: quoted.ak,
            quote: quoted.quote,
            signature: quoted.signature,
            pcrs: quoted.pcrs,
            log: self.vtpm.own.clone(),
        };
    }
}

/// A member with one box in which its components were linked.
fn world() -> World {
    let mut member = Machine::booted("kl_bbm_sb");
    member.start();
    let mut vtpm = Machine::software();
    member.measure(EntryKind::Composition, "web", composition().digest());
    member.measure(EntryKind::Vtpm, "web", Digest::of(&vtpm.ak.public));
    for i in composition().items.iter().chain([&composition().kernel]) {
        vtpm.measure(EntryKind::Component, &i.reference, i.source);
    }
    let authority = Key::ak();
    let vtpms = Rule::Own(OwnRule {
        kind: EntryKind::Vtpm,
        subject: None,
        is: OwnMatch::Unchecked,
        part: None,
        status: Status::Current,
    });
    let mut programs = programs();
    programs.rules.push(vtpms);
    let manifests = [manifest("rhel-9", 1, member.boot_rules(Status::Current)), programs];
    let references = manifests.iter().map(|m| Blob(publish(&authority, m))).collect();
    let quoted = vtpm.evidence(b"");
    let about = BoxEvidence {
        name: "web".parse().unwrap(),
        composition: composition(),
        ak: quoted.ak,
        quote: quoted.quote,
        signature: quoted.signature,
        pcrs: quoted.pcrs,
        log: Vec::new(),
    };
    let file = EvidenceFile {
        format: EvidenceFile::format(),
        made: NOW,
        class: TpmClass::Hardware,
        evidence: member.evidence(NONCE),
        qualifying: NONCE.to_vec(),
        ek_certificate: Vec::new(),
        intermediates: Vec::new(),
        references,
        authorities: vec![Blob(authority.public.clone())],
        about: Some(AboutBox { evidence: about, nonce: NONCE.to_vec() }),
    };
    let mut world = World { file, member, vtpm, authority };
    world.renew();
    world
}

fn publish(key: &Key, manifest: &Manifest) -> Vec<u8> {
    let name = *key.parsed().name();
    let unsigned = manifest.unsigned(Scheme::Ecdsa(HashAlg::Sha256), &name).unwrap();
    let signature = Signature::parse(&key.sign(&unsigned.to_be_signed())).unwrap();
    manifest.signed(unsigned, &signature).unwrap()
}

#[test]
fn a_file_proves_that_it_is_consistent_and_says_what_it_cannot_prove() {
    let world = world();
    assert_eq!(world.verify(&world.file), Ok(Conclusion::ConsistentWithKnownValues));
    let verdict = world.file.verify(&Roots::new(), &[], NOW).unwrap();
    assert_eq!(verdict.conclusion(), Conclusion::Consistent, "whose values these are is not known");
    assert_eq!(verdict.member.state, State::Unknown);
    assert!(verdict.member.failed.is_empty(), "{:?}", verdict.member.told());
    assert!(verdict.member.not_made.contains(&NotMade::KeyClaimed));
    assert_eq!(verdict.ek, EkFinding::NoCertificate);
    let found = verdict.about.unwrap().unwrap();
    assert_eq!(found.linked.len(), 3);
    assert!(found.later.is_empty());
}

#[test]
fn components_linked_later_are_told() {
    let mut world = world();
    world.vtpm.measure(EntryKind::Component, "deb:curl=7.88:amd64", Digest::of(b"curl"));
    world.renew();
    let verdict = world.file.verify(&Roots::new(), &[], NOW).unwrap();
    let found = verdict.about.unwrap().unwrap();
    assert_eq!(found.later, [("deb:curl=7.88:amd64".to_owned(), Digest::of(b"curl"))]);
}

#[test]
fn each_broken_link_of_the_vertical_chain_is_named() {
    // Another composition than the member measured.
    let w = world();
    let mut file = w.file.clone();
    file.about.as_mut().unwrap().evidence.composition.items.pop();
    assert!(matches!(w.verify(&file), Err(BoxRefusal::OtherComposition { .. })));
    // A box that the member never started.
    let mut file = w.file.clone();
    file.about.as_mut().unwrap().evidence.name = "db".parse().unwrap();
    assert!(matches!(w.verify(&file), Err(BoxRefusal::NoComposition(_))));
    // Another vTPM, well quoted.
    let mut other = world();
    other.vtpm.ak = Key::ak();
    other.renew();
    assert!(matches!(other.verify(&other.file), Err(BoxRefusal::OtherVtpm(_))));
    // The box was started anew since: its old vTPM does not count.
    let mut anew = world();
    anew.member.measure(EntryKind::Vtpm, "web", Digest::of(b"a new vTPM"));
    anew.renew();
    assert!(matches!(anew.verify(&anew.file), Err(BoxRefusal::OtherVtpm(_))));
    // A box's quote that belongs to another member's quote, or nonce.
    let mut file = w.file.clone();
    file.about.as_mut().unwrap().nonce = b"other".to_vec();
    assert_eq!(w.verify(&file), Err(BoxRefusal::BoundElsewhere));
    let mut later = world();
    later.member.clock += 1;
    later.file.evidence = later.member.evidence(NONCE);
    assert_eq!(later.verify(&later.file), Err(BoxRefusal::BoundElsewhere));
    // A rewritten box log.
    let mut file = w.file.clone();
    *file.about.as_mut().unwrap().evidence.log.last_mut().unwrap() ^= 1;
    assert_eq!(w.verify(&file), Err(BoxRefusal::PcrMismatch));
    // A component under a good name with other contents.
    let mut swapped = world();
    swapped.vtpm.measure(EntryKind::Component, "deb:nginx=1.22.1-9:amd64", Digest::of(b"evil"));
    swapped.renew();
    assert!(matches!(swapped.verify(&swapped.file), Err(BoxRefusal::OtherComponent { entry: 3, .. })));
    // A signature of the member's own key under the vTPM's quote.
    let mut file = w.file.clone();
    let about = &mut file.about.as_mut().unwrap().evidence;
    about.signature = w.member.ak.sign(&about.quote);
    assert!(matches!(w.verify(&file), Err(BoxRefusal::Signature(_))));
}

#[test]
fn a_file_that_claims_what_is_not_so_is_refused() {
    let w = world();
    let verify = |file: &EvidenceFile| file.verify(&Roots::new(), &[], NOW);
    // Another question than it says.
    let mut file = w.file.clone();
    file.qualifying = b"other".to_vec();
    let verdict = verify(&file).unwrap();
    assert_eq!(verdict.conclusion(), Conclusion::Refused);
    assert_eq!(verdict.member.failed[0].name(), "bound-elsewhere");
    // Logs without their beginning.
    let mut file = w.file.clone();
    file.evidence.own = LogPart::From { from: 7, bytes: vec![1] };
    assert_eq!(verify(&file).unwrap_err(), FileRefusal::NotWhole);
    // Reference values that nobody in the file signed, that were changed, or none at all.
    let mut file = w.file.clone();
    file.authorities = vec![Blob(Key::ak().public)];
    assert_eq!(verify(&file).unwrap_err(), FileRefusal::UnknownSigner(0));
    let mut file = w.file.clone();
    *file.references[0].0.last_mut().unwrap() ^= 1;
    assert!(matches!(verify(&file).unwrap_err(), FileRefusal::Manifest { number: 0, .. }));
    let mut file = w.file.clone();
    file.references.clear();
    assert!(matches!(verify(&file).unwrap_err(), FileRefusal::Compose(_)));
    // A certificate that does not chain.
    let mut file = w.file.clone();
    let path = format!("{}/tests/vectors/ek/", env!("CARGO_MANIFEST_DIR"));
    file.ek_certificate = std::fs::read(format!("{path}st_sha256_with_rsa_der.der")).unwrap();
    assert_eq!(verify(&file).unwrap().ek, EkFinding::NoRoots);
    let mut roots = Roots::new();
    roots.add(&std::fs::read(format!("{path}NUVO_2110.pem")).unwrap()).unwrap();
    assert_eq!(file.verify(&roots, &[], NOW).unwrap().conclusion(), Conclusion::Refused);
    roots.add(&std::fs::read(format!("{path}STM_RSA_05I.pem")).unwrap()).unwrap();
    assert_eq!(file.verify(&roots, &[], NOW).unwrap().conclusion(), Conclusion::Consistent);
}

#[test]
fn other_bytes_are_no_file() {
    let bytes = world().file.encode();
    for end in (0..bytes.len()).step_by(1 + bytes.len() / 500) {
        assert!(matches!(EvidenceFile::decode(&bytes[..end]), Err(FileRefusal::NotAFile(_))), "{end}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(EvidenceFile::decode(&longer).is_err());
    let mut file = world().file;
    file.format = "gtvp-evidence/2".to_owned();
    assert!(matches!(EvidenceFile::decode(&file.encode()), Err(FileRefusal::Format(_))));
    // A list of a billion, announced and not there.
    assert!(EvidenceFile::decode(&[0xbf, 0x9b, 0, 0, 0, 0, 0x40, 0, 0, 0]).is_err());
}
