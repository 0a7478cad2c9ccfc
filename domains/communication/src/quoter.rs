//! One quote for all who ask in the same while: one thread that gathers challenges, has `security` quote once, and gives each
//! challenger its part.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

use gtvp_ipc::security::{Challenged, Quote, QuoteAnswer, Quoted};
use gtvp_protocol::hsp::message::Ask;
use gtvp_protocol::hsp::{Batcher, Binding, Lengths, LogDelta, OwnEvidence};

use crate::clock;
use crate::security::Security;

/// What comes of a challenge.
pub type Outcome = Result<Box<OwnEvidence>, String>;

/// Somebody's challenge.
pub struct Wanted {
    /// What our evidence is to be bound to.
    pub binding: Box<Binding>,
    /// What is asked.
    pub ask: Ask,
    /// For how long it may wait for others; `None`, in a handshake: not at all.
    pub waits: Option<Lengths>,
    /// Takes what comes of it.
    pub reply: Box<dyn FnOnce(Outcome) + Send>,
}

/// See the module.
#[derive(Clone)]
pub struct Quoter(Sender<Wanted>);

impl Quoter {
    /// Starts its thread, which ends when nobody has it any more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(security: Arc<dyn Security>) -> std::io::Result<Self> {
        let (sender, wanted) = channel();
        std::thread::Builder::new()
            .name("quotes".into())
            .stack_size(512 * 1024)
            .spawn(move || run(&*security, &wanted))?;
        Ok(Self(sender))
    }

    /// Asks for evidence.
    pub fn ask(&self, wanted: Wanted) {
        // The thread ends only with the process.
        let _ = self.0.send(wanted);
    }
}

/// Who waits.
struct Line {
    batcher: Batcher<u64>,
    lengths: Lengths,
    waiting: BTreeMap<u64, Wanted>,
    last: u64,
}

impl Line {
    fn add(&mut self, one: Wanted) {
        if let Some(lengths) = one.waits
            && lengths != self.lengths
            && self.waiting.is_empty()
        {
            (self.batcher, self.lengths) = (Batcher::new(lengths), lengths);
        }
        self.last += 1;
        let urgent = one.waits.is_none();
        match self.batcher.add(self.last, &one.binding, &one.ask.selection, urgent, clock::now()) {
            Ok(()) => drop(self.waiting.insert(self.last, one)),
            Err(full) => (one.reply)(Err(full.to_string())),
        }
    }
}

fn run(security: &dyn Security, wanted: &Receiver<Wanted>) {
    let at_once = Lengths { period: 0, window: 0 };
    let mut line =
        Line { batcher: Batcher::new(at_once), lengths: at_once, waiting: BTreeMap::new(), last: 0 };
    loop {
        let next = match line.batcher.deadline() {
            None => wanted.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => wanted.recv_timeout(clock::until(at)),
        };
        match next {
            Ok(one) => line.add(one),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // Whoever has asked meanwhile goes into the same quote.
        wanted.try_iter().for_each(|more| line.add(more));
        while let Some(sealed) = line.batcher.poll(clock::now()) {
            let who: Vec<Wanted> =
                sealed.answers.iter().filter_map(|(key, _)| line.waiting.remove(key)).collect();
            let challenged =
                |w: &Wanted| Challenged { binding: (*w.binding).clone(), held: w.ask.held.clone() };
            let quote =
                Quote { selection: sealed.selection, challenges: who.iter().map(challenged).collect() };
            let outcome = security.quote(&quote).map_err(|fault| fault.to_string());
            line.batcher.done();
            answer(who, outcome);
        }
    }
}

fn answer(who: Vec<Wanted>, outcome: Result<(Quoted, Vec<u8>), String>) {
    let (quoted, bytes) = match outcome {
        Ok(quoted) => quoted,
        Err(why) => return who.into_iter().for_each(|w| (w.reply)(Err(why.clone()))),
    };
    let mut answers = quoted.answers.iter();
    for wanted in who {
        let part = answers.next().and_then(|a| part(&quoted, a, &bytes));
        (wanted.reply)(part.map(Box::new).ok_or_else(|| "security's answer does not fit".to_owned()));
    }
}

/// One challenger's evidence: each log from where it needs it.
fn part(quoted: &Quoted, answer: &QuoteAnswer, bytes: &[u8]) -> Option<OwnEvidence> {
    let mut logs = Vec::new();
    let mut rest = bytes;
    for (span, from) in quoted.logs.iter().zip(&answer.from) {
        let (log, behind) = rest.split_at_checked(usize::try_from(span.length).ok()?)?;
        rest = behind;
        let skip = usize::try_from(from.checked_sub(span.from)?).ok()?;
        logs.push(LogDelta { log: span.log, from: *from, bytes: log.get(skip..)?.to_vec() });
    }
    if answer.from.len() != quoted.logs.len() {
        return None;
    }
    Some(OwnEvidence {
        attest: quoted.attest.clone(),
        signature: quoted.signature.clone(),
        pcrs: quoted.pcrs.clone(),
        path: answer.path.clone(),
        ak: quoted.ak.clone(),
        logs,
    })
}
