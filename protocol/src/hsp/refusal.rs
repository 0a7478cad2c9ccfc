//! Each way a peer, or our own side, can end a session or a join, by name. What appraisal refuses has its own
//! vocabulary; here it has a kind and its words.

use gtvp_model::union::{Epoch, MemberId, TpmClass, UnionId, UnixTime};
use serde::{Deserialize, Serialize};

use super::message::LogKind;
use crate::frame::wire::BodyFault;

/// Why evidence, keys or a certification were not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RejectionKind {
    /// It is not the structure that it should be.
    Malformed,
    /// Not signed by the key that the roster, or the joiner, named.
    Signature,
    /// qualifyingData is not what this channel and this challenge bind.
    BoundElsewhere,
    /// The TPM was reset, or its clock went back, since it was last seen.
    TpmReset,
    /// A log does not replay to the quoted PCRs.
    Replay,
    /// A bank or a PCR that is needed is not there.
    Pcrs,
    /// An entry is none that reference values know.
    Reference,
    /// A key's attributes, or the EK's certificate, are not what they must be.
    Keys,
    /// The credential's secret was not shown: the AK is not in the TPM of that EK.
    Credential,
    /// It could not be decided. That is not "trusted".
    Unknown,
}

/// What appraisal said no to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{why}")]
pub struct Rejection {
    /// Of which kind.
    pub kind: RejectionKind,
    /// With the entry, PCR or attribute.
    pub why: String,
}

/// What was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Awaited {
    /// The peer's hello.
    Hello,
    /// The peer's evidence.
    Evidence,
    /// The peer's acceptance of our evidence.
    Accept,
    /// The peer's next enrolment message.
    Join,
    /// Our own TPM, appraisal or record.
    Ourselves,
}

impl std::fmt::Display for Awaited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hello => "the peer's hello",
            Self::Evidence => "the peer's evidence",
            Self::Accept => "the peer's word on our evidence",
            Self::Join => "the peer's next message",
            Self::Ourselves => "this member's own TPM, appraisal or record",
        })
    }
}

