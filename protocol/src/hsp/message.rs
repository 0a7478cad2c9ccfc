//! HSP's messages and their bounds (docs/spec/hsp.md has the same table; a test keeps them together).
//!
//! What a message means in a state is the engines'; here is what it may look like.

use gtvp_model::digest::Digest;
use gtvp_model::ids::MemberName;
use gtvp_model::token::{TokenId, TokenSecret};
use gtvp_model::union::{Epoch, Hardware, MemberId, RecordHead, UnionId};
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use crate::fields::{digest, epoch, hardware, head, secret};
use crate::frame::wire::{self, Bytes, List};
use crate::frame::{Frame, Limits};

/// Versions of HSP that this one speaks.
pub const VERSIONS: &[u16] = &[1];
/// Versions a hello may name: nobody keeps more alive.
pub const MAX_VERSIONS: usize = 8;
/// Banks a PCR selection may name: SHA-256, SHA-384 and SHA-512 are taken; a TPM has at most five.
pub const MAX_BANKS: usize = 4;
/// PCRs of evidence: 24 a bank.
pub const MAX_PCRS: usize = 24 * MAX_BANKS;
/// TPMS_ATTEST of a quote or certification, bytes: names of two keys (66 each), 64 of qualifyingData, a selection.
pub const MAX_ATTEST: usize = 512;
/// TPMT_SIGNATURE, bytes: RSA 4096.
pub const MAX_SIGNATURE: usize = 520;
/// TPMT_PUBLIC, bytes: RSA 4096 and a policy.
pub const MAX_PUBLIC: usize = 768;
/// EK certificate, DER bytes: those of vendors have 800 to 1,600.
pub const MAX_EK_CERTIFICATE: usize = 4096;
/// TPM2B_ID_OBJECT's contents, bytes: an HMAC and an encrypted digest, SHA-512.
pub const MAX_ID_OBJECT: usize = 136;
/// TPM2B_ENCRYPTED_SECRET's contents, bytes: RSA 4096.
pub const MAX_ENCRYPTED_SECRET: usize = 512;
/// Depth of the tree that one quote is a root of: 1,024 challengers at once.
pub const MAX_PATH: usize = 10;
/// Log bytes in one frame.
pub const MAX_LOG_PIECE: usize = 256 * 1024;
/// Record bytes in one frame.
pub const MAX_RECORD_PIECE: usize = 256 * 1024;
/// Reason of a refusal, bytes: a sentence.
pub const MAX_REASON: usize = 256;
/// CBOR's own bytes around a piece.
const AROUND: usize = 64;

/// A log that evidence has.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize,
)]
#[cbor(index_only)]
pub enum LogKind {
    /// The firmware's and boot loader's (TCG PC Client).
    #[n(0)]
    Boot,
    /// Linux' Integrity Measurement Architecture.
    #[n(1)]
    Ima,
    /// GTVP's own.
    #[n(2)]
    Own,
}

impl LogKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Boot, Self::Ima, Self::Own];

    /// Longest log, bytes. Boot: the longest of 40 real ones has 50 KiB. IMA: one entry an executed file, some 150
    /// bytes; a build server reaches 100,000. GTVP's own: its crate's bound.
    pub const fn max(self) -> u64 {
        match self {
            Self::Boot => 1024 * 1024,
            Self::Ima => 32 * 1024 * 1024,
            Self::Own => 4 * 1024 * 1024,
        }
    }
}

/// PCRs of one bank.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize,
)]
pub struct Bank {
    /// TPM_ALG_ID.
    #[n(0)]
    pub algorithm: u16,
    /// Bit n is PCR n.
    #[n(1)]
    pub pcrs: u32,
}

/// TPM_ALG_ID of the hashes that evidence may rest on (TCG TPM 2.0 Part 2 §6.3): SHA-256, SHA-384, SHA-512.
pub const BELIEVED: [u16; 3] = [0x000B, 0x000C, 0x000D];
/// PCRs that a platform has (TCG PC Client Platform TPM Profile §4.6).
pub const PCRS: u32 = 0x00FF_FFFF;

