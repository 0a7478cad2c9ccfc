//! Evidence files: the vertical chain from a member to a box, offline.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use gtvp_appraisal::alg::HashAlg;
use gtvp_appraisal::appraise::{Check, NotMade, State, TpmClass};
use gtvp_appraisal::boxes::{BoxEvidence, BoxRefusal, qualifying_data};
use gtvp_appraisal::ek::{self, EkKey, EkRefusal, Roots};
use gtvp_appraisal::evidence::LogPart;
use gtvp_appraisal::file::{
    AboutBox, Blob, Claims, Conclusion, EkFinding, EvidenceFile, FileRefusal, FileVerdict, Reader,
};
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
        let reader = Reader { roots: &Roots::new(), known: &self.known(), nonce: None };
        let verdict = file.verify(&reader, NOW).unwrap();
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
        self.file.evidence =
            self.member.evidence(&self.file.claims.qualifying_data(&self.member.ak.public).0);
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
        claims: Claims {
            made: NOW,
            class: TpmClass::Hardware,
            nonce: NONCE.to_vec(),
            ek: Key::ak().public,
            ek_certificate: Vec::new(),
            intermediates: Vec::new(),
        },
        evidence: member.evidence(NONCE),
        references,
        authorities: vec![Blob(authority.public.clone())],
        about: Some(AboutBox { evidence: about, nonce: NONCE.to_vec() }),
    };
    let mut world = World { file, member, vtpm, authority };
    world.renew();
    world
}

/// As somebody checks it who knows nobody and chose nothing.
fn strangers(file: &EvidenceFile) -> Result<FileVerdict, FileRefusal> {
    file.verify(&Reader { roots: &Roots::new(), known: &[], nonce: None }, NOW)
}

/// TPMT_PUBLIC of an EK with this key (TCG EK Credential Profile, template L-1).
fn ek_public(key: &EkKey) -> Vec<u8> {
    let EkKey::Rsa(modulus, _) = key else { panic!("an RSA certificate") };
    let mut out = vec![0, 1, 0, 0x0b, 0, 3, 0, 0xb2];
    sized(&mut out, &[0; 32]);
    out.extend([0, 6, 0, 0x80, 0, 0x43, 0, 0x10, 8, 0, 0, 0, 0, 0]);
    sized(&mut out, modulus);
    out
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
    let verdict = strangers(&world.file).unwrap();
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
    let verdict = strangers(&world.file).unwrap();
    let found = verdict.about.unwrap().unwrap();
    assert_eq!(found.later, [("deb:curl=7.88:amd64".to_owned(), Digest::of(b"curl"))]);
}

#[test]
fn the_template_that_a_box_started_from_is_told() {
    assert_eq!(strangers(&world().file).unwrap().about.unwrap().unwrap().template, None, "it booted");
    let mut world = world();
    world.vtpm.measure(EntryKind::Booted, gtvp_appraisal::boxes::TEMPLATE, Digest::of(b"a template"));
    world.renew();
    let found = strangers(&world.file).unwrap().about.unwrap().unwrap();
    assert_eq!((found.template, found.later.len()), (Some(Digest::of(b"a template")), 0));
    // One machine starts once.
    world.vtpm.measure(EntryKind::Booted, gtvp_appraisal::boxes::TEMPLATE, Digest::of(b"another"));
    world.renew();
    assert!(matches!(strangers(&world.file).unwrap().about.unwrap(), Err(BoxRefusal::SecondTemplate { .. })));
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
    later.file.evidence =
        later.member.evidence(&later.file.claims.qualifying_data(&later.member.ak.public).0);
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
    let verify = strangers;
    // Anything else that it claims than what the quote is bound to.
    let other_claims: [fn(&mut Claims); 6] = [
        |c| c.made += 1,
        |c| c.class = TpmClass::Software,
        |c| c.nonce[0] ^= 1,
        |c| c.ek = Key::ak().public,
        |c| c.ek_certificate = vec![0x30],
        |c| c.intermediates = vec![Blob(vec![0x30])],
    ];
    for change in other_claims {
        let mut file = w.file.clone();
        change(&mut file.claims);
        let verdict = verify(&file).unwrap();
        assert_eq!(verdict.conclusion(), Conclusion::Refused);
        assert_eq!(verdict.member.failed[0].name(), "bound-elsewhere");
    }
    // The same key under another Name: the signature holds, and is for the one that was quoted.
    let mut file = w.file.clone();
    file.evidence.ak[6] ^= 0x04;
    let verdict = verify(&file).unwrap();
    assert_eq!(verdict.member.failed[0].name(), "bound-elsewhere");
    // Logs without their beginning.
    let mut file = w.file.clone();
    file.evidence.own = LogPart::From { from: 7, bytes: vec![1] };
    assert_eq!(verify(&file).unwrap_err(), FileRefusal::NotWhole);
    // Reference values that nobody in the file signed, or that were changed.
    let mut file = w.file.clone();
    file.authorities = vec![Blob(Key::ak().public)];
    assert_eq!(verify(&file).unwrap_err(), FileRefusal::UnknownSigner(0));
    let mut file = w.file.clone();
    *file.references[0].0.last_mut().unwrap() ^= 1;
    assert!(matches!(verify(&file).unwrap_err(), FileRefusal::Manifest { number: 0, .. }));
    // An endorsement key that is none.
    let mut file = w.file.clone();
    file.claims.ek = vec![0; 4];
    assert!(matches!(verify(&file).unwrap_err(), FileRefusal::Ek(_)));
}

