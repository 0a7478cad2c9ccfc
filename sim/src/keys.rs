//! Members' keys, made from their names, and cheap signatures: SHA-256 over key and content. They say who signed what; no member of
//! a run makes another one's, except where the run says so.

use gtvp_model::digest::Digest;
use gtvp_model::token::TokenSecret;
use gtvp_model::union::{
    Admission, Hardware, Identity, KeyName, MemberId, PlatformIdentity, RosterEntry, TokenRecord, TpmKind,
    UnixTime,
};
use gtvp_protocol::csp::entry::signed_content;
use gtvp_protocol::csp::{Act, Entry, Head, Record, Signature, Signatures, SignedEntry, Vote};

/// Checks cheap signatures.
#[derive(Debug)]
pub struct Cheap;

fn value(spki: &[u8], content: &[u8]) -> Vec<u8> {
    Digest::of(&[spki, content].concat()).0.to_vec()
}

impl Signatures for Cheap {
    fn holds(&self, spki: &[u8], content: &[u8], signature: &[u8]) -> bool {
        value(spki, content) == signature
    }
}

/// A member's.
#[derive(Debug, Clone)]
pub struct Keys {
    spki: Vec<u8>,
    /// As the record has it.
    pub entry: RosterEntry,
}

impl Keys {
    /// Of the member with this number.
    pub fn of(number: usize) -> Self {
        let name = format!("m{number}");
        let spki = format!("key of {name}").into_bytes();
        let identity = Identity::Tpm {
            kind: TpmKind::Hardware(Default::default()),
            ek: Digest::of(format!("ek of {name}").as_bytes()).0.into(),
            ak: KeyName::sha256(name.as_bytes()),
            tls: KeyName::sha256(&spki),
            spki: Digest::of(&spki).0.into(),
        };
        // None of these three can fail: the name is a DNS label, the level is below the highest, the text is short.
        let entry = RosterEntry::new(
            name.parse().unwrap_or_else(|_| unreachable!("a name")),
            identity,
            level(),
            Hardware::new(2, 4096, "sim").unwrap_or_else(|_| unreachable!("hardware")),
        );
        Self { entry, spki }
    }

    /// Its id.
    pub fn id(&self) -> MemberId {
        self.entry.id()
    }

    /// Its signature.
    pub fn sign(&self, content: &[u8]) -> Signature {
        let bounded = "a key of some bytes and a digest are short";
        Signature {
            spki: self.spki.clone().try_into().unwrap_or_else(|_| unreachable!("{bounded}")),
            value: value(&self.spki, content).try_into().unwrap_or_else(|_| unreachable!("{bounded}")),
        }
    }

    /// A voter's word.
    pub fn vote(&self, head: &Head) -> Vote {
        Vote { voter: self.id(), time: head.time, signature: self.sign(&head.signed_content()) }
    }

    /// The next entry of this record.
    pub fn write(&self, record: &Record, time: UnixTime, act: Act) -> SignedEntry {
        let view = record.view();
        self.signed(&Entry {
            union: view.union,
            number: view.head.number + 1,
            previous: view.head.hash,
            author: self.id(),
            time,
            act,
        })
    }

    /// An entry with its author's signature. One that is too long has no bytes, and nobody takes it.
    pub fn signed(&self, entry: &Entry) -> SignedEntry {
        let bytes = entry.encode();
        let signature = self.sign(&signed_content(&bytes));
        SignedEntry { entry: bytes.try_into().unwrap_or_default(), signature }
    }
}

fn level() -> PlatformIdentity {
    PlatformIdentity::try_from(3).unwrap_or_else(|_| unreachable!("a level"))
}

/// The secret of the token with this number.
pub fn secret(number: u64) -> TokenSecret {
    let digest = Digest::of(&number.to_be_bytes());
    TokenSecret::new(digest.0.first_chunk::<16>().copied().unwrap_or_default())
}

/// The token with this number.
pub fn token(number: u64) -> TokenRecord {
    TokenRecord {
        key: secret(number).key(),
        expires: UnixTime(u64::MAX),
        ek: None,
        platform_identity: level(),
        used_by: None,
    }
}

/// The admission of a member by the token with this number.
pub fn admission(member: &Keys, number: u64) -> Admission {
    let secret = secret(number);
    Admission { member: member.entry.clone(), token: secret.key().id(), secret }
}
