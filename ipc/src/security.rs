//! What `security` answers. It signs what it has made sense of, under a label of its own: never bytes as they come.

use gtvp_model::boxspec::BoxSpec;
use gtvp_model::boxview::Appraisal;
use gtvp_model::composition::Composition;
use gtvp_model::digest::Digest;
use gtvp_model::ids::{BoxName, MemberName, Slot};
use gtvp_model::member::TpmView;
use gtvp_model::peer::PeerQuestion;
use gtvp_model::token::{TokenId, TokenSecret};
use gtvp_model::union::{
    Admission, EkDigest, Hardware, Identity, KeyName, MemberId, PlatformIdentity, RecordHead, RosterEntry,
    SpkiDigest, UnionId, UnionView, UnixTime, Whom,
};
use gtvp_model::unionview::{
    Change, Departure, HistoryRow, MemberHeld, MemberRow, PeerView, Recovery, ReferenceRow, TokenRow,
    UnionBegin, UnionSummary,
};
use gtvp_protocol::csp::node::UnionState;
use gtvp_protocol::csp::{Head, SignedEntry, Vote};
use gtvp_protocol::frame::wire::{List, hex};
use gtvp_protocol::gossip;
pub use gtvp_protocol::gossip::Status;
use gtvp_protocol::hsp::join::{CheckedKeys, CredentialSecret, JoinBinding};
use gtvp_protocol::hsp::message::{
    Ask, Certification, Credential, Evidence, Held, JoinKeys, LogKind, Path as MerklePath, Pcr, Selection,
};
use gtvp_protocol::hsp::{Appraisal as HspAppraisal, Binding, Durable, Rejection};
use gtvp_protocol::vouch::NONCE;
use serde::{Deserialize, Serialize};

use crate::Nothing;

/// A signature by this member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Algorithm: `ES256` (ECDSA, P-256, SHA-256).
    pub algorithm: String,
    /// SHA-256 of the public key (SEC1, uncompressed).
    pub key: Digest,
    /// r ‖ s, in hexadecimal.
    pub value: String,
}

/// Sign a component's manifest.
#[derive(Debug, Serialize, Deserialize)]
pub struct SignManifest {
    /// The manifest's digest.
    pub digest: Digest,
}

/// Appraise a component before it is linked.
#[derive(Debug, Serialize, Deserialize)]
pub struct AppraiseComponent {
    /// For people.
    pub reference: String,
    /// The manifest's digest, computed from the bytes that will be served.
    pub manifest: Digest,
    /// The signature found with it.
    pub signature: Signature,
    /// What `components` itself has checked, for example `apt signature chain`.
    pub checked_before: Vec<String>,
    /// The box that it is about to be linked to: if it is appraised well, its vTPM hears of it.
    pub link: Option<LinkTo>,
}

/// Where a component is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkTo {
    /// The box.
    pub slot: Slot,
    /// SHA-256 of the package, as its composition names it.
    pub source: Digest,
}

/// A box has ended: so does its vTPM.
#[derive(Debug, Serialize, Deserialize)]
pub struct EndBox {
    /// Its slot.
    pub slot: Slot,
}

/// Make a box's evidence a file, with that of this member: see [`Attest`].
#[derive(Debug, Serialize, Deserialize)]
pub struct AttestBox {
    /// Its slot.
    pub slot: Slot,
    /// Its name.
    pub name: BoxName,
    /// What it was started on.
    pub composition: Composition,
    /// What the one who asks has chosen, in hexadecimal: 16 to 64 bytes.
    pub nonce: String,
    /// Another member asks, and not a person of this one: see [`Attest`].
    pub for_member: bool,
}

/// An application in a box asks about another box: which member is to be asked, and with what nonce. Good for one [`VouchForPeer`], and
/// not for long.
#[derive(Debug, Serialize, Deserialize)]
pub struct ChallengePeer {
    /// The box that asks.
    pub asker: BoxName,
    /// Whom it asks about.
    pub peer: PeerQuestion,
}

