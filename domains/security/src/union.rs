//! The union's record as this member holds it: an entry a file, checked from the first on whenever it is read, added to only by what
//! checks. `security` holds it because whoever is a member, and by which keys, is what appraisal rests on.
//!
//! It decides nothing that `gtvp_protocol::csp` does not: that says which entry follows which. Joining is not built yet: a union has
//! one member, which votes alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use gtvp_appraisal::ek::EkKey;
use gtvp_appraisal::tpm::Public;
use gtvp_ipc::security::BeginUnion;
use gtvp_model::digest::Digest;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::MemberName;
use gtvp_model::union::{
    EkDigest, Identity, KeyName, P256_SPKI_HEAD, PlatformIdentity, RosterEntry, SpkiDigest, TpmClass,
    TpmKind, UnionId, UnixTime,
};
use gtvp_model::unionview::{MemberRow, UnionSummary};
use gtvp_protocol::csp::entry::MAX_ENTRY;
use gtvp_protocol::csp::{Act, Entry, Record, Refusal, Signature, Signatures, SignedEntry};
use gtvp_protocol::frame::wire;

use crate::platform::{Platform, chain};
use crate::tpm::saved;

/// Where the entries are.
const FOLDER: &str = "record";
/// A founder's reference security level: the middle of the scale, until the union has a policy that says otherwise.
const FOUNDER: u8 = 8;

/// Signatures of members: ECDSA on P-256 with SHA-256, r ‖ s.
pub struct Ecdsa;

impl Signatures for Ecdsa {
    fn holds(&self, spki: &[u8], content: &[u8], signature: &[u8]) -> bool {
        let Some(point) = spki.strip_prefix(&P256_SPKI_HEAD) else { return false };
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(content, signature).is_ok()
    }
}

/// The record, and where it is.
pub struct Union {
    folder: PathBuf,
    name: MemberName,
    platform: Arc<Platform>,
    held: Mutex<Held>,
}

/// What is held of a record.
enum Held {
    /// This server is in no union.
    Nothing,
    /// The record, checked.
    Record(Box<Record>),
    /// What is on the disk is not a record: nothing rests on it, and nothing is written over it.
    Damaged(String),
}

/// Why a record on the disk is none.
#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error("entry {0} cannot be read: {1}")]
    Unreadable(u64, io::Error),
    #[error("entry {0} is not an entry: {1}")]
    NoEntry(u64, wire::BodyFault),
    #[error("entry {0} is refused: {1}")]
    Refused(u64, Refusal),
    #[error("{0} is not part of a record")]
    Stray(String),
    #[error("its folder cannot be read: {0}")]
    Folder(io::Error),
}