#[test]
fn an_ek_certificate_leads_to_a_root_and_is_of_the_key_that_the_file_names() {
    let path = format!("{}/tests/vectors/ek/", env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read(format!("{path}{name}")).unwrap();
    let mut w = world();
    w.file.claims.ek_certificate = read("st_sha256_with_rsa_der.der");
    w.renew();
    assert_eq!(strangers(&w.file).unwrap().ek, EkFinding::NoRoots);
    let with = |roots: &Roots, file: &EvidenceFile| {
        file.verify(&Reader { roots, known: &[], nonce: None }, NOW).unwrap()
    };
    let mut roots = Roots::new();
    roots.add(&read("NUVO_2110.pem")).unwrap();
    let verdict = with(&roots, &w.file);
    assert!(matches!(verdict.ek, EkFinding::Refused(EkRefusal::Unchained { .. })), "{:?}", verdict.ek);
    assert_eq!(verdict.conclusion(), Conclusion::Refused);
    roots.add(&read("STM_RSA_05I.pem")).unwrap();
    // Another TPM's certificate.
    assert_eq!(with(&roots, &w.file).ek, EkFinding::Refused(EkRefusal::OtherKey));
    let found = ek::verify(&w.file.claims.ek_certificate, &[], &roots, NOW).unwrap();
    w.file.claims.ek = ek_public(&found.key);
    w.renew();
    let verdict = with(&roots, &w.file);
    assert!(matches!(verdict.ek, EkFinding::Verified(_)), "{:?}", verdict.ek);
    assert_eq!(verdict.conclusion(), Conclusion::Consistent);
}

/// What `cli/tests/cli.rs` verifies: a machine that says that its TPM is ST's. Nobody has that TPM here; its certificate is a real one.
#[test]
#[ignore = "writes cli/tests/vectors/vendor.cbor anew"]
fn the_vendors_file_of_the_cli_is_written() {
    let path = format!("{}/tests/vectors/ek/", env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read(format!("{path}{name}")).unwrap();
    let mut w = world();
    let mut machine = Machine::booted("gtt_arch-linux-workstation.bin");
    machine.start();
    w.member = machine;
    (w.file.references, w.file.authorities) = (Vec::new(), Vec::new());
    let mut roots = Roots::new();
    roots.add(&read("STM_RSA_05I.pem")).unwrap();
    let claims = &mut w.file.claims;
    claims.ek_certificate = read("st_sha256_with_rsa_der.der");
    claims.ek = ek_public(&ek::verify(&claims.ek_certificate, &[], &roots, NOW).unwrap().key);
    let middle = x509_parser::pem::Pem::iter_from_buffer(&read("STM_RSA_05I.pem")).next().unwrap().unwrap();
    claims.intermediates = vec![Blob(middle.contents)];
    w.file.evidence = w.member.evidence(&w.file.claims.qualifying_data(&w.member.ak.public).0);
    w.file.about = None;
    let to = format!("{}/../cli/tests/vectors/vendor.cbor", env!("CARGO_MANIFEST_DIR"));
    std::fs::write(to, w.file.encode()).unwrap();
}

#[test]
fn a_file_without_reference_values_compares_nothing_and_says_so() {
    let mut w = world();
    w.file.references.clear();
    let verdict =
        w.file.verify(&Reader { roots: &Roots::new(), known: &w.known(), nonce: None }, NOW).unwrap();
    assert!(verdict.member.failed.is_empty(), "{:?}", verdict.member.told());
    assert_eq!((verdict.conclusion(), verdict.member.state), (Conclusion::Consistent, State::Unknown));
    assert!(verdict.member.not_made.contains(&NotMade::NotCompared));
    assert!(verdict.member.passed.contains(&Check::OwnReplay));
    for never in [Check::BootEntries, Check::Files, Check::OwnEntries, Check::Parts] {
        assert!(!verdict.member.passed.contains(&never), "{never:?} was not made");
    }
    // What is in the log must still be what was quoted.
    let LogPart::From { bytes, .. } = &mut w.file.evidence.own else { panic!("it has a log") };
    *bytes.last_mut().unwrap() ^= 1;
    let verdict = strangers(&w.file).unwrap();
    assert_eq!(verdict.conclusion(), Conclusion::Refused);
    assert_eq!(verdict.member.failed[0].name(), "pcr-mismatch");
}

#[test]
fn who_chose_the_nonce_knows_that_the_file_is_new() {
    let w = world();
    let with = |nonce: Option<&[u8]>| {
        w.file.verify(&Reader { roots: &Roots::new(), known: &[], nonce }, NOW).unwrap()
    };
    assert!(with(None).member.not_made.contains(&NotMade::Freshness));
    let mine = with(Some(NONCE));
    assert_eq!(mine.conclusion(), Conclusion::Consistent);
    assert!(!mine.member.not_made.contains(&NotMade::Freshness));
    // Nobody vouches for the key all the same, and no earlier life of this TPM is known.
    assert_eq!(mine.member.state, State::Unknown);
    assert!(mine.member.not_made.contains(&NotMade::Epoch) && !mine.member.passed.contains(&Check::Epoch));
    let old = with(Some(b"another nonce, chosen later"));
    assert_eq!(old.conclusion(), Conclusion::Refused);
    assert_eq!(old.member.failed[0].name(), "bound-elsewhere");
}

#[test]
fn other_bytes_are_no_file() {
    let bytes = world().file.encode();
    for end in (0..bytes.len()).step_by(1 + bytes.len() / 500) {
        assert!(matches!(EvidenceFile::decode(&bytes[..end]), Err(FileRefusal::NotAFile(_))), "{end}");
    }
    // The same words in another encoding: `about`, null as undefined.
    let mut other = world().file;
    other.about = None;
    let mut bytes = other.encode();
    assert_eq!(bytes.pop(), Some(0xf6));
    bytes.push(0xf7);
    assert!(EvidenceFile::decode(&bytes).is_err());
    other.claims.nonce = vec![7; 15];
    assert_eq!(EvidenceFile::decode(&other.encode()).unwrap_err(), FileRefusal::Nonce(15));
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(EvidenceFile::decode(&longer).is_err());
    let mut file = world().file;
    file.format = "gtvp-evidence/2".to_owned();
    assert!(matches!(EvidenceFile::decode(&file.encode()), Err(FileRefusal::Format(_))));
    file.format = EvidenceFile::format();
    assert!(EvidenceFile::decode(&file.encode()).is_ok());
    file.evidence.version = 0;
    assert!(matches!(EvidenceFile::decode(&file.encode()), Err(FileRefusal::Evidence(_))));
    // A list of a billion, announced and not there.
    assert!(EvidenceFile::decode(&[0xbf, 0x9b, 0, 0, 0, 0, 0x40, 0, 0, 0]).is_err());
}
