//! A small union whose entries and heads are made here, with cheap signatures: SHA-256 over key and content. They say who signed
//! and what, and nobody here forges them by chance.

use std::collections::BTreeMap;

use gtvp_model::digest::Digest;
use gtvp_model::token::TokenSecret;
use gtvp_model::union::{
    Admission, Hardware, Identity, KeyName, MemberId, PlatformIdentity, RecordHead, RosterEntry, TokenRecord,
    TpmKind, UnionId, UnionSettings, UnixTime,
};

use super::act::Act;
use super::entry::{Entry, Signature, Signatures, SignedEntry, signed_content};
use super::follow::{Follower, Offer};
use super::head::{CoSigned, Head, Vote};
use super::record::{Record, Refusal};

/// Cheap signatures.
pub struct Cheap;

fn sign(spki: &[u8], content: &[u8]) -> Vec<u8> {
    Digest::of(&[spki, content].concat()).0.to_vec()
}

impl Signatures for Cheap {
    fn holds(&self, spki: &[u8], content: &[u8], signature: &[u8]) -> bool {
        sign(spki, content) == signature
    }
}

/// A member's keys, made from its name.
#[derive(Debug, Clone)]
pub struct Keys {
    spki: Vec<u8>,
    pub entry: RosterEntry,
}

impl Keys {
    pub fn of(name: &str) -> Self {
        let spki = format!("key of {name}").into_bytes();
        let identity = Identity::Tpm {
            kind: TpmKind::Hardware(Default::default()),
            ek: Digest::of(format!("ek of {name}").as_bytes()).0.into(),
            ak: KeyName::sha256(name.as_bytes()),
            tls: KeyName::sha256(&spki),
            spki: Digest::of(&spki).0.into(),
        };
        let hardware = Hardware::new(2, 4096, "test").unwrap();
        let level = PlatformIdentity::try_from(3).unwrap();
        Self { entry: RosterEntry::new(name.parse().unwrap(), identity, level, hardware), spki }
    }

    fn sign(&self, content: &[u8]) -> Signature {
        Signature {
            spki: self.spki.clone().try_into().unwrap(),
            value: sign(&self.spki, content).try_into().unwrap(),
        }
    }
}

/// A union in which `a` founds, votes and writes.
#[derive(Debug, Clone)]
pub struct World {
    keys: BTreeMap<String, Keys>,
    entries: Vec<SignedEntry>,
    record: Record,
}

impl World {
    pub fn begin(names: &[&str]) -> Self {
        let keys: BTreeMap<String, Keys> =
            names.iter().chain(&["x"]).map(|n| ((*n).to_owned(), Keys::of(n))).collect();
        let founder = &keys[names[0]];
        let entry = Entry {
            union: [0; 32].into(),
            number: 0,
            previous: Digest([0; 32]),
            author: founder.entry.id(),
            time: UnixTime(names.len() as u64),
            act: Act::Genesis {
                name: "lab".parse().unwrap(),
                founder: founder.entry.clone(),
                settings: UnionSettings::default(),
                random: [7; 32],
            },
        };
        let genesis = signed(founder, &entry);
        let record = Record::begin(&genesis, &Cheap).unwrap();
        let mut world = Self { keys, entries: vec![genesis], record };
        for name in names[1..].iter().chain(&["x"]) {
            world.admit(name);
        }
        world
    }

    pub fn union(&self) -> UnionId {
        self.record.view().union
    }

    pub fn id(&self, name: &str) -> MemberId {
        self.keys.get(name).map_or_else(|| Keys::of(name).entry.id(), |k| k.entry.id())
    }

    /// A member without a TPM, which nobody has admitted.
    pub fn bare(&mut self, name: &str) -> MemberId {
        let mut keys = Keys::of(name);
        let identity = Identity::Bare { spki: keys.entry.identity.spki() };
        let (level, hardware) = (keys.entry.platform_identity, keys.entry.hardware.clone());
        keys.entry = RosterEntry::new(name.parse().unwrap(), identity, level, hardware);
        let id = keys.entry.id();
        self.record.put(keys.entry.clone());
        self.keys.insert(name.to_owned(), keys);
        id
    }

    /// Can write in the name of somebody who may be admitted.
    pub fn knows(&mut self, name: &str) {
        self.keys.insert(name.to_owned(), Keys::of(name));
    }

    pub fn genesis(&self) -> SignedEntry {
        self.entries[0].clone()
    }

    pub fn follower(&self) -> Follower {
        Follower::new(self.record.clone())
    }

    pub fn next(&self, author: &str, act: Act) -> SignedEntry {
        self.next_at(author, UnixTime(10), act)
    }

    pub fn next_at(&self, author: &str, time: UnixTime, act: Act) -> SignedEntry {
        let head = self.record.view().head;
        let entry = Entry {
            union: self.union(),
            number: head.number + 1,
            previous: head.hash,
            author: self.id(author),
            time,
            act,
        };
        signed(&self.keys[author], &entry)
    }

    /// An entry by `author` that is the next one of this record.
    pub fn next_of(&self, record: &Record, author: &str, act: Act) -> SignedEntry {
        self.next_of_at(record, author, UnixTime(10), act)
    }