/// The answer to [`ChallengePeer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerChallenge {
    /// The member that has the other box; `None`: this one.
    pub member: Option<MemberId>,
    /// What its evidence must be bound to: chosen here, and by nobody who could have seen evidence for it before.
    #[serde(with = "hex")]
    pub nonce: [u8; NONCE],
}

/// Appraise the evidence of a box that an application asks about, and say by this member's key what was found. A descriptor of the evidence
/// file comes with it.
#[derive(Debug, Serialize, Deserialize)]
pub struct VouchForPeer {
    /// Of the challenge.
    #[serde(with = "hex")]
    pub nonce: [u8; NONCE],
}

/// The answer to [`VouchForPeer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerVouched {
    /// The attestation result, signed.
    #[serde(with = "hex")]
    pub result: Vec<u8>,
    /// Its member's verdict.
    pub verdict: String,
    /// The other box's member.
    pub member: MemberName,
    /// The other box.
    pub name: BoxName,
    /// Digest of what it was started on.
    pub composition: Digest,
    /// When the result ends, seconds since 1970-01-01 UTC.
    pub expires: i64,
    /// What was not checked.
    pub not_checked: Vec<String>,
}

/// May this box run here?
#[derive(Debug, Serialize, Deserialize)]
pub struct PermitRun {
    /// What was asked for.
    pub spec: BoxSpec,
    /// Uid of the operator.
    pub operator_uid: u32,
}

/// Leave to do one thing. Only `security` makes one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permit {
    /// The rule that allows it.
    pub rule: String,
    /// What was not checked.
    pub not_checked: Vec<String>,
}

/// What this member can say of itself.
#[derive(Debug, Serialize, Deserialize)]
pub struct Verdict {}

/// The answer to [`Verdict`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictReply {
    /// `trusted`, `untrusted` or `unknown`.
    pub verdict: String,
    /// What was not checked.
    pub not_checked: Vec<String>,
}

/// A box is about to be started on this composition: it goes into the log of measurements and the TPM first. Without a TPM nothing
/// happens.
#[derive(Debug, Serialize, Deserialize)]
pub struct MeasureBox {
    /// Its slot.
    pub slot: Slot,
    /// Whether it gets a vTPM, which is begun meanwhile: a builder box, which nobody asks for evidence, gets none.
    pub vtpm: bool,
    /// The box.
    pub name: BoxName,
    /// Its composition.
    pub composition: Digest,
}

/// A box is about to be started from a template that this member booted: it goes into the box's vTPM, if it has one.
#[derive(Debug, Serialize, Deserialize)]
pub struct MeasureTemplate {
    /// The box's slot.
    pub slot: Slot,
    /// The template's digest.
    pub template: Digest,
}

/// How the member's TPM is.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tpm {}

/// Sign this side's CertificateVerify of a TLS 1.3 handshake (RFC 8446 §4.4.3) with the key of the TLS identity. `security` puts
/// together what is signed; there is no way to have it sign other bytes.
#[derive(Debug, Serialize, Deserialize)]
pub struct SignTls {
    /// Which side this member is.
    pub role: TlsRole,
    /// The transcript hash, in hexadecimal: 32 or 48 bytes.
    pub transcript: String,
}

/// A side of a TLS connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsRole {
    /// It was connected to.
    Server,
    /// It connected.
    Client,
}

/// The answer to [`SignTls`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsSignature {
    /// r ‖ s, 64 bytes, in hexadecimal: ECDSA on P-256 with SHA-256.
    pub value: String,
}

/// Begin a union whose first member this one is.
#[derive(Debug, Serialize, Deserialize)]
pub struct BeginUnion {
    /// What it begins with.
    pub union: UnionBegin,
    /// What this member is made of.
    pub hardware: Hardware,
}

/// The union that this member is in.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShowUnion {}

/// Its members; outside of a union this one alone.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListMembers {}

/// The union as this member has it: at once, and after every change. Outside of a union: nothing, until there is one.
#[derive(Debug, Serialize, Deserialize)]
pub struct WatchUnion {}

