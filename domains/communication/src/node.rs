//! The thread of the CSP node: what is to be decided goes in, what the node wants done is carried out, in its order. What it asks of
//! `security` another thread asks, one thing after the other.

mod worker;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use gtvp_ipc::security::OwnUnion;
use gtvp_model::union::{MemberId, UnionId};
use gtvp_protocol::csp::SignedEntry;
use gtvp_protocol::csp::node::{Command, Context, Event, Node, Proposal};
use gtvp_protocol::frame::Frame;
use gtvp_protocol::hsp::{Grant, Millis};

use self::worker::Work;
use crate::clock;
use crate::places::replace;
use crate::security::Security;
use crate::switch::Switch;
use crate::union::{Newest, is_member};

/// Inputs that wait: a link that has more waits, and with it its peer. Frames of CSP have up to 6 MiB.
const WAITING: usize = 16;
/// How long is waited for what the node says of a change, before channels end by it.
const SAID: Duration = Duration::from_secs(1);
/// How long after a change the union's own rules are looked at, milliseconds: changes come in groups.
const HOUSEKEEPING: u64 = 2_000;
/// Times in a row that a failed write is told to the node.
const WRITES: usize = 8;

/// What goes in.
enum In {
    Union(Option<Arc<OwnUnion>>),
    /// Says when everything before it has been taken.
    Sync(Sender<()>),
    Up(MemberId, Grant),
    Down(MemberId),
    Frame(MemberId, Frame),
    Propose(Box<SignedEntry>, Sender<Proposal>),
    /// Of the node of this union.
    Outcome(UnionId, Box<Event>),
    Housekeeping(UnionId, Option<Box<SignedEntry>>),
}

/// What decides: CSP's node, or in a test somebody who plays it.
pub trait Decides: Send {
    /// See [`Node::on`].
    fn on(&mut self, event: Event, ctx: Context) -> Vec<Command>;
    /// See [`Node::deadline`].
    fn deadline(&self) -> Option<Millis>;
}

impl Decides for Node {
    fn on(&mut self, event: Event, ctx: Context) -> Vec<Command> {
        self.on(event, ctx)
    }

    fn deadline(&self) -> Option<Millis> {
        self.deadline()
    }
}

/// Makes what decides: see [`Node::new`].
pub type Make =
    fn(own: MemberId, persisted: Option<&[u8]>, seed: u64, ctx: Context) -> Result<Box<dyn Decides>, String>;

/// CSP's node.
///
/// # Errors
/// What was persisted is damaged.
pub fn csp(
    own: MemberId,
    persisted: Option<&[u8]>,
    seed: u64,
    ctx: Context,
) -> Result<Box<dyn Decides>, String> {
    Node::new(own, persisted, seed, ctx).map(|node| Box::new(node) as Box<dyn Decides>)
}

/// See the module.
#[derive(Clone)]
pub struct NodeThread(SyncSender<In>);

/// What the node's thread has from its beginning.
pub struct Place {
    /// Where what must survive is written.
    pub file: PathBuf,
    /// The decisions that are not Raft's.
    pub security: Arc<dyn Security>,
    /// The channels.
    pub switch: Arc<Switch>,
    /// The union.
    pub newest: Arc<Newest>,
    /// What decides.
    pub make: Make,
}

