//! Carries out what the engine of gossip decides (docs/spec/gossip.md): frames to channels, checks to `security`, time and chance to the
//! engine. Nothing here believes anything; what `security` does not believe goes no further.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gtvp_ipc::security::{HearResult, HeardResult, StatusHeard};
use gtvp_model::union::MemberId;
use gtvp_protocol::frame::Frame;
use gtvp_protocol::gossip::{Checked, Command, Context, Entry, Event, Gossip, Kind, Times};

use crate::clock;
use crate::runtime::Runtime;
use crate::switch::Note;

/// Longest sleep where nothing is due.
const IDLE: Duration = Duration::from_secs(3_600);

/// The engine, and who waits for its time.
#[derive(Debug, Default)]
pub struct Gossiping {
    engine: Mutex<Gossip>,
    due: Condvar,
}

impl Gossiping {
    fn engine(&self) -> MutexGuard<'_, Gossip> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wall() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// Gives an event to the engine, and carries out what it wants.
fn event(runtime: &Arc<Runtime>, event: Event) {
    let mut engine = runtime.gossip.engine();
    let before = engine.deadline();
    let mut ctx = Context { wall: wall(), ms: clock::now().0, chance: &mut clock::chance };
    let commands = engine.on(event, &mut ctx);
    let changed = engine.deadline() != before;
    drop(engine);
    if changed {
        runtime.gossip.due.notify_all();
    }
    for command in commands {
        match command {
            Command::Send(to, frame) => runtime.switch.send(to, frame),
            Command::Malformed(from) => {
                runtime.switch.tell(from, Note::End("the peer's gossip is malformed"))
            }
            Command::Check(ticket, _, entry) => check(runtime, ticket, *entry),
        }
    }
}

/// Has `security` look at an entry.
fn check(runtime: &Arc<Runtime>, ticket: u64, entry: Entry) {
    let asks = runtime.clone();
    runtime.pool.run(move || {
        let found = match entry.kind {
            Kind::Result => heard(&asks, &entry),
            Kind::Status => match asks.security.hear_status(Box::new(entry)) {
                Ok(StatusHeard::Good) => Checked::Good,
                Ok(StatusHeard::Forged) => Checked::Forged,
                Ok(StatusHeard::Unknown) | Err(_) => Checked::Unknown,
            },
        };
        event(&asks, Event::Checked(ticket, found));
    });
}

/// A result is one if `security` believes it, and it says what the entry says of it.
fn heard(runtime: &Runtime, entry: &Entry) -> Checked {
    let (ak, result) = (entry.public.as_slice().to_vec(), entry.body.as_slice().to_vec());
    match runtime.security.hear_result(&HearResult { from: entry.author, ak, result }) {
        Ok(Ok(heard)) => match labelled(entry.author, heard, Vec::new(), Vec::new()) {
            Some(own)
                if own.key() == entry.key()
                    && own.version == entry.version
                    && own.expires == entry.expires =>
            {
                Checked::Good
            }
            _ => Checked::Forged,
        },
        Ok(Err(why)) => {
            let author = entry.author.short();
            runtime.tell(format_args!("a result of {author}'s that was passed on is not believed: {why}"));
            Checked::Unknown
        }
        Err(_) => Checked::Unknown,
    }
}

/// A result as an entry; `None`: it is too long to be passed on.
fn labelled(author: MemberId, heard: HeardResult, ak: Vec<u8>, result: Vec<u8>) -> Option<Entry> {
    Some(Entry {
        author,
        kind: Kind::Result,
        subject: heard.of,
        version: heard.issued.saturating_mul(1_000),
        expires: heard.expires.saturating_mul(1_000),
        body: result.try_into().ok()?,
        public: ak.try_into().ok()?,
        signature: Vec::new().try_into().ok()?,
    })
}

/// A result that its verifier told here itself, or this member's own: had for whoever lacks it, and not pushed, since all with a channel
/// have been told.
pub fn has(runtime: &Arc<Runtime>, author: MemberId, heard: HeardResult, ak: Vec<u8>, result: Vec<u8>) {
    if let Some(entry) = labelled(author, heard, ak, result) {
        event(runtime, Event::Put(Box::new(entry), false));
    }
}

/// This member's status, as `security` has signed it: to be everywhere.
pub fn spread(runtime: &Arc<Runtime>, entry: Box<Entry>) {
    if runtime.newest.own().is_some_and(|u| u.own.id() == entry.author) {
        event(runtime, Event::Put(entry, true));
    }
}

/// The union has changed.
pub fn union(runtime: &Arc<Runtime>) {
    let now = match runtime.newest.own() {
        Some(union) => {
            let members: BTreeSet<MemberId> = union.state.view.members.keys().copied().collect();
            Event::Union(union.own.id(), Arc::new(members), Times::of(runtime.period().period))
        }
        None => Event::Out,
    };
    event(runtime, now);
}

/// A channel on which all may be said is open.
pub fn up(runtime: &Arc<Runtime>, with: MemberId) {
    event(runtime, Event::Up(with));
}

/// It is no more.
pub fn down(runtime: &Arc<Runtime>, with: MemberId) {
    event(runtime, Event::Down(with));
}

/// A frame of gossip came on the channel with this member.
pub fn frame(runtime: &Arc<Runtime>, from: MemberId, frame: Frame) {
    event(runtime, Event::Frame(from, frame));
}

/// Tells the engine when its time has come, for as long as this domain lives.
pub fn ticks(runtime: &Arc<Runtime>) {
    loop {
        let engine = runtime.gossip.engine();
        let wait = engine.deadline().map_or(IDLE, |at| clock::until(gtvp_protocol::hsp::Millis(at)));
        if !wait.is_zero() {
            drop(runtime.gossip.due.wait_timeout(engine, wait));
            continue;
        }
        drop(engine);
        event(runtime, Event::Tick);
    }
}