/// See [`WatchUnion`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnionNow {
    /// `None`: in no union.
    pub union: Option<Box<OwnUnion>>,
}

/// A union, and who this member is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnUnion {
    /// This member, as the record has it; as it had it last, if it is no member any more.
    pub own: RosterEntry,
    /// The record.
    pub state: UnionState,
}

/// This member's keys as others see them.
#[derive(Debug, Serialize, Deserialize)]
pub struct OwnKeys {}

/// The answer to [`OwnKeys`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnKeysReply {
    /// For a joiner's hello; none without a TPM.
    pub keys: Option<JoinKeys>,
    /// As the record has them, or would have them.
    pub identity: Identity,
    /// SubjectPublicKeyInfo of the TLS key, DER, in hexadecimal.
    #[serde(with = "hex")]
    pub spki: Vec<u8>,
}

/// One quote for all of these. `security` puts together what is quoted.
#[derive(Debug, Serialize, Deserialize)]
pub struct Quote {
    /// Which PCRs.
    pub selection: Selection,
    /// At most [`gtvp_protocol::hsp::MAX_LEAVES`].
    pub challenges: Vec<Challenged>,
}

/// Whom a quote answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenged {
    /// What its evidence is bound to: this member is the attester.
    pub binding: Binding,
    /// What of the logs it has already.
    pub held: List<Held, 3>,
}

/// The answer to [`Quote`]. A descriptor comes with it: the bytes of `logs`, one log after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quoted {
    /// TPMS_ATTEST.
    #[serde(with = "hex")]
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    #[serde(with = "hex")]
    pub signature: Vec<u8>,
    /// The quoted PCRs.
    pub pcrs: Vec<Pcr>,
    /// TPMT_PUBLIC of the attestation key.
    #[serde(with = "hex")]
    pub ak: Vec<u8>,
    /// The logs that this member has, in the order of [`LogKind::ALL`], each from the least offset that a challenger needs.
    pub logs: Vec<LogSpan>,
    /// One a challenge, in their order.
    pub answers: Vec<QuoteAnswer>,
}

/// What is in a descriptor of logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpan {
    /// Which log.
    pub log: LogKind,
    /// Offset of the first byte.
    pub from: u64,
    /// Bytes.
    pub length: u64,
}

/// One challenger's part of a quote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuoteAnswer {
    /// From its leaf to the quoted root.
    pub path: MerklePath,
    /// Where each of `logs` begins for it: what it said that it holds, or 0 if that is not what the log begins with.
    pub from: Vec<u64>,
}

/// Appraise a joiner's EK, AK and TLS key; the last must be the one that TLS showed.
#[derive(Debug, Serialize, Deserialize)]
pub struct AppraiseKeys {
    /// What it says.
    pub keys: JoinKeys,
    /// What TLS showed.
    pub spki: SpkiDigest,
}

/// Make a credential for an AK that only the TPM with this EK can open. The secret in it stays in `security`, which must have believed
/// these keys a short time ago.
#[derive(Debug, Serialize, Deserialize)]
pub struct MakeCredential {
    /// TPMT_PUBLIC of the EK, in hexadecimal.
    #[serde(with = "hex")]
    pub ek: Vec<u8>,
    /// The AK.
    pub ak: KeyName,
}

/// The answer to [`MakeCredential`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialMade {
    /// To be sent.
    pub credential: Credential,
}

/// Open a credential in this member's TPM.
#[derive(Debug, Serialize, Deserialize)]
pub struct ActivateCredential {
    /// From a verifier.
    pub credential: Credential,
}

/// Have this member's AK certify its TLS key. `security` puts together what it is bound to.
#[derive(Debug, Serialize, Deserialize)]
pub struct Certify {
    /// What to.
    pub binding: JoinBinding,
}

