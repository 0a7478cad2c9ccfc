//! The one thread that holds the TPM. Others ask it through [`Tpm`] and wait; it answers one after the other, strangers last, keeps the keys
//! loaded, and begins again when the TPM was reset or its connection lost. Between questions it sleeps.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

use gtvp_appraisal::alg::{HashAlg, LogDigest};
use gtvp_appraisal::cose::Unsigned;
use gtvp_appraisal::ownlog::{self, EntryKind, OwnEntry};
use gtvp_appraisal::tpm::Signature;
use gtvp_model::digest::Digest;
use gtvp_model::union::UnionId;
use gtvp_protocol::csp::entry::signed_content;
use gtvp_protocol::csp::{Entry, Head};
use gtvp_protocol::gossip;

use super::client::{Client, TpmError};
use super::commands::{Attested, Clock, ecdsa};
use super::keys::{self, Identity, Keys};
use super::lanes::{Lane, Lanes, NotTaken};
use super::log::{Log, LogError, Opened, Step};
use super::pcrs::{Bank, Quote, Selection};
use super::promises::{self, Promised};
use super::tls::{CertificateVerify, Role};
use super::transport::Address;

/// What a thread needs whose largest buffer is a TPM's message.
const STACK: usize = 256 * 1024;

/// Something that was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// What it says.
    pub kind: EntryKind,
    /// About what.
    pub subject: String,
    /// SHA-256.
    pub value: Digest,
}

/// How the TPM and its log are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Public parts of the keys.
    pub identity: Identity,
    /// Which life of the TPM this is, and how far it is.
    pub clock: Clock,
    /// How log and PCR stand to each other.
    pub step: Step,
    /// Resets and lost connections that this process has lived through.
    pub reconnects: u64,
}

/// A quote, with the log as it was at that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The quote, and the values of its PCRs.
    pub quote: Quote,
    /// GTVP's own log from the offset asked for.
    pub log: Vec<u8>,
    /// Length of the whole log.
    pub log_size: usize,
}

type Question = Box<dyn FnOnce(&mut Holder) + Send>;

/// The way to the TPM's thread. Copies lead to the same one.
#[derive(Clone)]
pub struct Tpm {
    way: Arc<Way>,
    lane: Lane,
}

/// The thread ends when nobody has one any more.
struct Way(Arc<Lanes<Question>>);

impl Drop for Way {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// However the thread ends, nobody waits for it.
struct Serving(Arc<Lanes<Question>>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Tpm {
    /// Starts the thread. `folder` is where keys and log lie. Nothing is sent to the TPM before the first question.
    pub fn start(address: Address, folder: PathBuf) -> io::Result<Self> {
        let lanes = Arc::new(Lanes::default());
        let serving = Serving(lanes.clone());
        let holder = Holder {
            address,
            folder,
            measured: Vec::new(),
            held: None,
            reconnects: 0,
            connected_before: false,
        };
        thread::Builder::new().name("tpm".into()).stack_size(STACK).spawn(move || serve(holder, &serving))?;
        Ok(Self { way: Arc::new(Way(lanes)), lane: Lane::Own })
    }

    /// The same TPM for what another member has asked for: whatever this one itself needs comes first.
    #[must_use]
    pub fn for_member(&self) -> Self {
        Self { way: self.way.clone(), lane: Lane::Member }
    }

    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Holder) -> Result<T, TpmError> + Send + 'static,
    ) -> Result<T, TpmError> {
        self.ask_in(self.lane, question)
    }

