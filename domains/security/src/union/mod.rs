//! The union as this member has it: the record, what follows from it, and what this member puts its name to. `security` holds it because
//! whoever is a member, and by which keys, is what appraisal rests on.
//!
//! Which entry follows which, and whose word makes it count, is `gtvp_protocol::csp`'s to say. Here: that nothing is told, signed or
//! answered that is not on the disk first.

pub mod book;
pub mod chain;
mod counting;
mod departure;
pub mod disk;
mod founding;
mod gossip;
mod history;
mod holdings;
pub mod housekeeping;
mod joining;
mod offers;
mod recovery;
mod wishes;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use gtvp_appraisal::ek::EkKey;
use gtvp_appraisal::reference::ReferenceSet;
use gtvp_appraisal::tpm::Public;
use gtvp_ipc::security::{OwnUnion, UnionNow};
use gtvp_model::digest::Digest;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::hex::hex;
use gtvp_model::ids::{MemberName, UnionName};
use gtvp_model::union::{
    EkDigest, Identity, KeyName, MemberId, P256_SPKI_HEAD, RosterEntry, SpkiDigest, TpmClass, TpmKind,
    UnionId, UnixTime,
};
use gtvp_model::unionview::UnionSummary;
use gtvp_protocol::csp::follow::{Follower, Recoveries};
use gtvp_protocol::csp::node::UnionState;
use gtvp_protocol::csp::{Act, CoSigned, Entry, Head, Keeper, Record, Signature, Signatures, SignedEntry};
use gtvp_protocol::frame::wire;

use crate::platform::{Platform, chain as causes};
use crate::tpm::keys;
use crate::turns::Turns;
use book::Book;
use disk::Disk;

pub use gossip::is_by;
pub use wishes::{Means, Seen};

/// Signatures of members: ECDSA on P-256 with SHA-256, r ‖ s.
pub struct Ecdsa;

impl Signatures for Ecdsa {
    fn holds(&self, spki: &[u8], content: &[u8], signature: &[u8]) -> bool {
        let Some(point) = spki.strip_prefix(&P256_SPKI_HEAD) else { return false };
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(content, signature).is_ok()
    }
}

/// This member's keys.
#[derive(Debug, Clone)]
pub struct OwnKeys {
    /// As the record has them, or would have them.
    pub identity: Identity,
    /// SubjectPublicKeyInfo of the one that signs, DER.
    pub spki: Vec<u8>,
    /// Their public parts; none without a TPM.
    pub tpm: Option<keys::Identity>,
}

impl OwnKeys {
    /// The TPM's.
    ///
    /// # Errors
    /// There is no TPM.
    pub fn in_tpm(&self) -> Result<&keys::Identity, Fault> {
        self.tpm.as_ref().ok_or_else(|| Fault::new(FaultKind::WrongState, "this member has no TPM"))
    }
}

/// A union as it is now, for whoever appraises.
#[derive(Debug)]
pub struct Known {
    /// Its name.
    pub name: UnionName,
    /// This member, as the record has it or had it last.
    pub own: Option<RosterEntry>,
    /// The record.
    pub state: UnionState,
    /// What counts as healthy, or why nothing does.
    pub references: Result<Arc<ReferenceSet>, String>,
    /// Whether a majority has said two things.
    pub forked: bool,
}

impl Known {
    fn of(follower: &Follower, head: &CoSigned, book: &Book) -> Arc<Self> {
        let record = follower.record();
        Arc::new(Self {
            name: record.name().clone(),
            own: book.own().cloned(),
            state: UnionState::of(record, head.clone()),
            references: book.set(),
            forked: follower.fork().is_some(),
        })
    }

    /// A member, by its id.
    pub fn member(&self, id: &MemberId) -> Option<&RosterEntry> {
        self.state.view.members.get(id)
    }

    /// A member's name; of who is none the beginning of its id.
    pub fn name_of(&self, id: &MemberId) -> String {
        self.member(id).map_or_else(|| id.short(), |m| m.name.to_string())
    }