/// Appraise what a joiner proves its keys by: the secret of the credential that was made for it, and its certification of its TLS key.
/// The secret is good for one try.
#[derive(Debug, Serialize, Deserialize)]
pub struct AppraiseCertification {
    /// HMAC by the credential's secret.
    #[serde(with = "hex")]
    pub proof: [u8; 32],
    /// From the joiner.
    pub certification: Certification,
    /// What both must be bound to: this member is the verifier, of its own union.
    pub binding: JoinBinding,
    /// As [`AppraiseKeys`] gave them.
    pub keys: CheckedKeys,
}

/// Appraise another member's evidence, or a joiner's: the answer to something that [`AskOf`] gave, which counts once. A descriptor comes with it: the bytes of `logs`, one log after the other.
#[derive(Debug, Serialize, Deserialize)]
pub struct AppraiseEvidence {
    /// Whose it must be: a member of the record, or a joiner whose keys were believed a short time ago.
    pub of: Box<RosterEntry>,
    /// What it sent.
    pub evidence: Box<Evidence>,
    /// What it must be bound to: this member is the challenger, the nonce is of [`Asking`].
    pub binding: Box<Binding>,
    /// What was asked with that nonce.
    pub ask: Ask,
    /// What is in the descriptor.
    pub logs: Vec<LogSpan>,
}

/// What to ask a member for next time: the logs that `security` holds of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct AskOf {
    /// Whom. Of somebody of whom nothing is known everything is asked.
    pub member: MemberId,
}

/// The answer to [`AskOf`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asking {
    /// To ask with: evidence with another one is not appraised. 32 random bytes.
    #[serde(with = "hex")]
    pub nonce: [u8; 32],
    /// What for.
    pub ask: Ask,
}

/// Whether fresh evidence of a member is to be asked for now: this member is its verifier in this shift, or nobody else's word for it
/// stands (docs/spec/results.md). Where one stands, the member's verdict goes on by it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Due {
    /// Whom.
    pub member: MemberId,
}

/// The answer to [`Due`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DueReply {
    /// Fresh evidence, of this.
    Ask(Asking),
    /// Nothing now. It is to be looked at again after so many milliseconds.
    Rest(u64),
}

/// The attestation results of this member that count now, and each new one.
#[derive(Debug, Serialize, Deserialize)]
pub struct WatchResults {}

/// An attestation result of this member's, to be told to all others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnResult {
    /// About whom.
    pub of: MemberId,
    /// TPMT_PUBLIC of this member's attestation key, in hexadecimal.
    #[serde(with = "hex")]
    pub ak: Vec<u8>,
    /// COSE_Sign1, in hexadecimal.
    #[serde(with = "hex")]
    pub result: Vec<u8>,
    /// When it was issued, seconds since 1970.
    pub issued: u64,
    /// When it ends, in the same.
    pub expires: u64,
}

/// Hear another member's attestation result.
#[derive(Debug, Serialize, Deserialize)]
pub struct HearResult {
    /// Who must have signed it, whoever passed it on.
    pub from: MemberId,
    /// TPMT_PUBLIC of its attestation key, in hexadecimal.
    #[serde(with = "hex")]
    pub ak: Vec<u8>,
    /// COSE_Sign1, in hexadecimal.
    #[serde(with = "hex")]
    pub result: Vec<u8>,
}

/// What a result that was believed says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeardResult {
    /// About whom.
    pub of: MemberId,
    /// When it was issued, seconds since 1970.
    pub issued: u64,
    /// When it ends, in the same.
    pub expires: u64,
}

/// How this member is, for all others: `management` says what it has seen, and `security` signs it if it is time to tell that. The number
/// of the record's last entry is `security`'s to say.
#[derive(Debug, Serialize, Deserialize)]
pub struct SignStatus {
    /// As it is now.
    pub status: Status,
}

/// The answer to [`SignStatus`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedStatus {
    /// To be passed on; `None`: what others know is near enough.
    pub entry: Option<Box<gossip::Entry>>,
}

/// Look at another member's status: whether it has signed it.
#[derive(Debug, Serialize, Deserialize)]
pub struct HearStatus {
    /// As it was passed on.
    pub entry: Box<gossip::Entry>,
}