/// Which PCRs are asked.
pub type Selection = List<Bank, MAX_BANKS>;

/// A log's beginning that the challenger has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Held {
    /// Which log.
    #[n(0)]
    pub log: LogKind,
    /// Its first bytes.
    #[n(1)]
    pub bytes: u64,
    /// SHA-256 of them: after a reboot they are others.
    #[cbor(n(2), with = "digest")]
    pub digest: Digest,
}

/// What a challenger asks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode, Serialize, Deserialize)]
pub struct Ask {
    /// Which PCRs.
    #[n(0)]
    pub selection: Selection,
    /// What it needs no more.
    #[n(1)]
    pub held: List<Held, 3>,
}

/// The first message of either side. `versions` is its first field in every version, so that no version is needed to
/// read it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// What it speaks.
    #[n(0)]
    pub versions: List<u16, MAX_VERSIONS>,
    /// Where it belongs.
    #[cbor(n(1), with = "wire::id")]
    pub union: UnionId,
    /// Who it is.
    #[cbor(n(2), with = "wire::id")]
    pub member: MemberId,
    /// Its roster's epoch.
    #[cbor(n(3), with = "epoch")]
    pub epoch: Epoch,
    /// 32 random bytes, once.
    #[cbor(n(4), with = "wire::id")]
    pub nonce: [u8; 32],
    /// What it wants to see.
    #[n(5)]
    pub ask: Ask,
}

/// Part of a log. Pieces follow each other; the first starts at 0 or where the challenger's held part ends.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct LogPiece {
    /// Which log.
    #[n(0)]
    pub log: LogKind,
    /// Offset of the first byte.
    #[n(1)]
    pub from: u64,
    /// Bytes of the log.
    #[n(2)]
    pub bytes: Bytes<MAX_LOG_PIECE>,
}

/// One PCR's value.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Pcr {
    /// TPM_ALG_ID.
    #[n(0)]
    pub algorithm: u16,
    /// Its number.
    #[n(1)]
    pub index: u8,
    /// As the bank has it.
    #[n(2)]
    pub value: Bytes<64>,
}

/// How to get from a leaf to the root that was quoted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode, Serialize, Deserialize)]
pub struct Path {
    /// The leaf's number: bit n says on which side of level n it is.
    #[n(0)]
    pub index: u16,
    /// The other side, level by level, from the leaf.
    #[n(1)]
    pub siblings: List<Node, MAX_PATH>,
}

/// A node of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Node(#[cbor(n(0), with = "digest")] pub Digest);

/// A quote. The logs came before it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Evidence {
    /// Which challenge it answers: 0 is the hello.
    #[n(0)]
    pub round: u32,
    /// TPMS_ATTEST.
    #[n(1)]
    pub attest: Bytes<MAX_ATTEST>,
    /// TPMT_SIGNATURE over it.
    #[n(2)]
    pub signature: Bytes<MAX_SIGNATURE>,
    /// The quoted PCRs.
    #[n(3)]
    pub pcrs: List<Pcr, MAX_PCRS>,
    /// From our leaf to the quoted root.
    #[n(4)]
    pub path: Path,
    /// Length of each log that it rests on, in the order of [`LogKind::ALL`]; 0 for one that the member does not have.
    #[n(5)]
    pub ends: List<u64, 3>,
    /// TPMT_PUBLIC of the attestation key: the roster has its Name.
    #[n(6)]
    pub ak: Bytes<MAX_PUBLIC>,
}

/// "I have no TPM."
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct NoEvidence {}

/// "I trust your evidence." The last message before the channel opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Accept {}

/// Asks for fresh evidence on an open channel.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Challenge {
    /// One more than the last.
    #[n(0)]
    pub round: u32,
    /// 32 random bytes, once.
    #[cbor(n(1), with = "wire::id")]
    pub nonce: [u8; 32],
    /// What is wanted.
    #[n(2)]
    pub ask: Ask,
}

/// Why the sender closes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Refuse {
    /// [`Refusal::code`].
    #[n(0)]
    pub code: u16,
    /// For people.
    #[n(1)]
    pub reason: Bytes<MAX_REASON>,
}