    pub fn next_of_at(&self, record: &Record, author: &str, time: UnixTime, act: Act) -> SignedEntry {
        let here = Self { record: record.clone(), ..self.clone() };
        here.next_at(author, time, act)
    }

    pub fn entries(&self) -> &[SignedEntry] {
        &self.entries
    }

    pub fn vote(&self, name: &str, head: &Head) -> Vote {
        let signature = self.keys[name].sign(&head.signed_content());
        Vote { voter: self.id(name), time: head.time, signature }
    }

    pub fn write(&mut self, author: &str, act: Act) -> Result<(), Refusal> {
        self.write_at(author, UnixTime(10), act)
    }

    pub fn write_at(&mut self, author: &str, time: UnixTime, act: Act) -> Result<(), Refusal> {
        let entry = self.next_at(author, time, act);
        self.record.apply(&entry, &Cheap)?;
        self.entries.push(entry);
        Ok(())
    }

    pub fn secret(name: &str) -> TokenSecret {
        TokenSecret::new(Digest::of(format!("token of {name}").as_bytes()).0[..16].try_into().unwrap())
    }

    pub fn token_for(name: &str) -> TokenRecord {
        TokenRecord {
            key: Self::secret(name).key(),
            expires: UnixTime(100),
            ek: None,
            platform_identity: PlatformIdentity::try_from(3).unwrap(),
            used_by: None,
        }
    }

    pub fn token(&mut self, name: &str) {
        self.write("a", Act::TokenMade(Self::token_for(name))).unwrap();
    }

    pub fn admission(name: &str) -> Admission {
        let secret = Self::secret(name);
        Admission { member: Keys::of(name).entry, token: secret.key().id(), secret }
    }

    pub fn admit(&mut self, name: &str) {
        self.token(name);
        self.write("a", Act::Admitted(Self::admission(name))).unwrap();
    }

    pub fn evict(&mut self, name: &str) {
        let member = self.id(name);
        self.write("a", Act::Evicted { member, reason: "test".into() }).unwrap();
    }

    pub fn voters(&mut self, names: &[&str]) {
        let voters = names.iter().map(|n| self.id(n)).collect();
        self.write("a", Act::Voters(voters)).unwrap();
    }

    /// Takes the last entry back.
    /// `by` becomes the only voter, and gives up `lost`.
    pub fn recover(&mut self, by: &str, lost: &[&str]) -> Offer {
        let lost = lost.iter().map(|n| self.id(n)).collect();
        let entry = self.next(by, Act::Recovered { lost, reason: "a test".into() });
        self.record.recover(&entry, &Cheap).unwrap();
        self.entries.push(entry.clone());
        let head = Head { union: self.union(), at: self.record.view().head, time: UnixTime(1_000) };
        Offer { entries: vec![entry], head: self.co_sign_by(&[by], head) }
    }

    pub fn undo(&mut self) {
        self.entries.pop();
        let mut record = Record::begin(&self.entries[0], &Cheap).unwrap();
        self.entries[1..].iter().for_each(|e| record.apply(e, &Cheap).unwrap());
        self.record = record;
    }

    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The record as a follower has it that was given this head's time.
    pub fn record_at(&self, time: UnixTime) -> Record {
        let mut record = self.record.clone();
        record.timed(time);
        record
    }

    /// Everything after entry `from`, with a head that all voters signed.
    pub fn offer(&self, from: u64, time: UnixTime) -> Offer {
        let first = usize::try_from(from).unwrap() + 1;
        let entries = self.entries.get(first..).unwrap_or_default().to_vec();
        Offer { entries, head: self.co_sign_at(self.record.view().head, time) }
    }

    pub fn co_sign_at(&self, at: RecordHead, time: UnixTime) -> CoSigned {
        let voters = self.record.voters();
        let names: Vec<&str> = self
            .keys
            .iter()
            .filter(|(_, k)| voters.contains(&k.entry.id()))
            .map(|(n, _)| n.as_str())
            .collect();
        self.co_sign_by(&names, Head { union: self.union(), at, time })
    }

    pub fn co_sign_by(&self, names: &[&str], head: Head) -> CoSigned {
        let content = head.signed_content();
        let vote =
            |n: &&str| Vote { voter: self.id(n), time: head.time, signature: self.keys[*n].sign(&content) };
        CoSigned { head, votes: names.iter().map(vote).collect::<Vec<_>>().try_into().unwrap() }
    }

    /// A member's signature over something else than an entry.
    pub fn sign(&self, name: &str, content: &[u8]) -> Signature {
        self.keys.get(name).map_or_else(|| Keys::of(name).sign(content), |k| k.sign(content))
    }

    /// An entry as another member would sign it in its author's name.
    pub fn resigned(&self, entry: &SignedEntry, by: &str) -> SignedEntry {
        let signature = self.keys[by].sign(&signed_content(entry.entry.as_slice()));
        SignedEntry { entry: entry.entry.clone(), signature }
    }
}

fn signed(author: &Keys, entry: &Entry) -> SignedEntry {
    let bytes = entry.encode();
    let signature = author.sign(&signed_content(&bytes));
    SignedEntry { entry: bytes.try_into().unwrap(), signature }
}
