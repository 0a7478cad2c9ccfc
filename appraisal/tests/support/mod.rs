//! A machine with a TPM that is played: real logs, real ECDSA signatures, TPM structures as a TPM writes them.

#![allow(dead_code, clippy::unwrap_used, reason = "each test uses some of it; a test that cannot go on ends")]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use gtvp_appraisal::alg::{HashAlg, LogDigest};
use gtvp_appraisal::appraise::{Attester, Binding, Held, KnownFrom, Question, TpmClass};
use gtvp_appraisal::bootlog::BootLog;
use gtvp_appraisal::evidence::{Evidence, LogPart, QUOTED, VERSION};
use gtvp_appraisal::ima::{ImaLog, Way};
use gtvp_appraisal::ownlog::{self, EntryKind, OwnEntry};
use gtvp_appraisal::reference::{
    Demands, Manifest, OwnMatch, OwnRule, Pattern, ReferenceSet, Rule, SignedManifest, Status,
    TrustedManifest, rules_for_boot,
};
use gtvp_appraisal::tpm::{PcrIndex, PcrValues, Public, Scheme, Signature, VerifyingKey};
use gtvp_model::digest::Digest;

pub const BANK: HashAlg = HashAlg::Sha256;
pub const NOW: i64 = 1_795_500_000;
pub const NONCE: &[u8] = b"the answer to this question";

pub fn vector(path: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/vectors/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

pub fn pcr(n: u8) -> PcrIndex {
    PcrIndex::new(n).unwrap()
}

pub fn sized(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u16).to_be_bytes());
    out.extend(bytes);
}

/// A P-256 key in software, shown as a TPM key.
pub struct Key {
    pair: EcdsaKeyPair,
    pub public: Vec<u8>,
}

impl Key {
    /// An attestation key.
    pub fn ak() -> Self {
        Self::with(0x0005_0072)
    }

    pub fn with(attributes: u32) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let mut public = vec![0x00, 0x23, 0x00, 0x0b];
        public.extend(attributes.to_be_bytes());
        public.extend([0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10]);
        let point = pair.public_key().as_ref();
        sized(&mut public, &point[1..33]);
        sized(&mut public, &point[33..]);
        Self { pair, public }
    }

    /// TPMT_SIGNATURE.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let fixed = self.pair.sign(&SystemRandom::new(), message).unwrap();
        let mut out = vec![0x00, 0x18, 0x00, 0x0b];
        fixed.as_ref().chunks(32).for_each(|half| sized(&mut out, half));
        out
    }

    pub fn parsed(&self) -> Public {
        Public::parse(&self.public).unwrap()
    }

    pub fn attester(&self, class: TpmClass) -> Attester {
        Attester::new(&self.public, class).unwrap()
    }

    /// Signs a manifest and believes it.
    pub fn publish(&self, manifest: &Manifest) -> TrustedManifest {
        let name = *self.parsed().name();
        let unsigned = manifest.unsigned(Scheme::Ecdsa(HashAlg::Sha256), &name).unwrap();
        let signature = Signature::parse(&self.sign(&unsigned.to_be_signed())).unwrap();
        let bytes = manifest.signed(unsigned, &signature).unwrap();
        let key = VerifyingKey::of(&self.parsed()).unwrap();
        SignedManifest::parse(&bytes).unwrap().verify(&key, &name).unwrap()
    }
}

/// A machine that booted, and runs GTVP.
pub struct Machine {
    pub ak: Key,
    pub boot: Vec<u8>,
    pub ima: Vec<u8>,
    pub own: Vec<u8>,
    pub pcrs: Vec<LogDigest>,
    pub clock: u64,
    pub resets: u32,
    pub quoted: Vec<u8>,
    /// How its kernel extends IMA's entries.
    pub way: Way,
}

impl Machine {
    /// After firmware, boot loader and kernel measured what `log` says.
    pub fn booted(log: &str) -> Self {
        let mut machine = Self::software();
        machine.boot = vector(&format!("logs/{log}"));
        let replayed = BootLog::parse(&machine.boot).unwrap().replay(BANK).unwrap();
        machine.pcrs = PcrIndex::all().map(|p| replayed.get(p)).collect();
        machine
    }