/// The answer to [`HearStatus`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatusHeard {
    /// It has.
    Good,
    /// It has not.
    Forged,
    /// Nothing is known here of who that is.
    Unknown,
}

/// An administrator of this server wants it to join a union: said before `communication` is asked to. For a few minutes a record of that
/// union is learned and kept, and of no other.
#[derive(Debug, Serialize, Deserialize)]
pub struct WantJoin {
    /// The token's union.
    pub union: UnionId,
    /// The entry that the token says is in its record.
    pub head: RecordHead,
    /// Uid of the person.
    pub operator_uid: u32,
}

/// This member has asked a union to be admitted with these keys (before it does), or is admitted by it. For the latter, the record that
/// was learned last must have it so; it becomes this member's record. `Denied` unless an administrator wants it: [`WantJoin`].
#[derive(Debug, Serialize, Deserialize)]
pub struct KeepMembership {
    /// Which.
    pub what: Durable,
}

/// What each member is now, and then each that has become something else. Goes on until the caller hangs up.
#[derive(Debug, Serialize, Deserialize)]
pub struct WatchVerdicts {}

/// See [`WatchVerdicts`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictNow {
    /// Who.
    pub id: MemberId,
    /// Its name.
    pub name: MemberName,
    /// Whether it is this member, of which others have found it.
    pub own: bool,
    /// `trusted`, `untrusted` or `unknown`.
    pub verdict: String,
    /// Why: the entry that failed, who attested it, or what is missing.
    pub reason: String,
    /// It was so when the watching began.
    pub begins: bool,
    /// Nothing was told of this member yet, or it had gone: it has come, and what it is is no change by itself.
    pub first: bool,
}

/// What a member holds of the union by its record, or what is left of one that has gone.
#[derive(Debug, Serialize, Deserialize)]
pub struct HeldBy {
    /// Whom.
    pub member: MemberId,
}

/// Tokens that can still be used.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListTokens {}

/// What begins the reason of a fault that ends by itself, when the next head comes: this member's record is not current.
pub const RULE_CURRENT: &str = "rule \"current\"";

/// How another member sees this one, as `communication` has it from its last connection with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HearStanding {
    /// Whose key the connection showed.
    pub from: MemberId,
    /// When `communication` began, milliseconds since this server started, and which of its connections: a later one's word counts,
    /// whichever comes first.
    pub link: (u64, u64),
    /// How.
    pub standing: Standing,
    /// In its words.
    pub why: String,
}

/// See [`HearStanding`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// There is a channel: as a member whose evidence it believes.
    Member,
    /// It says that this server is no member.
    NoMember,
    /// It does not believe this server's evidence.
    NotBelieved,
}

/// Check a whole record that another member sent, before this member is in its union. A descriptor comes with it (`csp::page`). What was
/// named by [`WantJoin`] must be in it, and the end of what this server has of that union already. `Denied` without an administrator's word.
#[derive(Debug, Serialize, Deserialize)]
pub struct LearnRecord {
    /// Its union.
    pub union: UnionId,
    /// An entry that must be in it.
    pub known: RecordHead,
    /// Where it must end.
    pub end: RecordHead,
    /// Who sent it: whose evidence is appraised next.
    pub from: MemberId,
}

/// Read the record: a descriptor comes back (`csp::page`), with entries from `from` on, up to one with a head. Empty: there is none. Whoever
/// wants all of it asks again, from the one after the last.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReadRecord {
    /// The first entry.
    pub from: u64,
    /// No more bytes than this (and 16 MiB), if a head is within these.
    pub most: u64,
}

/// Write and sign the entry that admits a joiner. Refused unless `security` has itself believed its keys, its certification and its
/// evidence a short time ago.
#[derive(Debug, Serialize, Deserialize)]
pub struct WriteAdmission {
    /// What it says.
    pub admission: Admission,
}

/// Write and sign the entry that the union needs next by its own rules, if there is one: who votes. New voters are members that this one
/// has itself found healthy; a voter that it has is not lost. `Denied` for a member that does not vote.
#[derive(Debug, Serialize, Deserialize)]
pub struct WriteHousekeeping {
    /// Members with which there is a channel.
    pub reachable: Vec<MemberId>,
}

