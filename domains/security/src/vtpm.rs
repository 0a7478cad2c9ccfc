//! The boxes' vTPMs: one swtpm a running box, in a jail of its own, whose only client is this domain. What is linked to the box is
//! extended; the member's own log names the vTPM's key, which makes the chain from the member's TPM to the box (docs/spec/evidence.md,
//! "Boxes"). A vTPM and its keys live as long as the box runs. It decides nothing about a box.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::{fs, io, thread};

use gtvp_appraisal::boxes::{self, BoxEvidence};
use gtvp_appraisal::evidence::LogPart;
use gtvp_appraisal::file::{AboutBox, EvidenceFile};
use gtvp_appraisal::ownlog::{self, EntryKind};
use gtvp_ipc::security::AttestBox;
use gtvp_ipc::supervisor::{Kill, ProcessEvent, Spawn, Watch};
use gtvp_model::digest::Digest;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::{BoxName, Slot};
use gtvp_model::member::MemberConfig;

use crate::platform::{Platform, chain, fault};
use crate::tpm::actor::{Measured, Tpm};
use crate::tpm::client::TpmError;
use crate::tpm::pcrs::{Bank, Selection};
use crate::tpm::saved;
use crate::tpm::transport::Address;

/// The template that starts one.
const TEMPLATE: &str = "vtpm";
/// Which of a box's uids it has.
const WHICH: u32 = 2;
/// Where their sockets are, a folder each, in this domain's jail.
const SOCKETS: &str = "/vtpm";
/// Where each has its keys' and log's file, in this domain's folder.
const FOLDER: &str = "vtpm";
/// Whose it is, in that folder.
const NAME: &str = "box";
/// What a thread needs that calls gtvpd.
const STACK: usize = 128 * 1024;

/// All of them.
pub struct Vtpms {
    platform: Arc<Platform>,
    config: MemberConfig,
    supervisor: PathBuf,
    folder: PathBuf,
    boxes: Mutex<HashMap<Slot, Vtpm>>,
}

struct Vtpm {
    name: BoxName,
    tpm: Tpm,
    /// Whether the member has measured its key, or will not any more.
    begun: Begun,
}

/// Something that is waited for.
#[derive(Clone, Default)]
struct Begun(Arc<(Mutex<bool>, Condvar)>);

impl Begun {
    fn tell(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let guard = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.0.1.wait_while(guard, |begun| !*begun));
    }
}

impl Vtpms {
    /// None yet. `supervisor` is gtvpd's socket, `state` this domain's folder.
    pub fn new(platform: Arc<Platform>, config: MemberConfig, supervisor: PathBuf, state: &Path) -> Self {
        let folder = state.join(FOLDER);
        Self { platform, config, supervisor, folder, boxes: Mutex::default() }
    }

    fn boxes(&self) -> MutexGuard<'_, HashMap<Slot, Vtpm>> {
        self.boxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder_of(&self, slot: Slot) -> PathBuf {
        self.folder.join(slot.get().to_string())
    }

    fn open(&self, slot: Slot) -> io::Result<Tpm> {
        let socket = Path::new(SOCKETS).join(slot.get().to_string()).join("tpm.sock");
        let uid = Some(self.config.box_uid(slot, WHICH));
        Tpm::start(Address::Software { socket, uid }, self.folder_of(slot))
    }

