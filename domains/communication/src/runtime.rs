//! Carries out what `engine` decides, and holds together what the threads share.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gtvp_ipc::security::OwnUnion;
use gtvp_model::fault::Fault;
use gtvp_model::ids::MemberName;
use gtvp_model::token::Endpoint;
use gtvp_model::union::MemberId;
use gtvp_model::unionview::{ChannelRow, ChannelTook};
use gtvp_protocol::hsp::{Grant, Lengths, Millis};
use gtvp_protocol::neighbour::{Endpoints, Place};

use crate::asks::Asks;
use crate::ends::End;
use crate::engine::{Do, Engine, LinkId};
use crate::link::Took;
use crate::listen::Listening;
use crate::node::{self, NodeThread};
use crate::places::Book;
use crate::pool::Pool;
use crate::quoter::Quoter;
use crate::results::{self, Results};
use crate::security::Security;
use crate::standing;
use crate::switch::{Note, Switch};
use crate::tls::Ends;
use crate::union::{Newest, is_member};
use crate::{clock, connect, gossip, identity};

/// How long `security` may be away before it is asked again, milliseconds: first and longest.
const AWAY: (u64, u64) = (100, 3_000);
/// After how long the members' port is tried again, milliseconds.
const BIND_AGAIN: u64 = 5_000;
/// How long `security` may take to tell of a union that has begun, or this member to listen then.
pub const TOLD: Duration = Duration::from_secs(3);
/// Lines about strangers in a minute.
const LINES: u32 = 20;

/// What this member is told by its configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name.
    pub name: MemberName,
    /// Its folder.
    pub folder: PathBuf,
    /// Where it listens: the first that can be.
    pub listen: Vec<SocketAddr>,
    /// Where it tells others that it is.
    pub endpoint: Option<Endpoint>,
}

/// See the module.
pub struct Runtime {
    /// Who decides about evidence and the record.
    pub security: Arc<dyn Security>,
    /// Who calls it.
    pub pool: Pool,
    /// Our own evidence.
    pub quoter: Quoter,
    /// The record's node.
    pub node: NodeThread,
    /// The union.
    pub newest: Arc<Newest>,
    /// When this process began, for words that must not overtake each other.
    pub begun: Millis,
    /// The links.
    pub switch: Arc<Switch>,
    /// What this member has found of others.
    pub results: Results,
    /// What is passed on.
    pub gossip: gossip::Gossiping,
    /// Evidence of boxes.
    pub asks: Asks,
    /// A join is under way.
    pub joining: AtomicBool,
    /// What this member is told by its configuration.
    pub config: Config,
    engine: Mutex<Engine>,
    changed: Condvar,
    book: Mutex<Book>,
    listening: Mutex<Option<Listening>>,
    ends: Mutex<Option<(gtvp_model::union::SpkiDigest, Arc<Ends>)>>,
    lines: Mutex<(Millis, u32)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Runtime {
    /// Starts its threads.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(
        config: Config,
        security: Arc<dyn Security>,
        make: node::Make,
    ) -> std::io::Result<Arc<Self>> {
        let (newest, switch) = (Arc::new(Newest::default()), Arc::new(Switch::default()));
        let node = NodeThread::start(node::Place {
            file: config.folder.join("raft"),
            security: security.clone(),
            switch: switch.clone(),
            newest: newest.clone(),
            make,
        })?;
        let runtime = Arc::new(Self {
            begun: clock::now(),
            pool: Pool::start()?,
            quoter: Quoter::start(security.clone())?,
            security,
            node,
            newest,
            switch,
            results: Results::default(),
            gossip: gossip::Gossiping::default(),
            asks: Asks::default(),
            joining: AtomicBool::new(false),
            book: Mutex::new(Book::open(&config.folder)),
            config,
            engine: Mutex::default(),
            changed: Condvar::new(),
            listening: Mutex::default(),
            ends: Mutex::default(),
            lines: Mutex::default(),
        });
        let thread = |name: &str| std::thread::Builder::new().name(name.into()).stack_size(256 * 1024);
        let (watches, dials, results) = (runtime.clone(), runtime.clone(), runtime.clone());
        let gossips = runtime.clone();
        thread("gossips").spawn(move || gossip::ticks(&gossips))?;
        thread("watches").spawn(move || watches.watch())?;
        thread("dials").spawn(move || dials.dial())?;
        thread("results").spawn(move || {
            results.again("its results", |heard| {
                results.security.watch_results(&mut |result| {
                    *heard = true;
                    results::new(&results, result);
                })
            })
        })?;
        Ok(runtime)
    }