/// The answer to [`WriteHousekeeping`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Housekeeping {
    /// The entry.
    pub entry: Option<SignedEntry>,
}

/// Promise that this entry is the next one, and sign the head with it (`csp::keeper`). An entry that a rule of the record refuses
/// (`VoteRefusal::Entry`) is `Invalid`, so that another one may be next (`NoVote::Never`); one whose number this voter has promised
/// otherwise (`Promised`, `Forgotten`) is `InUse` (`NoVote::Another`); one that does not follow the last entry is `Denied`: whoever asks
/// has not heard of that yet. That and other faults pass (`NoVote::NotNow`).
#[derive(Debug, Serialize, Deserialize)]
pub struct VoteFor {
    /// What the voters' Raft has decided.
    pub entry: SignedEntry,
}

/// Sign the present head with a new time.
#[derive(Debug, Serialize, Deserialize)]
pub struct VoteAgain {}

/// The answer to [`VoteFor`] and [`VoteAgain`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voted {
    /// What was signed.
    pub head: Head,
    /// This member's word.
    pub vote: Vote,
}

/// Take what another member, or this one as a voter, offers: a descriptor comes with it (`csp::Offer`, CBOR). A fork
/// (`OfferRefusal::Forked`) is `Integrity`, any other refusal `Denied`; other faults are nobody's who offered.
#[derive(Debug, Serialize, Deserialize)]
pub struct TakeOffer {
    /// Who offers.
    pub from: MemberId,
}

/// The answer to [`TakeOffer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Entries that were new.
    pub new: u64,
}

/// Write and sign an entry that an administrator asks for.
#[derive(Debug, Serialize, Deserialize)]
pub struct WriteEntry {
    /// What for.
    pub wish: Wish,
    /// Uid of the person.
    pub operator_uid: u32,
}

/// This server leaves a union of which it is the only member: no entry says so, as nobody is left to read it. Its record is moved aside.
#[derive(Debug, Serialize, Deserialize)]
pub struct EndUnion {
    /// Uid of the person.
    pub operator_uid: u32,
}

/// The answer to [`EndUnion`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// What was done, in a sentence. Nothing, if it has other members: then [`Wish::Leave`] is what is meant.
    pub about: Option<String>,
}

/// What an administrator can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// A join token.
    Token {
        /// For how long, seconds.
        expires_s: u64,
        /// For this TPM alone.
        ek: Option<EkDigest>,
        /// What its user becomes; the founder's level, if nothing is said.
        platform_identity: Option<PlatformIdentity>,
    },
    /// That a token ends.
    EndToken(TokenId),
    /// That this member leaves.
    Leave,
    /// That another one is removed.
    Evict {
        /// Its name.
        member: MemberName,
        /// Why.
        reason: String,
    },
    /// That what this member knows of `member`'s last evidence counts as healthy, for now or from the next start on.
    AcceptReference {
        /// Of whom: a member, or who asked to join. A name that several have shown evidence by is refused.
        member: Whom,
        /// Only what is unknown now, as what will come next.
        next: bool,
    },
    /// Reference values, read from a file.
    Reference {
        /// `gtvp_appraisal::reference::Manifest`, JSON.
        manifest: String,
    },
    /// That reference values count no more.
    RetireReference {
        /// Their name.
        name: String,
    },
}

/// The answer to [`WriteEntry`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// To be proposed.
    pub entry: SignedEntry,
    /// For [`Wish::Token`].
    pub token: Option<WrittenToken>,
    /// What it does, in a sentence.
    pub about: String,
    /// The wish needs another entry after this one: it is to be asked for again.
    pub more: bool,
}

/// A token that will be one when its entry is in the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenToken {
    /// Its name in the record.
    pub id: TokenId,
    /// Its secret, which is nowhere else.
    pub secret: TokenSecret,
    /// Not taken from then on.
    pub expires: UnixTime,
}