    fn ask_in<T: Send + 'static>(
        &self,
        lane: Lane,
        question: impl FnOnce(&mut Holder) -> Result<T, TpmError> + Send + 'static,
    ) -> Result<T, TpmError> {
        let (answer, wait) = sync_channel(1);
        let question = move |holder: &mut Holder| {
            // Whoever asked may be gone.
            let _ = answer.send(question(holder));
        };
        self.way.0.put(lane, Box::new(question)).map_err(|e| match e {
            NotTaken::Full => TpmError::Busy,
            NotTaken::Closed => TpmError::Ended,
        })?;
        // Who is let go without an answer has waited too long, if it is a stranger.
        let gone = || if lane == Lane::Stranger { TpmError::Busy } else { TpmError::Ended };
        wait.recv().map_err(|_| gone())?
    }

    /// How many questions wait: this member's own, other members', strangers'.
    pub fn waiting(&self) -> (usize, usize, usize) {
        self.way.0.waiting()
    }

    /// How it is. Connects if need be.
    pub fn state(&self) -> Result<State, TpmError> {
        self.ask(|holder| {
            let clock = holder.with(|held| held.client.read_clock())?;
            let reconnects = holder.reconnects;
            holder.with(|held| {
                Ok(State { identity: held.keys.identity.clone(), clock, step: held.log.step(), reconnects })
            })
        })
    }

    /// A quote of these PCRs over `qualifying` (at most 64 bytes), with the values that it covers and the log from
    /// `log_from` on (its length, if it is shorter).
    pub fn evidence(
        &self,
        selection: Selection,
        qualifying: Vec<u8>,
        log_from: usize,
    ) -> Result<Evidence, TpmError> {
        self.ask(move |holder| {
            holder.with(|held| {
                let quote = held.client.quote_with_values(held.keys.ak.handle, &qualifying, selection)?;
                if (quote.clock.reset_count, quote.clock.restart_count) != held.log.life() {
                    return Err(TpmError::WasReset);
                }
                let entries = held.log.entries();
                let log = entries.get(log_from..).unwrap_or_default().to_vec();
                Ok(Evidence { quote, log, log_size: entries.len() })
            })
        })
    }

    /// How long the log is, bytes.
    pub fn log_size(&self) -> Result<usize, TpmError> {
        self.ask(|holder| holder.with(|held| Ok(held.log.entries().len())))
    }

    /// The attestation key's word on the TLS identity key, over `qualifying`.
    pub fn certify_tls(&self, qualifying: Vec<u8>) -> Result<Attested, TpmError> {
        if qualifying.len() > super::pcrs::MAX_QUALIFYING {
            return Err(TpmError::Unfit("a certification covers at most 64 bytes of its challenger's"));
        }
        self.ask(move |holder| {
            holder.with(|held| held.client.certify(held.keys.tls.handle, held.keys.ak.handle, &qualifying))
        })
    }

    /// The secret in a credential that was made for this TPM and this attestation key.
    pub fn activate_credential(&self, blob: Vec<u8>, secret: Vec<u8>) -> Result<Vec<u8>, TpmError> {
        self.ask(move |holder| {
            holder.with(|held| keys::activate(&mut held.client, &held.keys, &blob, &secret))
        })
    }

    /// An object of `security`'s own making, with the attestation key's signature: an attestation result. The key is restricted,
    /// and the object begins like no attestation.
    pub fn sign_result(&self, unsigned: Unsigned) -> Result<Vec<u8>, TpmError> {
        self.ask(move |holder| {
            let message = unsigned.to_be_signed();
            let signature = holder.with(|held| held.client.sign_hashed(held.keys.ak.handle, &message))?;
            let untrue = TpmError::Untrue { command: "Sign", why: "it is no signature of this key's kind" };
            let Ok(signature) = Signature::parse(&signature) else { return Err(untrue) };
            unsigned.signed(&signature).map_err(|_| untrue)
        })
    }

    /// The TLS identity key's signature in a TLS 1.3 handshake: r and s. Who connects to this member may be anybody, and waits as a stranger.
    pub fn sign_tls(&self, what: CertificateVerify) -> Result<[[u8; 32]; 2], TpmError> {
        let lane = match what.role() {
            Role::Server => Lane::Stranger,
            Role::Client => Lane::Own,
        };
        self.sign_as_identity(lane, what.digest())
    }

    /// The TLS identity key's signature over an entry of the union's record: r and s. What is signed begins with a label, and no
    /// handshake's content does.
    pub fn sign_entry(&self, entry: &Entry) -> Result<[[u8; 32]; 2], TpmError> {
        self.sign_as_identity(Lane::Own, Digest::of(&signed_content(&entry.encode())).0)
    }

    /// The same over an entry that is passed on in this union: r and s. Its label is another.
    pub fn sign_gossip(&self, union: UnionId, entry: &gossip::Entry) -> Result<[[u8; 32]; 2], TpmError> {
        self.sign_as_identity(Lane::Own, Digest::of(&gossip::content(union, entry)).0)
    }

    /// The same over a head of the record: r and s. Its label is another.
    pub fn sign_head(&self, head: &Head) -> Result<[[u8; 32]; 2], TpmError> {
        self.sign_as_identity(Lane::Own, Digest::of(&head.signed_content()).0)
    }

    /// By the TLS identity key, over the SHA-256 of what the three above put together.
    fn sign_as_identity(&self, lane: Lane, digest: [u8; 32]) -> Result<[[u8; 32]; 2], TpmError> {
        self.ask_in(lane, move |holder| {
            let signature = holder.with(|held| held.client.sign(held.keys.tls.handle, &digest))?;
            ecdsa(&signature).map_err(|source| TpmError::Malformed { command: "Sign", source })
        })
    }

    /// What this member has promised, as the TPM has it: see [`promises`].
    pub fn promised(&self) -> Result<Option<Promised>, TpmError> {
        self.ask(|holder| holder.with(|held| promises::read(&mut held.client)))
    }

    /// Makes sure that promises can be counted.
    pub fn prepare_promises(&self) -> Result<(), TpmError> {
        self.ask(|holder| holder.with(|held| promises::prepare(&mut held.client)))
    }

    /// Counts a promise. It is in the TPM when this returns.
    pub fn count_promise(&self, promised: Promised) -> Result<(), TpmError> {
        self.ask(move |holder| holder.with(|held| promises::raise(&mut held.client, promised)))
    }

    /// Counts from this one on, whatever was promised before.
    pub fn set_promised(&self, promised: Promised) -> Result<(), TpmError> {
        self.ask(move |holder| holder.with(|held| promises::set(&mut held.client, promised)))
    }

    /// Writes into the log what was measured, and extends it. What the log says already is not repeated.
    pub fn measure(&self, measured: Measured) -> Result<(), TpmError> {
        self.ask(move |holder| holder.measure(measured))
    }

    /// [`Self::measure`] without waiting for it: it comes before whatever is asked later.
    pub fn measure_later(&self, measured: Measured) {
        let question = move |holder: &mut Holder| {
            if let Err(e) = holder.measure(measured) {
                // It is remembered, and extended when the TPM can be reached again.
                eprintln!("gtvp-security: a measurement waits for its TPM: {}", crate::platform::chain(&e));
            }
        };
        // One that has ended needs none.
        let _ = self.way.0.put(Lane::Own, Box::new(question));
    }

    /// The connection is to be made anew: the software TPM was started again.
    pub fn reconnect(&self) -> Result<(), TpmError> {
        self.ask(|holder| {
            holder.held = None;
            holder.connected().map(drop)
        })
    }
}