    /// Whether a member has this attestation key, by its Name in hexadecimal.
    pub fn has_ak(&self, name: &str) -> bool {
        let is =
            |m: &RosterEntry| matches!(&m.identity, Identity::Tpm { ak, .. } if hex(ak.as_bytes()) == name);
        self.state.view.members.values().any(is)
    }

    /// Whether this member is in it now.
    pub fn has_us(&self) -> bool {
        self.own.as_ref().is_some_and(|own| self.member(&own.id()).is_some())
    }
}

/// The record, and what is known beside it.
struct Kept {
    keeper: Keeper,
    /// A majority's word for its end, the newest.
    head: CoSigned,
    book: Book,
    known: Arc<Known>,
    /// The entry of a recovery by this member that was cut short before it was in the record: nobody has it, this member neither.
    unfinished: Option<u64>,
}

impl Kept {
    fn new(keeper: Keeper, head: CoSigned, book: Book) -> Self {
        let known = Known::of(keeper.follower(), &head, &book);
        Self { keeper, head, book, known, unfinished: None }
    }

    fn record(&self) -> &Record {
        self.keeper.record()
    }
}

/// What is held of a record.
enum Held {
    /// This server is in no union.
    Nothing,
    /// The record, checked.
    Record(Box<Kept>),
    /// What is on the disk is not a record: nothing rests on it, and nothing is written over it.
    Damaged(String),
}

/// See the module.
pub struct Union {
    state: PathBuf,
    disk: Disk,
    name: MemberName,
    platform: Arc<Platform>,
    keys: OnceLock<OwnKeys>,
    held: Mutex<Held>,
    /// Taken before `held` by whoever puts a whole record together: there is one place for that.
    writing: Mutex<()>,
    joining: Mutex<joining::Joining>,
    /// Who wants to go, and since when: this member makes no voter of it.
    leaving: Mutex<BTreeMap<MemberId, Instant>>,
    turns: Turns,
}