    /// With a software TPM into which nothing was measured.
    pub fn software() -> Self {
        Self {
            ak: Key::ak(),
            boot: Vec::new(),
            ima: Vec::new(),
            own: Vec::new(),
            pcrs: PcrIndex::all().map(|p| p.initial(BANK)).collect(),
            clock: 1000,
            resets: 10,
            quoted: QUOTED.to_vec(),
            way: Way::Recomputed,
        }
    }

    pub fn extend(&mut self, n: u8, digest: &LogDigest) {
        let value = &mut self.pcrs[usize::from(n)];
        *value = value.extended(digest).unwrap();
    }

    /// GTVP measures.
    pub fn measure(&mut self, kind: EntryKind, subject: &str, value: Digest) {
        let entry = OwnEntry::new(kind, subject, value).unwrap();
        self.own.extend(entry.encode());
        self.extend(ownlog::PCR.get(), &entry.digest(BANK));
    }

    /// GTVP starts, healthy.
    pub fn start(&mut self) {
        for (kind, subject) in PROGRAMS {
            self.measure(*kind, subject, Digest::of(subject.as_bytes()));
        }
    }

    /// IMA measures a file.
    pub fn execute(&mut self, path: &str, file: &LogDigest) {
        let mut name = path.as_bytes().to_vec();
        name.push(0);
        let digest = [format!("{}:\0", file.alg()).as_bytes(), file.as_bytes()].concat();
        self.ima_entry(&[&digest, &name], path);
    }

    /// The same of a file with something in `security.ima`.
    pub fn execute_signed(&mut self, path: &str, file: &LogDigest, signature: &[u8]) {
        let mut name = path.as_bytes().to_vec();
        name.push(0);
        let digest = [format!("{}:\0", file.alg()).as_bytes(), file.as_bytes()].concat();
        self.ima_entry_as("ima-sig", &[&digest, &name, signature]);
    }

    /// IMA's first entry: the boot it saw.
    pub fn start_ima(&mut self) {
        let values: Vec<u8> = self.pcrs[..10].iter().flat_map(|v| v.as_bytes().to_vec()).collect();
        let aggregate = BANK.hash(&values);
        self.execute("boot_aggregate", &aggregate);
    }

    fn ima_entry(&mut self, fields: &[&[u8]], _path: &str) {
        self.ima_entry_as("ima-ng", fields);
    }

    fn ima_entry_as(&mut self, template: &str, fields: &[&[u8]]) {
        let mut data = Vec::new();
        for field in fields {
            data.extend((field.len() as u32).to_le_bytes());
            data.extend(*field);
        }
        let mut entry = 10u32.to_le_bytes().to_vec();
        entry.extend(HashAlg::Sha1.hash(&data).as_bytes());
        entry.extend((template.len() as u32).to_le_bytes());
        entry.extend(template.as_bytes());
        entry.extend((data.len() as u32).to_le_bytes());
        entry.extend(&data);
        let parsed = ImaLog::parse(&entry).unwrap();
        let extended = parsed.entries()[0].extended(BANK, self.way);
        self.extend(10, &extended);
        self.ima.extend(entry);
    }

    /// Contents of a TPM2B_ATTEST over the quoted PCRs.
    pub fn attest(&self, qualifying: &[u8], bank: u16) -> Vec<u8> {
        let mut out = vec![0xff, b'T', b'C', b'G', 0x80, 0x18];
        sized(&mut out, &[0; 34]);
        sized(&mut out, qualifying);
        out.extend(self.clock.to_be_bytes());
        out.extend(self.resets.to_be_bytes());
        out.extend(0u32.to_be_bytes());
        out.push(1);
        out.extend([0; 8]);
        let mask = self.quoted.iter().fold(0u32, |m, p| m | 1 << p);
        out.extend(1u32.to_be_bytes());
        out.extend(bank.to_be_bytes());
        out.push(3);
        out.extend(&mask.to_le_bytes()[..3]);
        let values: Vec<u8> =
            self.quoted.iter().flat_map(|p| self.pcrs[usize::from(*p)].as_bytes().to_vec()).collect();
        sized(&mut out, HashAlg::Sha256.hash(&values).as_bytes());
        out
    }