impl NodeThread {
    /// Starts the node's thread and its worker.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(place: Place) -> std::io::Result<Self> {
        let (sender, inputs) = sync_channel(WAITING);
        let (work, works) = channel();
        let (security, newest, outcomes) = (place.security.clone(), place.newest.clone(), sender.clone());
        let stack = 1024 * 1024;
        std::thread::Builder::new()
            .name("record-calls".into())
            .stack_size(stack)
            .spawn(move || worker::run(&*security, &newest, &works, &outcomes))?;
        let run = Running {
            place,
            work,
            node: None,
            up: BTreeMap::new(),
            proposals: BTreeMap::new(),
            last: 0,
            housekeeping: None,
        };
        std::thread::Builder::new()
            .name("record".into())
            .stack_size(stack)
            .spawn(move || run.run(&inputs))?;
        Ok(Self(sender))
    }

    fn tell(&self, input: In) {
        // The thread ends only with the process.
        let _ = self.0.send(input);
    }

    /// The union as it is now. Waits a moment until what the node has to say about it is under way: whoever is a member no more is
    /// told so before its channel ends.
    pub fn union(&self, union: Option<Arc<OwnUnion>>) {
        self.tell(In::Union(union));
        let (sender, done) = channel();
        self.tell(In::Sync(sender));
        let _ = done.recv_timeout(SAID);
    }

    /// A channel is open.
    pub fn up(&self, with: MemberId, grant: Grant) {
        self.tell(In::Up(with, grant));
    }

    /// It is not any more.
    pub fn down(&self, with: MemberId) {
        self.tell(In::Down(with));
    }

    /// A frame of CSP came. Waits while many wait.
    pub fn frame(&self, from: MemberId, frame: Frame) {
        self.tell(In::Frame(from, frame));
    }

    /// Proposes an entry, and waits for what comes of it.
    pub fn propose(&self, entry: SignedEntry, most: Duration) -> Proposal {
        let (sender, outcome) = channel();
        self.tell(In::Propose(Box::new(entry), sender));
        outcome.recv_timeout(most).unwrap_or_else(|e| match e {
            RecvTimeoutError::Timeout => {
                Proposal::Unknown("no majority of voters has answered in time".into())
            }
            RecvTimeoutError::Disconnected => Proposal::Unknown("the union has changed meanwhile".into()),
        })
    }
}

struct Running {
    place: Place,
    work: Sender<(UnionId, Work)>,
    node: Option<(Box<dyn Decides>, Arc<OwnUnion>)>,
    up: BTreeMap<MemberId, Grant>,
    proposals: BTreeMap<u64, Sender<Proposal>>,
    last: u64,
    housekeeping: Option<Millis>,
}

fn context() -> Context {
    Context { now: clock::now(), wall: clock::wall() }
}