fn serve(mut holder: Holder, serving: &Serving) {
    while let Some(question) = serving.0.take() {
        question(&mut holder);
    }
}

/// What belongs to one connection.
struct Held {
    client: Client,
    keys: Keys,
    log: Log,
    /// Whether the TPM has a SHA-384 bank too, which is then kept like the other.
    sha384: bool,
}

struct Holder {
    address: Address,
    folder: PathBuf,
    /// Everything that was measured while this process has lived: a reset TPM has to hear it again.
    measured: Vec<Measured>,
    held: Option<Held>,
    reconnects: u64,
    connected_before: bool,
}

impl Holder {
    fn connected(&mut self) -> Result<&mut Held, TpmError> {
        // Not `match &mut self.held`: a borrow that is returned in one arm lives through the others.
        if self.held.is_none() {
            let mut held = self.connect()?;
            if self.connected_before {
                self.reconnects += 1;
            }
            self.connected_before = true;
            for measured in &self.measured {
                match held.record(measured) {
                    // It is told to whoever measures next; quotes of what fits go on.
                    Err(TpmError::Log(LogError::Full)) => break,
                    other => other?,
                }
            }
            self.held = Some(held);
        }
        self.held.as_mut().ok_or(TpmError::Ended)
    }

    fn connect(&self) -> Result<Held, TpmError> {
        let mut client = Client::open(&self.address)?;
        let keys = Keys::load_or_make(&mut client, &self.folder)?;
        let clock = client.read_clock()?;
        let value = own_pcr(&mut client, Bank::Sha256)?;
        let sha384 = match own_pcr(&mut client, Bank::Sha384) {
            Ok(_) => true,
            Err(TpmError::Unfit(_)) => false,
            Err(e) => return Err(e),
        };
        let (log, then) = Log::open(&self.folder, (clock.reset_count, clock.restart_count), value)?;
        let mut held = Held { client, keys, log, sha384 };
        if let (Opened::ExtendLast, Some((short, long))) = (then, held.log.last()) {
            held.extend(&short, &long)?;
            held.log.repaired();
        }
        Ok(held)
    }