/// What a recovery of the union would give up; and, if that is confirmed, the recovery: this member becomes the only voter.
#[derive(Debug, Serialize, Deserialize)]
pub struct Recover {
    /// Members that are given up beside the voters that cannot be reached.
    pub lost: Vec<MemberName>,
    /// Why, for the record.
    pub reason: String,
    /// Whether it is to be done.
    pub confirmed: bool,
    /// Members with which there is a channel.
    pub reachable: Vec<MemberId>,
    /// Whether somebody says that the voters, though they are there, decide nothing.
    pub stands_still: bool,
    /// Uid of the person.
    pub operator_uid: u32,
}

/// What leaving the union without a majority's word would give up; and, if that is confirmed, that. The record is moved aside.
#[derive(Debug, Serialize, Deserialize)]
pub struct LeaveByForce {
    /// Whether it is to be done.
    pub confirmed: bool,
    /// Uid of the person.
    pub operator_uid: u32,
}

/// Say that the entry with this hash may replace the union's voters.
#[derive(Debug, Serialize, Deserialize)]
pub struct FollowRecovery {
    /// The entry.
    pub hash: Digest,
    /// Uid of the person.
    pub operator_uid: u32,
}

/// The reference values that count.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListReferences {}

/// One of them, in full: the manifest.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShowReference {
    /// Its name.
    pub name: String,
}

/// The entries of the record, or those about one member, for people.
#[derive(Debug, Serialize, Deserialize)]
pub struct History {
    /// About whom.
    pub member: Option<MemberName>,
}

/// One member and why its verdict is what it is.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShowPeer {
    /// Its name.
    pub name: MemberName,
}

/// Make this member's evidence a file. Answers with a descriptor that the file (docs/spec/evidence.md, "Files") can be read from.
/// The quote is bound to what `security` puts together around the nonce, never to the nonce as it came.
#[derive(Debug, Serialize, Deserialize)]
pub struct Attest {
    /// What the one who asks has chosen, in hexadecimal: 16 to 64 bytes.
    pub nonce: String,
    /// Another member asks, and not a person of this one: it comes after this member's own work, not often, and gets no more bytes than
    /// are sent. `Unavailable` says when to ask again, `NoRoom` that it is too long.
    pub for_member: bool,
}