impl Union {
    /// Reads what is there. Damage does not keep the member from starting: it is told to whoever asks.
    pub fn open(state: &Path, name: MemberName, platform: Arc<Platform>) -> Self {
        let folder = state.join(FOLDER);
        let held = match read(&folder) {
            Ok(None) => Held::Nothing,
            Ok(Some(record)) => Held::Record(Box::new(record)),
            Err(damage) => Held::Damaged(damage.to_string()),
        };
        Self { folder, name, platform, held: Mutex::new(held) }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a union of this member. It is there once its first entry is on the disk.
    ///
    /// # Errors
    /// `WrongState` in a union, or with a damaged record; `Denied` for a TPM that the union would not let in.
    pub fn begin(&self, asked: &BeginUnion, now: UnixTime) -> Result<UnionSummary, Fault> {
        let mut held = self.held();
        match &*held {
            Held::Nothing => {}
            Held::Record(record) => {
                return Err(Fault::new(
                    FaultKind::WrongState,
                    format!("this server is in union {} already", record.name()),
                )
                .hint("gtvp union show"));
            }
            Held::Damaged(why) => return Err(damaged(why)),
        }
        let settings = gtvp_model::union::UnionSettings {
            software_tpms: asked.union.software_tpms,
            without_tpm: asked.union.without_tpm,
        };
        let class = self.platform.class();
        if !settings.admits(class) {
            return Err(not_admitted(class));
        }
        let (identity, spki) = self.identity()?;
        let level = PlatformIdentity::try_from(FOUNDER)
            .map_err(|e| Fault::internal("the founder has no level", &e))?;
        let founder = RosterEntry::new(self.name.clone(), identity, level, asked.hardware.clone());
        let entry = Entry {
            union: UnionId::from([0; 32]),
            number: 0,
            previous: Digest([0; 32]),
            author: founder.id(),
            time: now,
            act: Act::Genesis { name: asked.union.name.clone(), founder, settings },
        };
        let signed = self.sign(&entry, spki)?;
        let record = Record::begin(&signed, &Ecdsa)
            .map_err(|e| Fault::internal("the union's first entry is refused", &e))?;
        self.write(0, &signed).map_err(|e| Fault::internal("the record cannot be written", &e))?;
        let summary = summary(&record);
        *held = Held::Record(Box::new(record));
        Ok(summary)
    }

    /// The union.
    ///
    /// # Errors
    /// `NotFound` outside of one.
    pub fn show(&self) -> Result<UnionSummary, Fault> {
        match &*self.held() {
            Held::Record(record) => Ok(summary(record)),
            Held::Damaged(why) => Err(damaged(why)),
            Held::Nothing => Err(Fault::new(FaultKind::NotFound, "this server is in no union")
                .hint("begin one: gtvp union init --name NAME")),
        }
    }

    /// The members. No verdict rests on the record alone: all are unknown.
    ///
    /// # Errors
    /// A damaged record.
    pub fn members(&self) -> Result<Vec<MemberRow>, Fault> {
        let row = |name: &MemberName, id, tpm, platform_identity| MemberRow {
            name: name.to_string(),
            id,
            verdict: "unknown".into(),
            tpm,
            platform_identity,
            own: *name == self.name,
        };
        match &*self.held() {
            Held::Damaged(why) => Err(damaged(why)),
            Held::Nothing => Ok(vec![row(&self.name, None, self.platform.class(), None)]),
            Held::Record(record) => {
                let mut rows: Vec<MemberRow> = record
                    .view()
                    .members
                    .values()
                    .map(|m| {
                        let level = m.platform_identity.get();
                        row(&m.name, Some(m.id().to_string()), m.identity.class(), Some(level))
                    })
                    .collect();
                rows.sort_by(|a, b| a.name.cmp(&b.name));
                Ok(rows)
            }
        }
    }

    /// This member's keys as the roster has them, and the SubjectPublicKeyInfo of the one that signs.
    fn identity(&self) -> Result<(Identity, Vec<u8>), Fault> {
        let class = self.platform.class();
        let kind = match class {
            TpmClass::Hardware => TpmKind::Hardware,
            TpmClass::Software => TpmKind::Software,
            TpmClass::None => return Err(no_founder()),
        };
        let tpm = self.platform.way().ok_or_else(no_founder)?;
        let cannot = |e: &dyn std::error::Error| {
            Fault::new(FaultKind::Unavailable, "the TPM's keys cannot be had").because(chain(e))
        };
        let keys = tpm.state().map_err(|e| cannot(&e))?.identity;
        let parse = |bytes: &[u8]| Public::parse(bytes).map_err(|e| cannot(&e));
        let (ek, tls) =
            (EkKey::of_public(&parse(&keys.ek_public)?), EkKey::of_public(&parse(&keys.tls_public)?));
        let spki = tls.spki();
        let identity = Identity::Tpm {
            kind,
            ek: EkDigest::new(Digest::of(&ek.spki())),
            ak: KeyName::sha256(&keys.ak_public),
            tls: KeyName::sha256(&keys.tls_public),
            spki: SpkiDigest::new(Digest::of(&spki)),
        };
        Ok((identity, spki))
    }

    fn sign(&self, entry: &Entry, spki: Vec<u8>) -> Result<SignedEntry, Fault> {
        let tpm = self.platform.way().ok_or_else(no_founder)?;
        let value = tpm.sign_entry(entry).map_err(|e| {
            Fault::new(FaultKind::Unavailable, "the TPM did not sign the entry").because(chain(&e))
        })?;
        let large = |e: wire::TooManyBytes| Fault::internal("the entry is too large", &e);
        Ok(SignedEntry {
            entry: entry.encode().try_into().map_err(large)?,
            signature: Signature {
                spki: spki.try_into().map_err(large)?,
                value: value.concat().try_into().map_err(large)?,
            },
        })
    }

    fn write(&self, number: u64, signed: &SignedEntry) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        if let Some(state) = self.folder.parent() {
            fs::File::open(state)?.sync_all()?;
        }
        saved::replace(&self.folder, &number.to_string(), &wire::encode(signed))
    }
}