    /// Runs `f`; once more on a new connection if what it needed was lost.
    fn with<T>(&mut self, f: impl Fn(&mut Held) -> Result<T, TpmError>) -> Result<T, TpmError> {
        let was_connected = self.held.is_some();
        let first = self.connected().and_then(&f);
        let Err(e) = first else { return first };
        if !e.is_lost() {
            return Err(e);
        }
        self.held = None;
        if !was_connected {
            // That was a new connection already.
            return Err(e);
        }
        let second = self.connected().and_then(&f);
        if second.as_ref().is_err_and(TpmError::is_lost) {
            self.held = None;
        }
        second
    }

    fn measure(&mut self, measured: Measured) -> Result<(), TpmError> {
        let same = |m: &&mut Measured| m.kind == measured.kind && m.subject == measured.subject;
        let full = self.measured.len() >= ownlog::MAX_ENTRIES;
        match self.measured.iter_mut().find(same) {
            Some(known) => known.value = measured.value,
            None if full => return Err(LogError::Full.into()),
            None => self.measured.push(measured.clone()),
        }
        let done = self.with(|held| held.record(&measured));
        if !matches!(done, Ok(()) | Err(TpmError::Log(LogError::Full))) {
            // Log and PCR may be one entry apart: that is looked at when they are opened again, and then all are said again.
            self.held = None;
        }
        done
    }
}

impl Held {
    fn record(&mut self, measured: &Measured) -> Result<(), TpmError> {
        let entry = OwnEntry::new(measured.kind, &measured.subject, measured.value)
            .map_err(|_| TpmError::Unfit("what was measured has too long a name"))?;
        if self.log.says(&entry) {
            return Ok(());
        }
        self.log.append(&entry)?;
        self.extend(&entry.digest(HashAlg::Sha256), &entry.digest(HashAlg::Sha384))
    }

    fn extend(&mut self, short: &LogDigest, long: &LogDigest) -> Result<(), TpmError> {
        let banks: &[(Bank, &LogDigest)] = if self.sha384 {
            &[(Bank::Sha256, short), (Bank::Sha384, long)]
        } else {
            &[(Bank::Sha256, short)]
        };
        let values: Vec<(u16, &[u8])> = banks.iter().map(|(b, v)| (b.algorithm(), v.as_bytes())).collect();
        self.client.pcr_extend(ownlog::PCR.get().into(), &values)
    }
}

fn own_pcr(client: &mut Client, bank: Bank) -> Result<LogDigest, TpmError> {
    let unfit = TpmError::Unfit("the log's PCR does not exist");
    let selection = Selection::new(bank, [u32::from(ownlog::PCR.get())]).ok_or(unfit)?;
    let (values, _) = client.pcr_read(selection)?;
    let alg = match bank {
        Bank::Sha256 => HashAlg::Sha256,
        Bank::Sha384 => HashAlg::Sha384,
    };
    let value = values.first().and_then(|v| LogDigest::new(alg, v).ok());
    value.ok_or(TpmError::Untrue { command: "PCR_Read", why: "a value is missing" })
}