impl From<Rejection> for Refusal {
    /// What is told of evidence that was not believed, or that could not be appraised.
    fn from(why: Rejection) -> Self {
        match why.kind {
            RejectionKind::Unknown => Self::NotAppraised { why },
            _ => Self::EvidenceRejected { why },
        }
    }
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $code:literal $text:literal $name:ident $({ $($(#[$fdoc:meta])* $field:ident : $type:ty),* $(,)? })? ;)*) => {
        /// Why a session or a join ended.
        #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
        pub enum Refusal {
            $($(#[$doc])* #[error($text)] $name $({ $($(#[$fdoc])* $field: $type),* })?,)*
        }

        impl Refusal {
            /// Name and code of each.
            pub const TABLE: &'static [(&'static str, u16)] = &[$((stringify!($name), $code)),*];

            /// The variant of a code that a peer has told.
            pub fn name_of(code: u16) -> Option<&'static str> {
                Self::TABLE.iter().find(|(_, c)| *c == code).map(|(name, _)| *name)
            }

            /// Its variant.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$name { .. } => stringify!($name),)* }
            }

            /// What the peer is told.
            pub fn code(&self) -> u16 {
                match self { $(Self::$name { .. } => $code,)* }
            }
        }
    };
}

refusals! {
    /// A kind that HSP does not have.
    1 "message kind {kind} is not known" UnknownMessage {
        /// The kind.
        kind: u8,
    };
    /// Longer than its kind may be.
    2 "a message of kind {kind} has {length} bytes, at most {max} are taken" TooLong {
        /// The kind.
        kind: u8,
        /// Its length.
        length: usize,
        /// The bound.
        max: usize,
    };
    /// Not the message that its kind says.
    3 "a message of kind {kind} is malformed: {fault}" Malformed {
        /// The kind.
        kind: u8,
        /// How.
        fault: BodyFault,
    };
    /// A message that this state does not take.
    4 "{message} came while {state}" OutOfTurn {
        /// Its name.
        message: &'static str,
        /// The state.
        state: &'static str,
    };
    /// No version that both speak.
    5 "the peer speaks HSP {theirs:?}, this member does not" NoCommonVersion {
        /// Its versions.
        theirs: Vec<u16>,
    };
    /// The peer belongs to another union.
    6 "the peer belongs to union {theirs}" OtherUnion {
        /// Its union.
        theirs: UnionId,
    };
    /// The peer says that it is this member.
    7 "the peer says that it is this member itself" Ourselves;
    /// The peer's nonce is ours.
    8 "the peer sent our own nonce back" NonceEchoed;
    /// The roster does not have the peer.
    9 "{member} is not a member" NotInRoster {
        /// Who it says it is.
        member: MemberId,
    };
    /// Another member than the one that was dialled.
    10 "{got} answered where {want} was dialled" NotWhoWasDialled {
        /// Who answered.
        got: MemberId,
        /// Who was dialled.
        want: MemberId,
    };
    /// TLS showed a key that is not the member's.
    11 "the key that TLS showed is not that of {member}" TlsKeyOfAnother {
        /// Who it says it is.
        member: MemberId,
    };
    /// An epoch that nobody can have reached.
    12 "the peer's epoch {theirs} is too far ahead of {ours}" EpochFarAhead {
        /// The peer's.
        theirs: Epoch,
        /// Ours.
        ours: Epoch,
    };
    /// A bank that cannot be believed, or no PCR.
    13 "the peer asks for PCRs of algorithm {algorithm:#06x}, which proves nothing" WeakBank {
        /// TPM_ALG_ID; 0 if nothing was asked.
        algorithm: u16,
    };
    /// Evidence for another challenge.
    14 "evidence of round {got} where round {want} was asked" OtherRound {
        /// Its round.
        got: u32,
        /// What was asked.
        want: u32,
    };
    /// Not the PCRs that were asked.
    15 "the evidence does not have exactly the PCRs that were asked" OtherPcrs;
    /// A log piece that does not follow, or a log that is too long.
    16 "a piece of the {log:?} log is at byte {from}, the log is at {at}" LogPieceMisplaced {
        /// Which log.
        log: LogKind,
        /// Where the piece is.
        from: u64,
        /// Where the log is.
        at: u64,
    };
    /// A log longer than any real one.
    17 "the {log:?} log is longer than any that is taken" LogTooLong {
        /// Which log.
        log: LogKind,
    };
    /// The evidence rests on another length than was sent.
    18 "the evidence rests on {want} bytes of the {log:?} log, {got} came" LogEndsElsewhere {
        /// Which log.
        log: LogKind,
        /// What came.
        got: u64,
        /// What the evidence says.
        want: u64,
    };
    /// A member with a TPM sends no evidence, or the union takes none without.
    19 "the peer sends no evidence" EvidenceMissing;
    /// Appraisal said no.
    20 "the evidence is not believed: {why}" EvidenceRejected {
        /// Why.
        why: Rejection,
    };
    /// The peer left the roster.
    21 "{member} is no longer a member with these keys" Evicted {
        /// Who.
        member: MemberId,
    };
    /// This member left the roster.
    22 "this member is no longer a member" WeAreOut;
    /// Something did not come in time.
    23 "{awaited} did not come in time" Silent {
        /// What.
        awaited: Awaited,
    };
    /// The connection ended.
    24 "the connection ended" Lost;
    /// Our own TPM gave no quote.
    25 "this member's TPM gave no evidence: {why}" NoQuote {
        /// Why.
        why: String,
    };
    /// The peer refused.
    26 "the peer refuses ({code}): {reason}" PeerRefused {
        /// Its code.
        code: u16,
        /// Its words, printable.
        reason: String,
    };
    /// A nonce was used before.
    27 "the nonce for this round was used before" NonceUsed;
    /// More rounds than a session has.
    28 "the session is too old: its rounds are used up" RoundsUsedUp;
    /// This side ends it.
    29 "this side ends the session" Ended;
    /// Appraisal came to nothing: for reasons of this member's own, which say nothing of the peer.
    30 "the evidence could not be appraised here: {why}" NotAppraised {
        /// Why.
        why: Rejection,
    };
    /// No such token.
    40 "the union has no such token" TokenUnknown;
    /// Too late.
    41 "the token expired at {at}; it is {now}" TokenExpired {
        /// Its end.
        at: UnixTime,
        /// The later of our clock and the record's.
        now: UnixTime,
    };
    /// Somebody has used it.
    42 "the token was used by {by}" TokenSpent {
        /// Who.
        by: MemberId,
    };
    /// Made for another TPM.
    43 "the token is for another TPM" TokenForOtherTpm;
    /// The proof does not fit token and channel.
    44 "the joiner's proof of the token does not fit this channel" TokenProofWrong;
    /// The verifier does not know the token.
    45 "the verifier's proof of the token does not fit this channel" VerifierProofWrong;
    /// The union does not take such members.
    46 "the union does not take members whose TPM is {class}" ClassNotAdmitted {
        /// Its class.
        class: TpmClass,
    };
    /// Another member has that name.
    47 "the name is taken by {by}" NameTaken {
        /// Who.
        by: MemberId,
    };
    /// This TPM is a member already, with these keys or others.
    48 "this TPM is already member {id}" AlreadyMember {
        /// Which.
        id: MemberId,
    };
    /// The keys were not believed.
    49 "the joiner's keys are not believed: {why}" KeysRejected {
        /// Why.
        why: Rejection,
    };
    /// The credential was not opened by that TPM.
    50 "the joiner did not open the credential: its attestation key is not in the TPM of that endorsement key"
        CredentialNotOpened;
    /// The TLS key is not certified.
    51 "the TLS key is not certified by the attestation key: {why}" NotCertified {
        /// Why.
        why: Rejection,
    };
    /// TLS showed another key than the joiner's message.
    52 "the key that TLS showed is not the joiner's TLS key" JoinTlsKeyDiffers;
    /// The record does not go on from the token's head.
    53 "the record does not lead from the token's head to where the verifier says: {why}" RecordBroken {
        /// Why.
        why: String,
    };
    /// The record is longer than is taken.
    54 "the record is longer than {max} bytes" RecordTooLong {
        /// The bound.
        max: u64,
    };
    /// The verifier is not in the record that it gave.
    55 "the verifier is not in its own record" VerifierNotInRecord;
    /// A verifier without a TPM proves nothing.
    56 "a member without a TPM cannot admit others" VerifierWithoutTpm;
    /// The secret is not the token's.
    57 "the secret is not that of the token" TokenSecretWrong;
    /// The record did not take the entry.
    58 "the union did not take the entry: {why}" NotCommitted {
        /// Why.
        why: String,
    };
    /// The record does not have our entry.
    59 "the record that the verifier gave does not have this member as it is" NotAdmitted;
    /// Our TPM did not do what a join needs.
    60 "this member's TPM failed: {why}" OurTpm {
        /// Why.
        why: String,
    };
    /// It could not be written down.
    61 "it could not be written down: {why}" NotPersisted {
        /// Why.
        why: String,
    };
    /// The verifier has not read so far.
    62 "this member's record ends at entry {head}, before the token's entry {from}" RecordBehind {
        /// Our last entry.
        head: u64,
        /// The token's.
        from: u64,
    };
    /// Others join just now.
    63 "this member admits as many servers at once as it can" Busy;
}