impl Running {
    fn run(mut self, inputs: &Receiver<In>) {
        loop {
            let node = self.node.as_ref().and_then(|(n, _)| n.deadline());
            let due = match (node, self.housekeeping) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            let next = match due {
                None => inputs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => inputs.recv_timeout(clock::until(at)),
            };
            match next {
                Ok(input) => self.take(input),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = clock::now();
            if self.housekeeping.is_some_and(|at| at <= now) {
                self.housekeeping = None;
                self.ask(Work::Housekeeping(self.up.keys().copied().collect()));
            }
            if self.node.as_ref().and_then(|(n, _)| n.deadline()).is_some_and(|at| at <= now) {
                self.on(Event::Tick);
            }
        }
    }

    fn take(&mut self, input: In) {
        match input {
            In::Union(union) => self.union(union),
            // Whoever waits may have given up.
            In::Sync(done) => drop(done.send(())),
            In::Up(with, grant) => {
                self.up.insert(with, grant);
                self.on(Event::Up(with, grant));
                self.changed();
            }
            In::Down(with) => {
                if self.up.remove(&with).is_some() {
                    self.on(Event::Down(with));
                    self.changed();
                }
            }
            In::Frame(from, frame) => self.on(Event::Frame(from, frame)),
            In::Propose(entry, outcome) => {
                self.last += 1;
                // Without a node the sender is dropped, and whoever waits hears that.
                if self.node.is_some() {
                    self.proposals.insert(self.last, outcome);
                    self.on(Event::Propose { ticket: self.last, entry: *entry });
                }
            }
            In::Outcome(union, event) => {
                if self.is_of(union) {
                    self.on(*event);
                }
            }
            In::Housekeeping(union, entry) => {
                if let Some(entry) = entry.filter(|_| self.is_of(union)) {
                    self.last += 1;
                    self.on(Event::Propose { ticket: self.last, entry: *entry });
                }
            }
        }
    }

    fn is_of(&self, union: UnionId) -> bool {
        self.node.as_ref().is_some_and(|(_, u)| u.state.view.union == union)
    }

    fn union(&mut self, union: Option<Arc<OwnUnion>>) {
        let same = union.as_ref().is_some_and(|union| {
            self.is_of(union.state.view.union)
                && self.node.as_ref().is_some_and(|(_, u)| u.own.id() == union.own.id())
        });
        let Some(union) = union.clone().filter(|u| is_member(u)) else {
            // It may be what was proposed here that has ended it.
            if let Some(last) = union.filter(|_| same) {
                self.on(Event::Union(Arc::new(last.state.clone())));
            }
            self.node = None;
            self.proposals.clear();
            self.housekeeping = None;
            return;
        };
        if same {
            if let Some((_, held)) = &mut self.node {
                let entries = held.state.view.head != union.state.view.head;
                *held = union.clone();
                self.on(Event::Union(Arc::new(union.state.clone())));
                if entries {
                    self.changed();
                }
            }
            return;
        }
        self.proposals.clear();
        let (id, own) = (union.state.view.union, union.own.id());
        let persisted = self.persisted(id);
        let seed = clock::chance();
        let make = self.place.make;
        let node = make(own, persisted.as_deref(), seed, context()).or_else(|why| {
            // What two voters never do is kept by `security`, whatever this node forgets.
            eprintln!(
                "gtvp-communication: what was written down for the record is damaged, begun anew: {why}"
            );
            make(own, None, seed, context())
        });
        match node {
            Ok(node) => {
                self.node = Some((node, union.clone()));
                self.on(Event::Union(Arc::new(union.state.clone())));
                for (with, grant) in self.up.clone() {
                    self.on(Event::Up(with, grant));
                }
                self.changed();
            }
            Err(why) => eprintln!("gtvp-communication: the record's node cannot begin: {why}"),
        }
    }

    /// Looks at the union's own rules in a while, if this member has a vote.
    fn changed(&mut self) {
        let votes = self.node.as_ref().is_some_and(|(_, u)| u.state.voters.contains(&u.own.id()));
        if votes && self.housekeeping.is_none() {
            // Every voter does so: whoever is first is enough.
            let wait = HOUSEKEEPING + clock::chance() % HOUSEKEEPING;
            self.housekeeping = Some(clock::now().after(wait));
        }
    }

    fn on(&mut self, event: Event) {
        let Some((node, _)) = &mut self.node else { return };
        let mut queue: VecDeque<Command> = node.on(event, context()).into();
        let mut failed = 0;
        while let Some(command) = queue.pop_front() {
            match command {
                Command::Send(to, frame) => self.place.switch.send(to, frame),
                Command::Vote(entry) => self.ask(Work::Vote(Box::new(entry))),
                Command::Refresh => self.ask(Work::Refresh),
                Command::Take(from, offer) => self.ask(Work::Take(from, Box::new(offer))),
                Command::Read(to, from) => self.ask(Work::Read(to, from)),
                Command::Persist(bytes) => {
                    if let Err(why) = self.persist(&bytes) {
                        failed += 1;
                        eprintln!(
                            "gtvp-communication: {} cannot be written: {why}",
                            self.place.file.display()
                        );
                        // Nothing that stood after it is carried out.
                        queue.clear();
                        if let (Some((node, _)), true) = (&mut self.node, failed < WRITES) {
                            queue = node.on(Event::NotPersisted(why.to_string()), context()).into();
                        }
                    }
                }
                Command::Proposed(ticket, outcome) => self.proposed(ticket, outcome),
                Command::Tell(kind, words) => eprintln!("gtvp-communication: {kind}: {words}"),
            }
        }
    }

    fn proposed(&mut self, ticket: u64, outcome: Proposal) {
        match (self.proposals.remove(&ticket), outcome) {
            // Whoever asked may have gone.
            (Some(who), outcome) => drop(who.send(outcome)),
            (None, Proposal::Overtaken | Proposal::Unknown(_)) => self.changed(),
            (None, Proposal::Refused(why)) => eprintln!("gtvp-communication: voters refuse an entry: {why}"),
            (None, Proposal::Taken) => {}
        }
    }

    fn ask(&self, work: Work) {
        if let Some((_, union)) = &self.node {
            let _ = self.work.send((union.state.view.union, work));
        }
    }

    /// What was written down for this union.
    fn persisted(&self, union: UnionId) -> Option<Vec<u8>> {
        let bytes = std::fs::read(&self.place.file).ok()?;
        bytes.strip_prefix(union.as_bytes()).map(<[u8]>::to_vec)
    }

    fn persist(&self, bytes: &[u8]) -> std::io::Result<()> {
        let Some((_, union)) = &self.node else { return Ok(()) };
        replace(&self.place.file, &[&union.state.view.union.as_bytes()[..], bytes].concat())
    }
}