    /// The engine.
    pub fn engine(&self) -> MutexGuard<'_, Engine> {
        lock(&self.engine)
    }

    /// What is known of the ways to others.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }

    /// Has it looked at whom to dial.
    pub fn look(&self) {
        self.changed.notify_all();
    }

    fn watch(self: &Arc<Self>) {
        self.again("the union", |heard| {
            self.security.watch_union(&mut |union| {
                *heard = true;
                self.union_is(union);
            })
        });
    }

    /// Has `security` tell something, again and again. Each time `once` says whether anything was told, and why no more is.
    fn again(&self, what: &str, mut once: impl FnMut(&mut bool) -> Fault) {
        let (first, longest) = AWAY;
        let mut wait = first;
        loop {
            let mut heard = false;
            let why = once(&mut heard);
            if !heard && wait == first {
                eprintln!("gtvp-communication: security does not tell {what}: {why}");
            }
            wait = if heard { first } else { (wait * 2).min(longest) };
            std::thread::sleep(Duration::from_millis(wait));
        }
    }

    /// What `security` tells.
    fn union_is(self: &Arc<Self>, union: Option<OwnUnion>) {
        let union = union.map(Arc::new);
        let own = union.as_ref().filter(|u| is_member(u)).cloned();
        self.node.union(union.clone());
        // A link that hears of the union finds it everywhere.
        let members: BTreeSet<MemberId> =
            own.iter().flat_map(|u| u.state.view.members.keys().copied()).collect();
        let mut ends = Vec::new();
        match &own {
            Some(own) => self.engine().union(own.own.id(), &members, clock::now()),
            None => ends = self.engine().left(),
        }
        self.newest.set(union);
        gossip::union(self);
        // Whoever is out, or lost somebody, hears it by its own engine first.
        self.switch.view_changed();
        self.carry_out(ends);
        if own.is_some() {
            lock(&self.book).only(&members);
            self.listen();
        } else {
            // Dropped, it closes.
            drop(lock(&self.listening).take());
        }
        // Whoever waits for the port looks at it with the engine in hand, and misses nothing.
        let engine = self.engine();
        self.changed.notify_all();
        drop(engine);
    }

    /// Waits a moment until the members' port is listened on: `security` tells of a union when it has answered whoever began it.
    pub fn wait_listens(&self) {
        let engine = self.engine();
        drop(self.changed.wait_timeout_while(engine, TOLD, |_| self.listens().is_none()));
    }

    /// Listens, if it does not yet. When it has to be tried again, if it cannot.
    fn listen(self: &Arc<Self>) -> Option<Millis> {
        let mut listening = lock(&self.listening);
        if listening.is_some() {
            return None;
        }
        match Listening::start(self, &self.config.listen) {
            Ok(new) => {
                *listening = Some(new);
                None
            }
            Err(e) => {
                self.tell(format_args!("the members' port cannot be listened on: {e}"));
                Some(clock::now().after(BIND_AGAIN))
            }
        }
    }

    fn dial(self: &Arc<Self>) {
        let mut bind: Option<Millis> = None;
        loop {
            if bind.is_some_and(|at| at <= clock::now()) || bind.is_none() && self.newest.own().is_some() {
                bind = self.listen();
            }
            let mut engine = self.engine();
            let dials = engine.tick(clock::now(), |m| lock(&self.book).of(m), clock::chance());
            if dials.is_empty() {
                let due = engine.deadline().into_iter().chain(bind).min();
                let wait = due.map_or(Duration::from_secs(3600), clock::until);
                drop(self.changed.wait_timeout(engine, wait));
                continue;
            }
            drop(engine);
            self.carry_out(dials);
        }
    }

    fn carry_out(self: &Arc<Self>, what: Vec<Do>) {
        for one in what {
            match one {
                Do::Dial(link, whom, at) => connect::dial(self, link, whom, at),
                Do::End(link, why) => self.switch.note(link, Note::End(why)),
            }
        }
    }

    /// The union's period.
    pub fn period(&self) -> Lengths {
        let union = self.newest.told();
        Lengths::of(union.map_or(30_000, |u| u.state.view.settings.attest_every_ms))
    }

    /// Both ends of TLS, for a member with this key.
    ///
    /// # Errors
    /// `security`'s.
    pub fn ends(&self, union: &OwnUnion) -> Result<Arc<Ends>, Fault> {
        let key = union.own.identity.spki();
        if let Some((of, ends)) = &*lock(&self.ends)
            && *of == key
        {
            return Ok(ends.clone());
        }
        let ends = Arc::new(identity::ends(&self.security)?);
        *lock(&self.ends) = Some((key, ends.clone()));
        Ok(ends)
    }

    /// A link is a channel now.
    pub fn up(
        self: &Arc<Self>,
        link: LinkId,
        with: MemberId,
        grant: Grant,
        local: Option<IpAddr>,
        took: Took,
    ) {
        let mut engine = self.engine();
        engine.opened(link, took);
        let ends = engine.up(link, with);
        let stays = engine.channel(with) == Some(link);
        if stays {
            self.switch.channel(with, link, grant);
            self.node.down(with);
            self.node.up(with, grant);
        }
        drop(engine);
        self.carry_out(ends);
        if stays {
            eprintln!("gtvp-communication: channel with {} is open", self.name(with));
            let own = self.newest.own().and_then(|u| {
                Some(Place {
                    member: u.own.id(),
                    endpoint: self.config.endpoint.clone().or(self.at(local?))?,
                })
            });
            let places = own.into_iter().chain(lock(&self.book).best()).collect();
            self.switch.send(with, Endpoints::frame(places));
            standing::up(self, link, with);
            if grant == Grant::Full {
                gossip::up(self, with);
                results::up(self, with);
            }
        }
    }

    /// A link is over.
    pub fn over(self: &Arc<Self>, link: LinkId, whom: Option<MemberId>, end: &End) {
        self.switch.remove(link);
        let why = end.to_string();
        let mut engine = self.engine();
        let before = whom.and_then(|w| engine.peers().get(&w)).and_then(|p| p.problem.clone());
        let lost = engine.down(link, &why, clock::now(), clock::chance());
        if let Some(with) = lost {
            self.node.down(with);
            self.asks.down(with);
            gossip::down(self, with);
        }
        let channel = whom.and_then(|with| engine.channel(with));
        drop(engine);
        self.changed.notify_all();
        if let Some(with) = whom {
            results::over(self, with, end);
        }
        if let (Some(with), None) = (whom, channel) {
            standing::over(self, link, with, end);
        }
        match (lost, whom) {
            (Some(with), _) => eprintln!("gtvp-communication: channel with {} ended: {why}", self.name(with)),
            (None, Some(with)) if before.as_deref() != Some(&why) => {
                self.tell(format_args!("no channel with {}: {why}", self.name(with)));
            }
            (None, Some(_)) => {}
            (None, None) => self.tell(format_args!("a stranger was let go: {why}")),
        }
    }

    /// Tells something that others can cause, as often as is bearable.
    pub fn tell(&self, what: std::fmt::Arguments<'_>) {
        let mut lines = lock(&self.lines);
        let now = clock::now();
        if now.0.saturating_sub(lines.0.0) > 60_000 {
            *lines = (now, 0);
        }
        lines.1 = lines.1.saturating_add(1);
        match lines.1 {
            n if n < LINES => eprintln!("gtvp-communication: {what}"),
            LINES => eprintln!("gtvp-communication: more of that in this minute is not told"),
            _ => {}
        }
    }

    /// Whoever was dialled by a token is this member.
    pub fn is(&self, link: LinkId, member: MemberId) {
        self.engine().is(link, member);
    }

    /// The address that is listened on; `None`: none is.
    pub fn listens(&self) -> Option<u16> {
        lock(&self.listening).as_ref().map(Listening::port)
    }

    /// The channels, for people.
    pub fn channels(&self) -> Vec<ChannelRow> {
        let Some(union) = self.newest.own() else { return Vec::new() };
        let (engine, book) = (self.engine(), lock(&self.book));
        let row = |(id, peer): (&MemberId, &crate::engine::Peer)| ChannelRow {
            member: union.state.view.members.get(id).map_or_else(String::new, |m| m.name.to_string()),
            id: id.to_string(),
            state: match (peer.channel, peer.dialling) {
                (Some(_), _) => "open",
                (None, Some(_)) => "connecting",
                (None, None) => "unreachable",
            }
            .into(),
            full: peer.channel.is_some_and(|link| self.switch.is_full(link)),
            endpoint: book.of(*id).first().map(Endpoint::to_string),
            problem: peer.problem.clone(),
            took: peer
                .channel
                .and_then(|link| engine.took(link))
                .map(|took| ChannelTook { tls_us: micros(took.tls), all_us: micros(took.all) }),
        };
        engine.peers().iter().map(row).collect()
    }

    fn name(&self, member: MemberId) -> String {
        let union = self.newest.told();
        let entry = union.as_ref().and_then(|u| u.state.view.members.get(&member));
        entry.map_or_else(|| member.short(), |m| m.name.to_string())
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