/// A joiner's keys in its TPM.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct JoinKeys {
    /// X.509, DER; empty if the TPM has none.
    #[n(0)]
    pub ek_certificate: Bytes<MAX_EK_CERTIFICATE>,
    /// TPMT_PUBLIC of the endorsement key.
    #[n(1)]
    pub ek: Bytes<MAX_PUBLIC>,
    /// TPMT_PUBLIC of the attestation key.
    #[n(2)]
    pub ak: Bytes<MAX_PUBLIC>,
    /// TPMT_PUBLIC of the TLS identity key.
    #[n(3)]
    pub tls: Bytes<MAX_PUBLIC>,
}

/// A joiner's first message.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct JoinHello {
    /// What it speaks.
    #[n(0)]
    pub versions: List<u16, MAX_VERSIONS>,
    /// The union that its token names.
    #[cbor(n(1), with = "wire::id")]
    pub union: UnionId,
    /// Its token.
    #[cbor(n(2), with = "wire::id")]
    pub token: TokenId,
    /// The name it wants.
    #[cbor(n(3), with = "wire::text")]
    pub name: MemberName,
    /// 32 random bytes, once.
    #[cbor(n(4), with = "wire::id")]
    pub nonce: [u8; 32],
    /// The entry of the record from which its token lets it read.
    #[n(5)]
    pub from: u64,
    /// Its keys; none: it has no TPM.
    #[n(6)]
    pub keys: Option<JoinKeys>,
    /// What it is made of.
    #[cbor(n(7), with = "hardware")]
    pub hardware: Hardware,
    /// HMAC-SHA-256 by the token's key: see `join::proof`.
    #[cbor(n(8), with = "wire::id")]
    pub proof: [u8; 32],
}

/// A credential that only the TPM with that EK, holding that AK, can open (TCG TPM 2.0 Part 1 §24).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Credential {
    /// TPM2B_ID_OBJECT's contents.
    #[n(0)]
    pub id_object: Bytes<MAX_ID_OBJECT>,
    /// TPM2B_ENCRYPTED_SECRET's contents.
    #[n(1)]
    pub secret: Bytes<MAX_ENCRYPTED_SECRET>,
}

/// A verifier's answer. The record follows it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct JoinChallenge {
    /// 32 random bytes, once.
    #[cbor(n(0), with = "wire::id")]
    pub nonce: [u8; 32],
    /// Who answers.
    #[cbor(n(1), with = "wire::id")]
    pub member: MemberId,
    /// The record's last entry.
    #[cbor(n(2), with = "head")]
    pub head: RecordHead,
    /// For a joiner with a TPM.
    #[n(3)]
    pub credential: Option<Credential>,
    /// HMAC-SHA-256 by the token's key: see `join::proof`.
    #[cbor(n(4), with = "wire::id")]
    pub proof: [u8; 32],
}

/// Part of the record, as CSP writes it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Record {
    /// Its bytes.
    #[n(0)]
    pub bytes: Bytes<MAX_RECORD_PIECE>,
    /// Nothing follows.
    #[n(1)]
    pub last: bool,
}

/// The AK's word for the TLS key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Certification {
    /// TPMS_ATTEST of TPM2_Certify.
    #[n(0)]
    pub attest: Bytes<MAX_ATTEST>,
    /// TPMT_SIGNATURE over it.
    #[n(1)]
    pub signature: Bytes<MAX_SIGNATURE>,
}

/// A joiner's proof that its keys are where it says.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct JoinProof {
    /// HMAC-SHA-256 by the credential's secret, by the token's key without a TPM: see `join::proof`.
    #[cbor(n(0), with = "wire::id")]
    pub proof: [u8; 32],
    /// For a joiner with a TPM.
    #[n(1)]
    pub certification: Option<Certification>,
}

/// "I trust you; admit me." From here on the union may have the joiner in its record.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct JoinAccept {
    /// The token's secret.
    #[cbor(n(0), with = "secret")]
    pub secret: TokenSecret,
}

