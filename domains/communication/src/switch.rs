//! Between the links' threads and everybody else: an inbox for each link, and which of them is the channel with whom.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use gtvp_model::union::MemberId;
use gtvp_protocol::frame::Frame;
use gtvp_protocol::hsp::{Event, Grant};

use crate::engine::LinkId;
use crate::link::Waker;

/// Bytes of frames that may wait for one link. What comes past it is lost, as on a network: CSP asks again.
const MAX_WAITING: usize = 16 * 1024 * 1024;

/// What a link is told by others.
#[derive(Debug)]
pub enum Note {
    /// What came of a call that a command of HSP asked for.
    Outcome(Event),
    /// Something was written down, or not: why.
    Persisted(Result<(), String>),
    /// The record's bytes, to be sent; or why there are none.
    Record(Result<Vec<u8>, String>),
    /// Nothing can be asked of the peer now: why.
    NoAsk(String),
    /// Nothing is to be asked of the peer for so many milliseconds.
    Rest(u64),
    /// Somebody says that it has not believed the peer: fresh evidence is to be asked for at once.
    Suspected,
    /// A frame of another protocol, to be sent.
    Send(Frame),
    /// The union has changed.
    View,
    /// To be ended: why.
    End(&'static str),
    /// Whoever asked for the join has gone: to be ended, unless the record may have this server by now.
    Cancel,
}

/// What waits for one link.
#[derive(Debug)]
pub struct Inbox {
    notes: Mutex<(VecDeque<Note>, usize)>,
    waker: Waker,
}

impl Inbox {
    /// For the link that this wakes.
    pub fn new(waker: Waker) -> Self {
        Self { notes: Mutex::default(), waker }
    }

    /// Leaves a note.
    pub fn put(&self, note: Note) {
        let mut guard = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let (notes, waiting) = &mut *guard;
        if let Note::Send(frame) = &note {
            if waiting.saturating_add(frame.body.len()) > MAX_WAITING {
                return;
            }
            *waiting += frame.body.len();
        }
        notes.push_back(note);
        drop(guard);
        self.waker.wake();
    }

    /// Takes all notes.
    pub fn take(&self) -> VecDeque<Note> {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner)).0
    }
}

#[derive(Debug, Default)]
struct Lines {
    links: BTreeMap<LinkId, Arc<Inbox>>,
    channels: BTreeMap<MemberId, LinkId>,
    /// Channels on which all may be said.
    full: BTreeSet<LinkId>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Switch(Mutex<Lines>);

impl Switch {
    fn lines(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A link is there.
    pub fn add(&self, link: LinkId, inbox: Arc<Inbox>) {
        self.lines().links.insert(link, inbox);
    }

    /// It is the channel with this member.
    pub fn channel(&self, with: MemberId, link: LinkId, grant: Grant) {
        let mut lines = self.lines();
        lines.channels.insert(with, link);
        if grant == Grant::Full {
            lines.full.insert(link);
        }
    }

    /// Whether all may be said on this channel.
    pub fn is_full(&self, link: LinkId) -> bool {
        self.lines().full.contains(&link)
    }

    /// A link is no more.
    pub fn remove(&self, link: LinkId) {
        let mut lines = self.lines();
        lines.links.remove(&link);
        lines.full.remove(&link);
        lines.channels.retain(|_, l| *l != link);
    }

    /// Leaves a note for a link.
    pub fn note(&self, link: LinkId, note: Note) {
        let inbox = self.lines().links.get(&link).cloned();
        if let Some(inbox) = inbox {
            inbox.put(note);
        }
    }

    /// Sends a frame on the channel with this member, if there is one.
    pub fn send(&self, to: MemberId, frame: Frame) {
        self.tell(to, Note::Send(frame));
    }

    /// Sends a frame on every channel but that with `but`.
    pub fn send_all(&self, frame: &Frame, but: MemberId) {
        let lines = self.lines();
        let to = lines.channels.iter().filter(|(m, _)| **m != but).filter_map(|(_, l)| lines.links.get(l));
        let to: Vec<_> = to.cloned().collect();
        drop(lines);
        to.iter().for_each(|inbox| inbox.put(Note::Send(frame.clone())));
    }

    /// Sends a frame on every channel on which all may be said.
    pub fn send_full(&self, frame: &Frame) {
        let lines = self.lines();
        let full = lines.channels.values().filter(|l| lines.full.contains(l));
        let to: Vec<_> = full.filter_map(|l| lines.links.get(l)).cloned().collect();
        drop(lines);
        to.iter().for_each(|inbox| inbox.put(Note::Send(frame.clone())));
    }

    /// Leaves a note for the channel with this member, if there is one.
    pub fn tell(&self, with: MemberId, note: Note) {
        let lines = self.lines();
        let inbox = lines.channels.get(&with).and_then(|l| lines.links.get(l)).cloned();
        drop(lines);
        if let Some(inbox) = inbox {
            inbox.put(note);
        }
    }

    /// Links that there are.
    pub fn count(&self) -> usize {
        self.lines().links.len()
    }

    /// Tells every link that the union has changed.
    pub fn view_changed(&self) {
        let all: Vec<_> = self.lines().links.values().cloned().collect();
        all.iter().for_each(|inbox| inbox.put(Note::View));
    }
}