    pub fn values(&self) -> PcrValues {
        let mut values = PcrValues::new(BANK);
        self.quoted.iter().for_each(|p| assert!(values.set(pcr(*p), self.pcrs[usize::from(*p)])));
        values
    }

    /// Evidence with whole logs.
    pub fn evidence(&self, qualifying: &[u8]) -> Evidence {
        let quote = self.attest(qualifying, BANK.id());
        let log = |bytes: &[u8]| match bytes {
            [] => LogPart::Absent,
            bytes => LogPart::whole(bytes.to_vec()),
        };
        Evidence {
            version: VERSION,
            ak: self.ak.public.clone(),
            signature: self.ak.sign(&quote),
            quote,
            pcrs: self.values(),
            boot: log(&self.boot),
            ima: log(&self.ima),
            own: log(&self.own),
        }
    }

    /// Evidence with what is new since `held`.
    pub fn update(&self, qualifying: &[u8], held: &Held) -> Evidence {
        let part = |bytes: &[u8], from: u64| match bytes {
            [] => LogPart::Absent,
            bytes => LogPart::From { from, bytes: bytes[from as usize..].to_vec() },
        };
        Evidence {
            boot: part(&self.boot, held.heads.boot),
            ima: part(&self.ima, held.heads.ima),
            own: part(&self.own, held.heads.own),
            ..self.evidence(qualifying)
        }
    }

    /// Rules for everything that this machine booted.
    pub fn boot_rules(&self, status: Status) -> Vec<Rule> {
        rules_for_boot(&BootLog::parse(&self.boot).unwrap(), BANK, status, |_| true)
    }
}

/// What a healthy member runs.
pub const PROGRAMS: &[(EntryKind, &str)] = &[
    (EntryKind::Start, "0.1.0"),
    (EntryKind::Topology, "topology.toml"),
    (EntryKind::Binary, "management"),
    (EntryKind::Binary, "security"),
    (EntryKind::Binary, "components"),
    (EntryKind::Binary, "communication"),
    (EntryKind::Binary, "drivers"),
];

/// Rules for [`Machine::start`].
pub fn program_rules() -> Vec<Rule> {
    let mut rules: Vec<Rule> = PROGRAMS
        .iter()
        .map(|(kind, subject)| {
            Rule::Own(OwnRule {
                kind: *kind,
                subject: Some(Pattern::new(subject).unwrap()),
                is: OwnMatch::Value(Digest::of(subject.as_bytes())),
                part: Some(format!("gtvp-{subject}")),
                status: Status::Current,
            })
        })
        .collect();
    rules.push(Rule::Own(OwnRule {
        kind: EntryKind::Composition,
        subject: None,
        is: OwnMatch::Unchecked,
        part: None,
        status: Status::Current,
    }));
    rules
}

pub fn manifest(name: &str, version: u64, rules: Vec<Rule>) -> Manifest {
    Manifest {
        name: name.to_owned(),
        version,
        issued: NOW,
        demands: Demands::default(),
        required_parts: Vec::new(),
        rules,
    }
}

/// GTVP's own manifest: every program must have been measured.
pub fn programs() -> Manifest {
    let parts = PROGRAMS.iter().map(|(_, subject)| format!("gtvp-{subject}")).collect();
    Manifest { required_parts: parts, ..manifest("gtvp-0.1.0", 1, program_rules()) }
}

pub fn references(manifests: &[Manifest]) -> ReferenceSet {
    let authority = Key::ak();
    let trusted: Vec<_> = manifests.iter().map(|m| authority.publish(m)).collect();
    ReferenceSet::compose(&trusted).unwrap()
}

pub fn question<'a>(attester: &'a Attester, held: Option<&'a Held>) -> Question<'a> {
    Question {
        attester,
        known_from: KnownFrom::Record,
        binding: Binding::Qualifying(NONCE),
        held,
        newest: None,
    }
}