/// "You are in the record." The record since [`JoinChallenge::head`] follows.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Joined {
    /// The record's head with the entry in it.
    #[cbor(n(0), with = "head")]
    pub head: RecordHead,
}

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident = $kind:literal, $max:expr;)*) => {
        /// A message of HSP.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Message { $($(#[$doc])* $name($name),)* }

        impl Message {
            /// Name, kind and longest body of each.
            pub const TABLE: &'static [(&'static str, u8, usize)] = &[$((stringify!($name), $kind, $max)),*];

            /// Its name.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => stringify!($name),)* }
            }

            /// As it is sent.
            pub fn frame(&self) -> Frame {
                match self { $(Self::$name(m) => Frame { kind: $kind, body: wire::encode(m) },)* }
            }

            /// What a frame says.
            ///
            /// # Errors
            /// [`Refusal::UnknownMessage`], [`Refusal::TooLong`], [`Refusal::NoCommonVersion`], [`Refusal::Malformed`].
            pub fn decode(frame: &Frame) -> Result<Self, Refusal> {
                let max = limits(frame.kind).ok_or(Refusal::UnknownMessage { kind: frame.kind })?;
                if frame.body.len() > max {
                    return Err(Refusal::TooLong { kind: frame.kind, length: frame.body.len(), max });
                }
                version(frame)?;
                match frame.kind {
                    $($kind => wire::decode(&frame.body).map(Self::$name),)*
                    kind => return Err(Refusal::UnknownMessage { kind }),
                }
                .map_err(|fault| Refusal::Malformed { kind: frame.kind, fault })
            }
        }
        $(impl From<$name> for Message {
            fn from(m: $name) -> Self {
                Self::$name(m)
            }
        })*
    };
}

messages! {
    /// Both sides, first.
    Hello = 1, 512;
    /// Before evidence.
    LogPiece = 2, MAX_LOG_PIECE + AROUND;
    /// A quote.
    Evidence = 3, 8 * 1024;
    /// No TPM.
    NoEvidence = 4, 1;
    /// Trusted.
    Accept = 5, 1;
    /// Again.
    Challenge = 6, 512;
    /// The end.
    Refuse = 7, MAX_REASON + AROUND;
    /// Enrolment, joiner.
    JoinHello = 16, 8 * 1024;
    /// Enrolment, verifier.
    JoinChallenge = 17, 1024;
    /// Enrolment, verifier.
    Record = 18, MAX_RECORD_PIECE + AROUND;
    /// Enrolment, joiner.
    JoinProof = 19, 2 * 1024;
    /// Enrolment, joiner.
    JoinAccept = 20, AROUND;
    /// Enrolment, verifier.
    Joined = 21, AROUND;
}

/// The longest body of a kind, `None` for one that HSP does not have.
pub fn limits(kind: u8) -> Option<usize> {
    Message::TABLE.iter().find(|(_, k, _)| *k == kind).map(|(_, _, max)| *max)
}

/// For [`crate::frame::FrameReader`].
pub const LIMITS: Limits = limits;

/// Refuses a hello of versions that are not ours before the rest of it is read: it may look different there.
fn version(frame: &Frame) -> Result<(), Refusal> {
    if !matches!(frame.kind, 1 | 16) {
        return Ok(());
    }
    let malformed = |e: minicbor::decode::Error| Refusal::Malformed {
        kind: frame.kind,
        fault: wire::BodyFault::Shape(e.to_string()),
    };
    let mut decoder = minicbor::Decoder::new(&frame.body);
    decoder.array().map_err(malformed)?;
    let theirs: List<u16, MAX_VERSIONS> = decoder.decode().map_err(malformed)?;
    if common(theirs.as_slice()).is_none() {
        return Err(Refusal::NoCommonVersion { theirs: theirs.as_slice().to_vec() });
    }
    Ok(())
}

/// The highest version that both speak.
pub fn common(theirs: &[u16]) -> Option<u16> {
    VERSIONS.iter().copied().filter(|v| theirs.contains(v)).max()
}
