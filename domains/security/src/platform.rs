//! This member's TPM as the rest of `security` has it: which one it is, that a software one runs, that what gtvpd measures goes into
//! it, and what others may ask of it. It decides nothing about trust.

use gtvp_model::hex::{hex, unhex};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use gtvp_appraisal::ek::EkKey;
use gtvp_appraisal::ownlog::EntryKind;
use gtvp_appraisal::tpm::Public;
use gtvp_ipc::Place;
use gtvp_ipc::security::{SignTls, TlsRole, TlsSignature};
use gtvp_ipc::supervisor::{MeasuredKind, Measurement, Measurements, ProcessEvent, Spawn, Watch};
use gtvp_model::digest::Digest;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::BoxName;
use gtvp_model::member::{MemberConfig, TPM_DEVICE, TpmEpoch, TpmView};
use gtvp_model::union::{TpmClass, UnionId};
use gtvp_protocol::csp::entry::signed_content;
use gtvp_protocol::csp::{Entry, Head};
use gtvp_protocol::gossip;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};

use crate::kernel_logs::KernelLogs;
use crate::key;
use crate::tpm::actor::{Measured, Tpm};
use crate::tpm::client::TpmError;
use crate::tpm::log::LogError;
use crate::tpm::tls::{CertificateVerify, Role};
use crate::tpm::transport::Address;

/// Where the software TPM listens, in this domain's jail.
const SOCKET: &str = "/tpm/tpm.sock";
/// The template that starts it.
const TEMPLATE: &str = "tpm";
/// A pause before gtvpd is asked again, or the TPM started again: never in a tight loop.
const PAUSE: Duration = Duration::from_secs(1);
/// What a thread needs that takes small messages apart.
const STACK: usize = 128 * 1024;
/// The longest transcript hash in hexadecimal (SHA-384); what is longer is refused before it is decoded.
const MAX_TRANSCRIPT: usize = 96;

/// The uid that the software TPM's template has.
pub fn software_uid(place: &Place) -> Option<u32> {
    Some(place.config.uid(place.callers.template.get(TEMPLATE)?.parse().ok()?))
}

/// The member's TPM, or that it has none.
pub struct Platform {
    class: TpmClass,
    tpm: Option<Tpm>,
    /// The identity of a member without a TPM.
    bare: Option<SigningKey>,
    logs: OnceLock<KernelLogs>,
}

impl Platform {
    /// Which one it is. `software_uid` is what the software TPM runs under. Touches nothing yet.
    pub fn open(config: &MemberConfig, software_uid: Option<u32>, state: &Path) -> std::io::Result<Self> {
        let class = config.tpm_class(Path::new(TPM_DEVICE).exists());
        let address = match class {
            TpmClass::None => {
                return key::load_or_make_identity(state).map(Self::bare).map_err(std::io::Error::other);
            }
            TpmClass::Hardware | TpmClass::Pinned => Address::Device(PathBuf::from(TPM_DEVICE)),
            TpmClass::Software => Address::Software { socket: PathBuf::from(SOCKET), uid: software_uid },
        };
        let tpm = Tpm::start(address, state.to_owned())?;
        Ok(Self::of(class, Some(tpm)))
    }

    /// One that is there already.
    pub fn of(class: TpmClass, tpm: Option<Tpm>) -> Self {
        Self { class, tpm, bare: None, logs: OnceLock::new() }
    }

    /// The same with these logs of firmware and kernel.
    #[must_use]
    pub fn with_logs(self, logs: KernelLogs) -> Self {
        Self { logs: OnceLock::from(logs), ..self }
    }

    /// None, and this key in its place: nothing that it signs says how this server is.
    pub fn bare(key: SigningKey) -> Self {
        Self { class: TpmClass::None, tpm: None, bare: Some(key), logs: OnceLock::new() }
    }

    /// The public half of [`Self::bare`]'s key, SEC1, uncompressed.
    pub fn bare_key(&self) -> Option<Vec<u8>> {
        let key = VerifyingKey::from(self.bare.as_ref()?);
        Some(key.to_encoded_point(false).as_bytes().to_vec())
    }

    /// Begins to keep a software TPM running and to take up what gtvpd measures. `supervisor` is gtvpd's socket.
    pub fn begin(self: &Arc<Self>, supervisor: &Path) -> std::io::Result<()> {
        let Some(tpm) = &self.tpm else { return Ok(()) };
        if self.class == TpmClass::Software {
            let (tpm, supervisor) = (tpm.clone(), supervisor.to_owned());
            let keep = move || {
                loop {
                    keep_running(&tpm, &supervisor);
                    thread::sleep(PAUSE);
                }
            };
            thread::Builder::new().name("software-tpm".into()).stack_size(STACK).spawn(keep)?;
        }
        if self.class == TpmClass::Hardware {
            // What firmware and kernel have measured is in the server's TPM, and in no software one.
            match KernelLogs::open(supervisor) {
                // Set once, here.
                Ok(logs) => drop(self.logs.set(logs)),
                // A verifier sees that they are missing.
                Err(e) => eprintln!("gtvp-security: evidence goes without the kernel's logs: {}", chain(&e)),
            }
        }
        let (tpm, supervisor) = (tpm.clone(), supervisor.to_owned());
        let listen = move || {
            loop {
                take_measurements(&tpm, &supervisor);
                thread::sleep(PAUSE);
            }
        };
        thread::Builder::new().name("measurements".into()).stack_size(STACK).spawn(listen).map(drop)
    }