crate::interface!("security" {
    /// See [`SignManifest`].
    SignManifest = "sign_manifest" -> Signature;
    /// See [`AppraiseComponent`]. A signature that does not hold is an `Integrity` fault.
    AppraiseComponent = "appraise_component" -> Appraisal;
    /// See [`PermitRun`]. A refusal is a `Denied` fault that names the rule.
    PermitRun = "permit_run" -> Permit;
    /// See [`Verdict`].
    Verdict = "verdict" -> VerdictReply;
    /// See [`MeasureBox`].
    MeasureBox = "measure_box" -> Nothing;
    /// See [`MeasureTemplate`].
    MeasureTemplate = "measure_template" -> Nothing;
    /// See [`EndBox`].
    EndBox = "end_box" -> Nothing;
    /// See [`AttestBox`].
    AttestBox = "attest_box" -> Nothing;
    /// See [`ChallengePeer`]. A question that names nobody is `Invalid` or `NotFound`; outside of a union `WrongState`.
    ChallengePeer = "challenge_peer" -> PeerChallenge;
    /// See [`VouchForPeer`]. Evidence that does not hold, and a member that is not trusted: `Denied`.
    VouchForPeer = "vouch_for_peer" -> PeerVouched;
    /// See [`Tpm`]. A TPM that cannot be used is no fault: the answer says why.
    Tpm = "tpm" -> TpmView;

    /// See [`SignTls`].
    SignTls = "sign_tls" -> TlsSignature;
    /// See [`BeginUnion`]. A member that is in a union already, and a TPM that the union would not let in, are refused.
    BeginUnion = "begin_union" -> UnionSummary;
    /// See [`ShowUnion`]. Outside of a union: `NotFound`.
    ShowUnion = "show_union" -> UnionSummary;
    /// See [`ListMembers`].
    ListMembers = "list_members" -> Vec<MemberRow>;
    /// See [`Attest`].
    Attest = "attest" -> Nothing;
    /// See [`WriteEntry`].
    WriteEntry = "write_entry" -> Written;
    /// See [`Recover`].
    Recover = "recover" -> Recovery;
    /// See [`FollowRecovery`].
    FollowRecovery = "follow_recovery" -> Change;
    /// See [`LeaveByForce`].
    LeaveByForce = "leave_by_force" -> Departure;
    /// See [`EndUnion`].
    EndUnion = "end_union" -> Ended;
    /// See [`ListReferences`].
    ListReferences = "list_references" -> Vec<ReferenceRow>;
    /// See [`ShowReference`].
    ShowReference = "show_reference" -> serde_json::Value;
    /// See [`History`].
    History = "history" -> Vec<HistoryRow>;
    /// See [`ShowPeer`].
    ShowPeer = "show_peer" -> PeerView;
    /// See [`WatchUnion`]. Goes on until the caller hangs up.
    WatchUnion = "watch_union" -> Nothing, progress UnionNow;
    /// See [`OwnKeys`].
    OwnKeys = "own_keys" -> OwnKeysReply;
    /// See [`Quote`].
    Quote = "quote" -> Quoted;
    /// See [`AppraiseKeys`].
    AppraiseKeys = "appraise_keys" -> Result<Box<CheckedKeys>, Rejection>;
    /// See [`MakeCredential`].
    MakeCredential = "make_credential" -> CredentialMade;
    /// See [`ActivateCredential`].
    ActivateCredential = "activate_credential" -> CredentialSecret;
    /// See [`Certify`].
    Certify = "certify" -> Certification;
    /// See [`AppraiseCertification`].
    AppraiseCertification = "appraise_certification" -> Result<(), Rejection>;
    /// See [`AppraiseEvidence`].
    AppraiseEvidence = "appraise_evidence" -> Result<HspAppraisal, Rejection>;
    /// See [`AskOf`].
    AskOf = "ask_of" -> Asking;
    /// See [`Due`].
    Due = "due" -> DueReply;
    /// See [`WatchResults`]. Goes on until the caller hangs up.
    WatchResults = "watch_results" -> Nothing, progress OwnResult;
    /// See [`HearResult`]. One that is not believed: why.
    HearResult = "hear_result" -> Result<HeardResult, String>;
    /// See [`WatchVerdicts`].
    WatchVerdicts = "watch_verdicts" -> Nothing, progress VerdictNow;
    /// See [`HeldBy`].
    HeldBy = "held_by" -> MemberHeld;
    /// See [`ListTokens`].
    ListTokens = "list_tokens" -> Vec<TokenRow>;
    /// See [`HearStanding`].
    HearStanding = "hear_standing" -> Nothing;
    /// See [`SignStatus`]. Outside of a union: `WrongState`.
    SignStatus = "sign_status" -> SignedStatus;
    /// See [`HearStatus`].
    HearStatus = "hear_status" -> StatusHeard;
    /// See [`LearnRecord`]. A record that is not believed: why.
    LearnRecord = "learn_record" -> Result<Box<UnionView>, String>;
    /// See [`WantJoin`].
    WantJoin = "want_join" -> Nothing;
    /// See [`KeepMembership`].
    KeepMembership = "keep_membership" -> Nothing;
    /// See [`ReadRecord`].
    ReadRecord = "read_record" -> Nothing;
    /// See [`WriteAdmission`].
    WriteAdmission = "write_admission" -> SignedEntry;
    /// See [`WriteHousekeeping`].
    WriteHousekeeping = "write_housekeeping" -> Housekeeping;
    /// See [`VoteFor`].
    VoteFor = "vote_for" -> Voted;
    /// See [`VoteAgain`].
    VoteAgain = "vote_again" -> Voted;
    /// See [`TakeOffer`].
    TakeOffer = "take_offer" -> Taken;
});