/// The record in a folder; `None` if there is none.
fn read(folder: &Path) -> Result<Option<Record>, Damage> {
    let names = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(Damage::Folder)?,
    };
    let mut numbers = Vec::new();
    for name in names {
        let name = name.map_err(Damage::Folder)?.file_name();
        let text = name.to_string_lossy();
        if text.ends_with(".new") {
            // A write that did not come to its end: the entry was not there yet.
            continue;
        }
        let number = text.parse::<u64>().ok().filter(|n| n.to_string() == text);
        numbers.push(number.ok_or_else(|| Damage::Stray(text.chars().take(80).collect()))?);
    }
    numbers.sort_unstable();
    let mut record: Option<Record> = None;
    for number in numbers {
        let signed = read_entry(folder, number)?;
        let refused = |refusal| Damage::Refused(number, refusal);
        match &mut record {
            None => record = Some(Record::begin(&signed, &Ecdsa).map_err(refused)?),
            Some(record) => record.apply(&signed, &Ecdsa).map_err(refused)?,
        }
    }
    Ok(record)
}

fn read_entry(folder: &Path, number: u64) -> Result<SignedEntry, Damage> {
    /// An entry with its signature.
    const MOST: u64 = MAX_ENTRY as u64 + 2048;
    let file = fs::File::open(folder.join(number.to_string())).map_err(|e| Damage::Unreadable(number, e))?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, MOST), &mut bytes)
        .map_err(|e| Damage::Unreadable(number, e))?;
    wire::decode(&bytes).map_err(|e| Damage::NoEntry(number, e))
}

fn summary(record: &Record) -> UnionSummary {
    let view = record.view();
    let name = |id| record.member(id).map_or_else(|| id.short(), |m| m.name.to_string());
    UnionSummary {
        name: record.name().to_string(),
        id: view.union.to_string(),
        epoch: view.epoch.0,
        entries: view.head.number.saturating_add(1),
        head: view.head.hash.to_string(),
        voters: record.voters().iter().map(name).collect(),
        members: view.members.len() as u64,
        software_tpms: view.settings.software_tpms,
        without_tpm: view.settings.without_tpm,
    }
}

fn damaged(why: &str) -> Fault {
    Fault::new(FaultKind::Integrity, "this server's copy of the union's record is damaged")
        .because(why.to_owned())
        .hint("restore the state directory of security from a backup; nothing was changed")
}

fn not_admitted(class: TpmClass) -> Fault {
    let (why, flag) = match class {
        TpmClass::None => ("this server has no TPM", "--allow-no-tpm"),
        _ => (
            "this server's TPM is software, which root of the server can make say anything",
            "--allow-software-tpm",
        ),
    };
    Fault::new(FaultKind::Denied, "the union would not let its own first member in")
        .because(why)
        .hint(format!("use a server with a hardware TPM, or allow it for the whole union: {flag}"))
}

fn no_founder() -> Fault {
    Fault::new(FaultKind::WrongState, "a server without a TPM begins no union")
        .because("it could sign nothing that others can hold it to")
        .hint("set tpm = \"software\" in member.toml, or begin it on a server with a TPM")
}