    /// For people.
    pub fn view(&self) -> TpmView {
        let mut view = TpmView {
            class: self.class,
            ek: None,
            ek_certificate: false,
            epoch: None,
            log: None,
            problem: None,
        };
        let Some(tpm) = &self.tpm else { return view };
        match tpm.state() {
            Ok(state) => {
                view.ek = Public::parse(&state.identity.ek_public)
                    .ok()
                    .map(|public| EkKey::of_public(&public).fingerprint().0.to_string());
                view.ek_certificate = state.identity.ek_certificate.is_some();
                view.epoch = Some(TpmEpoch {
                    reset_count: state.clock.reset_count,
                    restart_count: state.clock.restart_count,
                    clock_ms: state.clock.clock,
                    safe: state.clock.safe,
                });
                view.log = Some(state.step.word().into());
            }
            Err(e) => view.problem = Some(chain(&e)),
        }
        view
    }

    /// The logs of firmware and kernel that belong to this TPM. To be read after the quote that they go with: the kernel adds to
    /// its log before it extends.
    pub fn kernel_logs(&self) -> Option<&KernelLogs> {
        self.logs.get()
    }

    /// What it is.
    pub fn class(&self) -> TpmClass {
        self.class
    }

    /// The way to it; `None` where there is none.
    pub fn way(&self) -> Option<&Tpm> {
        self.tpm.as_ref()
    }