    /// Finds those again that have outlived this domain's last process. To be called once, first.
    pub fn recover(&self) {
        let mut found = Vec::new();
        let heard = |event: ProcessEvent| match event {
            ProcessEvent::Running { template, slot: Some(slot), .. } if template == TEMPLATE => {
                found.push(slot);
                ControlFlow::Continue(())
            }
            ProcessEvent::Current => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        // Its end is our own breaking off, or gtvpd's: then there is nothing to find.
        let _ = gtvp_ipc::call_with(&self.supervisor, &Watch {}, &[], heard);
        for slot in found {
            let name = fs::read_to_string(self.folder_of(slot).join(NAME)).ok().and_then(|n| n.parse().ok());
            match (name, self.open(slot)) {
                (Some(name), Ok(tpm)) => {
                    let begun = Begun::default();
                    begun.tell();
                    self.boxes().insert(slot, Vtpm { name, tpm, begun });
                }
                // What it has seen is not known: it is of no use to anybody.
                _ => self.end(slot).unwrap_or_else(|e| eprintln!("gtvp-security: {e}")),
            }
        }
    }

    /// Begins a box's vTPM; without a TPM of the member there is none, since nothing would stand behind it. Does not wait: what is
    /// linked meanwhile is extended as soon as it runs.
    pub fn begin(self: &Arc<Self>, slot: Slot, name: &BoxName) -> Result<(), Fault> {
        if self.platform.way().is_none() {
            return Ok(());
        }
        let cannot = |e: io::Error| Fault::internal("the box's vTPM cannot be begun", &e);
        self.end(slot)?;
        let folder = self.folder_of(slot);
        fs::create_dir_all(&folder).map_err(cannot)?;
        saved::replace(&folder, NAME, name.as_str().as_bytes()).map_err(cannot)?;
        let tpm = self.open(slot).map_err(cannot)?;
        let begun = Begun::default();
        self.boxes().insert(slot, Vtpm { name: name.clone(), tpm: tpm.clone(), begun: begun.clone() });
        let (all, name) = (self.clone(), name.clone());
        let start = move || {
            if let Err(e) = all.start(slot, &name, &tpm) {
                eprintln!("gtvp-security: the vTPM of {name}: {e}");
            }
            begun.tell();
        };
        thread::Builder::new().name("vtpm".into()).stack_size(STACK).spawn(start).map(drop).map_err(cannot)
    }

    fn start(&self, slot: Slot, name: &BoxName, tpm: &Tpm) -> Result<(), Fault> {
        let spawn = Spawn {
            template: TEMPLATE.into(),
            slot: Some(slot),
            params: Default::default(),
            fds: Vec::new(),
        };
        gtvp_ipc::call(&self.supervisor, &spawn)?;
        let key = tpm.state().map_err(|e| fault(&e))?.identity.ak_public;
        let measured = Measured { kind: EntryKind::Vtpm, subject: name.to_string(), value: Digest::of(&key) };
        self.platform.tpm()?.measure(measured).map_err(|e| fault(&e))
    }

    /// A component is linked to the box.
    pub fn linked(&self, slot: Slot, reference: &str, source: Digest) {
        let Some(tpm) = self.boxes().get(&slot).map(|v| v.tpm.clone()) else { return };
        let measured = Measured { kind: EntryKind::Component, subject: reference.to_owned(), value: source };
        tpm.measure_later(measured);
    }

    /// The box is about to be started from a template.
    pub fn started_from(&self, slot: Slot, template: Digest) {
        let Some(tpm) = self.boxes().get(&slot).map(|v| v.tpm.clone()) else { return };
        let subject = boxes::TEMPLATE.to_owned();
        tpm.measure_later(Measured { kind: EntryKind::Booted, subject, value: template });
    }

    /// Ends the box's vTPM, if there is one.
    pub fn end(&self, slot: Slot) -> Result<(), Fault> {
        self.boxes().remove(&slot);
        gtvp_ipc::call(&self.supervisor, &Kill { template: TEMPLATE.into(), slot })?;
        match fs::remove_dir_all(self.folder_of(slot)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Fault::internal("what is kept of the box's vTPM cannot be removed", &e))
            }
            _ => Ok(()),
        }
    }

    /// The box's vTPM, when the member has measured its key.
    pub fn of(&self, slot: Slot, name: &BoxName) -> Result<Tpm, Fault> {
        let found =
            self.boxes().get(&slot).filter(|v| v.name == *name).map(|v| (v.tpm.clone(), v.begun.clone()));
        let (tpm, begun) = found.ok_or_else(|| {
            Fault::new(FaultKind::WrongState, format!("box {name} has no vTPM"))
                .because("it was started before this member had a TPM, or its vTPM has ended")
                .hint("stop the box and start it again")
        })?;
        begun.wait();
        Ok(tpm)
    }

    /// The member's evidence with the box's, whose vTPM this is.
    pub fn attest(
        tpm: &Tpm,
        asked: &AttestBox,
        nonce: &[u8],
        mut file: EvidenceFile,
    ) -> Result<EvidenceFile, Fault> {
        let name = &asked.name;
        let pcr = Selection::new(Bank::Sha256, [u32::from(ownlog::PCR.get())]);
        let pcr = pcr.ok_or_else(|| Fault::new(FaultKind::Internal, "there is no PCR to quote"))?;
        let failed = |e: TpmError| lost(name, &e);
        let key = tpm.state().map_err(failed)?.identity.ak_public;
        let bound = boxes::qualifying_data(&file.evidence.quote, nonce).0.to_vec();
        let found = tpm.evidence(pcr, bound, 0).map_err(failed)?;
        let evidence = BoxEvidence {
            name: name.clone(),
            composition: asked.composition.clone(),
            ak: key,
            pcrs: crate::evidence::values(&found.quote)?,
            quote: found.quote.attest,
            signature: found.quote.signature,
            log: found.log,
        };
        // What its reader would refuse is not given out as evidence: a vTPM that was begun anew, a log that was cut.
        let own: &[u8] = match &file.evidence.own {
            LogPart::From { bytes, .. } => bytes,
            LogPart::Absent => &[],
        };
        boxes::check(&evidence, own, &file.evidence.quote, nonce).map_err(|e| {
            Fault::new(FaultKind::WrongState, format!("box {name} cannot prove what it runs"))
                .because(chain(&e))
                .hint("stop the box and start it again")
        })?;
        file.about = Some(AboutBox { evidence, nonce: nonce.to_vec() });
        Ok(file)
    }
}

/// Why a box's vTPM does not answer. It does not begin anew while the box runs: what it had seen went with it.
fn lost(name: &BoxName, error: &TpmError) -> Fault {
    match error {
        TpmError::Transport(_) => {
            Fault::new(FaultKind::WrongState, format!("the vTPM of box {name} has ended"))
                .because("what it had seen of the box went with it, so the box has no evidence")
                .because(chain(error))
                .hint("stop the box and start it again")
        }
        other => fault(other),
    }
}