impl Union {
    /// Reads what is there. Damage does not keep the member from starting: it is told to whoever asks.
    pub fn open(state: &Path, name: MemberName, platform: Arc<Platform>) -> Self {
        let disk = Disk::new(state);
        let held = match disk.load() {
            Ok(None) => Held::Nothing,
            Ok(Some(kept)) => {
                let record = kept.whole.follower.record().clone();
                // The TPM may not run yet: it is asked before the first vote.
                let keeper = Keeper::new(kept.own, record, kept.promised).uncounted();
                let mut keeper = match kept.fork {
                    Some(fork) => keeper.forked_by(fork),
                    None => keeper,
                };
                keeper.allow(kept.follow.map_or(Recoveries::None, Recoveries::This));
                let unfinished = kept.promised.filter(|_| kept.unfinished).map(|p| p.number);
                let kept = Kept::new(keeper, kept.whole.head, kept.whole.book);
                Held::Record(Box::new(Kept { unfinished, ..kept }))
            }
            Err(damage) => Held::Damaged(damage.to_string()),
        };
        Self {
            state: state.to_owned(),
            disk,
            name,
            platform,
            keys: OnceLock::new(),
            held: Mutex::new(held),
            writing: Mutex::default(),
            joining: Mutex::new(joining::Joining::open(state)),
            leaving: Mutex::default(),
            turns: Turns::default(),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This server's name, as its configuration has it.
    pub fn name(&self) -> &MemberName {
        &self.name
    }

    /// The record as it is now; `None` outside of a union.
    ///
    /// # Errors
    /// A damaged record.
    pub fn known(&self) -> Result<Option<Arc<Known>>, Fault> {
        match &*self.held() {
            Held::Nothing => Ok(None),
            Held::Damaged(why) => Err(damaged(why)),
            Held::Record(kept) => Ok(Some(kept.known.clone())),
        }
    }

    /// The union that this member is in, or whose record it has learned in order to join it.
    pub fn known_as(&self, union: UnionId) -> Option<Arc<Known>> {
        let own = self.known().ok().flatten().filter(|k| k.state.view.union == union);
        // Of a union that it has left, and joins again, the record that was learned is the newer one.
        own.clone().filter(|k| k.has_us()).or_else(|| self.joining().learned(union)).or(own)
    }

    /// For [`gtvp_ipc::security::WatchUnion`]: the union, and the number of changes so far. A damaged record is no union.
    pub fn now(&self) -> (UnionNow, u64) {
        let changes = self.turns.now();
        let known = self.known().ok().flatten();
        let union = known.and_then(|k| {
            let own = k.own.clone()?;
            Some(Box::new(OwnUnion { own, state: k.state.clone() }))
        });
        (UnionNow { union }, changes)
    }

    /// Waits until there were more changes than `seen`, or `longest` has gone by. Says whether there were.
    pub fn wait(&self, seen: u64, longest: Duration) -> bool {
        self.turns.wait(seen, longest) != seen
    }

    /// The union, in short.
    ///
    /// # Errors
    /// `NotFound` outside of one.
    pub fn show(&self) -> Result<UnionSummary, Fault> {
        match self.known()? {
            Some(known) if known.has_us() => {
                Ok(UnionSummary { withheld: self.withheld(), ..summary(&known) })
            }
            Some(known) => {
                Err(no_union().because(format!("it is no member of union {} any more", known.name)))
            }
            None => Err(no_union()),
        }
    }

    /// This member's keys as the roster has them.
    ///
    /// # Errors
    /// With a TPM that cannot be reached.
    pub fn own_keys(&self) -> Result<OwnKeys, Fault> {
        if let Some(keys) = self.keys.get() {
            return Ok(keys.clone());
        }
        let kind = match self.platform.class() {
            // Whose word it is, is for others to say, and in the record.
            TpmClass::Hardware | TpmClass::Pinned => TpmKind::Pinned,
            TpmClass::Software => TpmKind::Software,
            TpmClass::None => {
                let point = self.platform.bare_key().ok_or_else(without_tpm)?;
                let spki = [P256_SPKI_HEAD.as_slice(), &point].concat();
                let identity = Identity::Bare { spki: SpkiDigest::new(Digest::of(&spki)) };
                return Ok(OwnKeys { identity, spki, tpm: None });
            }
        };
        let cannot = |e: &dyn std::error::Error| {
            Fault::new(FaultKind::Unavailable, "the TPM's keys cannot be had").because(causes(e))
        };
        let tpm = self.platform.way().ok_or_else(without_tpm)?.state().map_err(|e| cannot(&e))?.identity;
        let parse = |bytes: &[u8]| Public::parse(bytes).map_err(|e| cannot(&e));
        let (ek, tls) =
            (EkKey::of_public(&parse(&tpm.ek_public)?), EkKey::of_public(&parse(&tpm.tls_public)?));
        let spki = tls.spki();
        let identity = Identity::Tpm {
            kind,
            ek: EkDigest::new(Digest::of(&ek.spki())),
            ak: KeyName::sha256(&tpm.ak_public),
            tls: KeyName::sha256(&tpm.tls_public),
            spki: SpkiDigest::new(Digest::of(&spki)),
        };
        let keys = OwnKeys { identity, spki, tpm: Some(tpm) };
        // Set once, by whoever came first: a TPM's keys are the same for as long as this process lives.
        Ok(self.keys.get_or_init(|| keys).clone())
    }

    fn signature(&self, value: [[u8; 32]; 2]) -> Result<Signature, Fault> {
        let large = |e: wire::TooManyBytes| Fault::internal("a signature is too large", &e);
        Ok(Signature {
            spki: self.own_keys()?.spki.try_into().map_err(large)?,
            value: value.concat().try_into().map_err(large)?,
        })
    }

    fn sign(&self, entry: &Entry) -> Result<SignedEntry, Fault> {
        let encoded = entry.encode();
        if encoded.is_empty() {
            return Err(Fault::new(FaultKind::Invalid, "that is more than an entry of the record holds"));
        }
        let value = self.platform.sign_entry(entry)?;
        let large = |e: wire::TooManyBytes| Fault::internal("the entry is too large", &e);
        Ok(SignedEntry { entry: encoded.try_into().map_err(large)?, signature: self.signature(value)? })
    }

    fn sign_head(&self, head: &Head) -> Result<Signature, Fault> {
        let value = self.platform.sign_head(head)?;
        self.signature(value)
    }

    /// An entry that does this, after the last one; to be signed when nobody waits for the record any more ([`Self::seal`]).
    fn draft(&self, kept: &Kept, act: Act, now: UnixTime) -> Result<Draft, Fault> {
        let own = self.own_keys()?.identity;
        let view = kept.record().view();
        let member = view.members.get(&own.member_id()).filter(|m| m.identity.same_keys(&own));
        let author = member.ok_or_else(no_member)?.id();
        if kept.known.forked && !matches!(act, Act::Recovered { .. }) {
            return Err(forked());
        }
        let entry = Entry {
            union: view.union,
            number: view.head.number.saturating_add(1),
            previous: view.head.hash,
            author,
            time: now,
            act,
        };
        if let Act::ReferenceAccepted { name, manifest } = &entry.act {
            kept.book.would_take(name, manifest, author).map_err(|e| not_taken(causes(&e)))?;
        }
        Ok(Draft { entry, after: kept.record().clone() })
    }

    /// Signs an entry, without the lock: the TPM takes its time. It is tried on the record that it was written for: nobody is asked for what
    /// none would take.
    fn seal(&self, draft: Draft) -> Result<SignedEntry, Fault> {
        let Draft { entry, mut after } = draft;
        // Before the TPM is asked: whoever has this member write without end wears nothing.
        after.affordable(&entry, entry.encode().len()).map_err(|over| {
            Fault::new(FaultKind::Unavailable, "this member has written enough into the record for now")
                .because(over.to_string())
                .hint("gtvp union history says what it wrote; other members may write")
        })?;
        let signed = self.sign(&entry)?;
        after.apply(&signed, &Ecdsa).map_err(|e| not_taken(e.to_string()))?;
        Ok(signed)
    }
}

/// An entry that is not signed yet.
struct Draft {
    entry: Entry,
    /// The record that it is to follow.
    after: Record,
}

fn not_taken(why: String) -> Fault {
    Fault::new(FaultKind::WrongState, "the record does not take it").because(why)
}

fn summary(known: &Known) -> UnionSummary {
    let view = &known.state.view;
    let name = |id: &MemberId| known.name_of(id);
    UnionSummary {
        name: known.name.to_string(),
        id: view.union.to_string(),
        epoch: view.epoch.0,
        entries: view.head.number.saturating_add(1),
        head: view.head.hash.to_string(),
        voters: known.state.voters.iter().map(name).collect(),
        members: view.members.len() as u64,
        software_tpms: view.settings.software_tpms,
        without_tpm: view.settings.without_tpm,
        own_tpm: known.own.as_ref().map(|own| own.identity.rests_on()).unwrap_or_default(),
        withheld: None,
        grants_nothing: None,
    }
}

fn damaged(why: &str) -> Fault {
    Fault::new(FaultKind::Integrity, "this server's copy of the union's record is damaged")
        .because(why.to_owned())
        .hint(
            "nothing was changed: restore the state directory of security from a backup; or, to be a member no more: \
             gtvp union leave --force",
        )
}

pub(crate) fn forked() -> Fault {
    Fault::new(
        FaultKind::Integrity,
        "the union's record has gone two ways: a majority of voters has signed both",
    )
    .hint(
        "gtvp union recover, on one member that has the record that is to stay; then gtvp union recover --follow HASH on others that \
         have it. Those that have the other one: gtvp union leave --force",
    )
}

fn no_union() -> Fault {
    Fault::new(FaultKind::NotFound, "this server is in no union")
        .hint("begin one: gtvp union init --name NAME; or join one: gtvp join TOKEN")
}

fn no_member() -> Fault {
    Fault::new(FaultKind::WrongState, "this server is no member of the union any more")
}

fn without_tpm() -> Fault {
    Fault::new(FaultKind::WrongState, "a server without a TPM begins no union")
        .because("it could sign nothing that others can hold it to")
        .hint("set tpm = \"software\" in member.toml, or begin it on a server with a TPM")
}