    /// Writes into the log that a box is about to start. With a TPM that cannot be reached the box starts all the same: what was not
    /// written is before the next quote, and without one nobody trusts this member.
    pub fn measure_box(&self, name: &BoxName, composition: Digest) -> Result<(), Fault> {
        let Some(tpm) = &self.tpm else { return Ok(()) };
        let kind = EntryKind::Composition;
        match tpm.measure(Measured { kind, subject: name.to_string(), value: composition }) {
            Err(TpmError::Log(LogError::Full)) => {
                Err(Fault::new(FaultKind::NoRoom, "the log of measurements is full")
                    .hint("it begins anew when the server is started again"))
            }
            Err(e) => {
                eprintln!("gtvp-security: the start of {name} waits for the TPM: {}", chain(&e));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// The way to it, or why there is none.
    pub fn tpm(&self) -> Result<&Tpm, Fault> {
        self.tpm.as_ref().ok_or_else(|| {
            Fault::new(FaultKind::WrongState, "this member has no TPM")
                .hint("turn on the TPM in the firmware, or set tpm = \"software\" in member.toml")
        })
    }

    /// Signs this side of a TLS handshake.
    pub fn sign_tls(&self, request: &SignTls) -> Result<TlsSignature, Fault> {
        let invalid = |why: &str| Fault::new(FaultKind::Invalid, why);
        let text = &request.transcript;
        let transcript = Some(text).filter(|t| t.len() <= MAX_TRANSCRIPT).and_then(unhex);
        let transcript = transcript.ok_or_else(|| invalid("the transcript hash is not hexadecimal"))?;
        let role = match request.role {
            TlsRole::Server => Role::Server,
            TlsRole::Client => Role::Client,
        };
        let what = CertificateVerify::new(role, transcript).map_err(|e| invalid(&e.to_string()))?;
        let signature = match &self.bare {
            Some(key) => by(key, &what.content()),
            None => self.tpm()?.sign_tls(what).map_err(|e| fault(&e))?,
        };
        Ok(TlsSignature { value: hex(&signature.concat()) })
    }

    /// The identity key's signature over an entry of the union's record: r and s.
    pub fn sign_entry(&self, entry: &Entry) -> Result<[[u8; 32]; 2], Fault> {
        match &self.bare {
            Some(key) => Ok(by(key, &signed_content(&entry.encode()))),
            None => self.tpm()?.sign_entry(entry).map_err(|e| fault(&e)),
        }
    }

    /// The same over an entry that is passed on in this union.
    pub fn sign_gossip(&self, union: UnionId, entry: &gossip::Entry) -> Result<[[u8; 32]; 2], Fault> {
        match &self.bare {
            Some(key) => Ok(by(key, &gossip::content(union, entry))),
            None => self.tpm()?.sign_gossip(union, entry).map_err(|e| fault(&e)),
        }
    }

    /// The same over a head of the record. Only members with a TPM vote.
    pub fn sign_head(&self, head: &Head) -> Result<[[u8; 32]; 2], Fault> {
        self.tpm()?.sign_head(head).map_err(|e| fault(&e))
    }
}

/// ECDSA with SHA-256: r and s.
fn by(key: &SigningKey, content: &[u8]) -> [[u8; 32]; 2] {
    let signature: Signature = key.sign(content);
    let (r, s) = signature.split_bytes();
    [r.into(), s.into()]
}

/// An error and its causes, once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // A transparent error repeats its source's words.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// What others hear of it.
pub(crate) fn fault(error: &TpmError) -> Fault {
    let kind = match error {
        TpmError::Unfit(_) => FaultKind::Invalid,
        _ => FaultKind::Unavailable,
    };
    Fault::new(kind, "the TPM did not do it").because(chain(error))
}

/// Starts the software TPM if it does not run, again when it ends, until gtvpd is gone.
fn keep_running(tpm: &Tpm, supervisor: &Path) {
    let mut runs = false;
    let heard = |event: ProcessEvent| {
        match event {
            ProcessEvent::Running { template, .. } | ProcessEvent::Restarted { template, .. }
                if template == TEMPLATE =>
            {
                runs = true;
            }
            ProcessEvent::Current if !runs => start(tpm, supervisor),
            ProcessEvent::Ended(ended) if ended.template == TEMPLATE => {
                eprintln!("gtvp-security: the software TPM ended ({}): it starts again, reset", ended.how);
                // What it is reset for may still be there.
                thread::sleep(PAUSE);
                start(tpm, supervisor);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    };
    let Err(e) = gtvp_ipc::call_with(supervisor, &Watch {}, &[], heard) else { return };
    eprintln!("gtvp-security: {}", chain(&e));
}

fn start(tpm: &Tpm, supervisor: &Path) {
    let spawn = Spawn { template: TEMPLATE.into(), slot: None, params: Default::default(), fds: Vec::new() };
    if let Err(e) = gtvp_ipc::call(supervisor, &spawn) {
        eprintln!("gtvp-security: the software TPM does not start: {}", chain(&e));
        return;
    }
    if let Err(e) = tpm.reconnect() {
        eprintln!("gtvp-security: {}", chain(&e));
    }
}

/// Takes up what gtvpd measures, until gtvpd is gone.
fn take_measurements(tpm: &Tpm, supervisor: &Path) {
    let mut failed: Option<String> = None;
    let heard = |m: Measurement| {
        let measured = Measured { kind: kind(m.kind), subject: m.subject, value: m.value };
        // What could not be extended now is when the TPM can be reached: it is remembered there.
        let now = tpm.measure(measured).err().map(|e| chain(&e));
        if let Some(why) = now.as_ref().filter(|_| now != failed) {
            eprintln!("gtvp-security: a measurement waits for the TPM: {why}");
        }
        failed = now;
        ControlFlow::Continue(())
    };
    let Err(e) = gtvp_ipc::call_with(supervisor, &Measurements {}, &[], heard) else { return };
    eprintln!("gtvp-security: {}", chain(&e));
}

fn kind(kind: MeasuredKind) -> EntryKind {
    match kind {
        MeasuredKind::Start => EntryKind::Start,
        MeasuredKind::Binary => EntryKind::Binary,
        MeasuredKind::Topology => EntryKind::Topology,
        MeasuredKind::Configuration => EntryKind::Configuration,
        MeasuredKind::Template => EntryKind::Template,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> Platform {
        Platform::of(TpmClass::None, None)
    }

    #[test]
    fn a_member_without_a_tpm_says_so_and_signs_nothing() {
        let view = none().view();
        assert_eq!((view.class, view.ek, view.problem), (TpmClass::None, None, None));
        let ask = |transcript: &str| {
            none()
                .sign_tls(&SignTls { role: TlsRole::Client, transcript: transcript.into() })
                .unwrap_err()
                .kind
        };
        assert_eq!(ask(&"00".repeat(32)), FaultKind::WrongState);
    }

    #[test]
    fn a_member_without_a_tpm_has_no_evidence_and_says_what_to_do() {
        let refused = crate::attest::answer(&crate::attest::Asked {
            platform: &none(),
            manifests: &Vec::new,
            state: Path::new("/nonexistent"),
            nonce: &"0a".repeat(32),
            others: None,
        })
        .unwrap_err();
        assert_eq!(
            (refused.kind, refused.message.as_str()),
            (FaultKind::WrongState, "this member has no TPM")
        );
        assert!(refused.hint.unwrap_or_default().contains("member.toml"));
    }

    #[test]
    fn what_is_no_transcript_hash_is_refused_before_the_tpm_hears_of_it() {
        for bad in ["", "00", &"00".repeat(31), &"zz".repeat(32), &"00".repeat(49), &"00".repeat(1 << 20)] {
            let request = SignTls { role: TlsRole::Server, transcript: (*bad).into() };
            assert_eq!(none().sign_tls(&request).unwrap_err().kind, FaultKind::Invalid);
        }
    }
}
