//! Members whose TLS and links are real, and whose `security` is played: keys in memory, cheap quotes, the real record's rules. All of
//! them share one record; its only voter is the founder.

#![allow(dead_code, clippy::unwrap_used, reason = "of a test, and not each test uses all")]

mod plays;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING};
use aws_lc_rs::signature::{EcdsaKeyPair, KeyPair, UnparsedPublicKey};
use gtvp_communication::node::{Decides, Make, csp};
use gtvp_communication::runtime::{Config, Runtime};
use gtvp_ipc::security::{OwnResult, OwnUnion};
use gtvp_model::digest::Digest;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::token::{Endpoint, JoinToken, TokenSecret};
use gtvp_model::union::{
    Admission, Hardware, Identity, KeyName, MemberId, P256_SPKI_HEAD, PlatformIdentity, RecordHead,
    RosterEntry, TokenRecord, TpmKind, UnionSettings, UnixTime,
};
use gtvp_protocol::csp::entry::{Signatures, signed_content};
use gtvp_protocol::csp::follow::OfferRefusal;
use gtvp_protocol::csp::keeper::{Keeper, VoteRefusal};
use gtvp_protocol::csp::node::{Command, Context, Event, Proposal, UnionState};
use gtvp_protocol::csp::{Act, CoSigned, Committed, Entry, Follower, Head, Offer, Record, Signature};
use gtvp_protocol::csp::{SignedEntry, Vote};
use gtvp_protocol::frame::Frame;
use gtvp_protocol::hsp::Millis;
use gtvp_protocol::hsp::join::CredentialSecret;

/// P-256, as members sign.
pub struct P256;

impl Signatures for P256 {
    fn holds(&self, spki: &[u8], content: &[u8], signature: &[u8]) -> bool {
        let point = spki.get(P256_SPKI_HEAD.len()..).unwrap_or_default();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(content, signature).is_ok()
    }
}

/// What the members share.
pub struct Ledger {
    pub page: Vec<Committed>,
    pub follower: Follower,
    pub head: CoSigned,
    version: u64,
}

pub struct World {
    ledger: Mutex<Ledger>,
    changed: Condvar,
    /// In whose name this is voted for.
    voter: Arc<Keys>,
    promised: Mutex<Option<RecordHead>>,
    /// Each member has its own.
    real: bool,
}

/// A TPM and what it has measured.
pub struct Keys {
    pub name: String,
    pair: EcdsaKeyPair,
    pub spki: Vec<u8>,
    pub ek: Vec<u8>,
    pub ak: Vec<u8>,
}

impl Keys {
    pub fn new(name: &str) -> Arc<Self> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let spki = [&P256_SPKI_HEAD, pair.public_key().as_ref()].concat();
        let key = |what: &str| format!("{what} of {name}").into_bytes();
        Arc::new(Self { name: name.into(), pair, spki, ek: key("EK"), ak: key("AK") })
    }

    pub fn identity(&self) -> Identity {
        Identity::Tpm {
            kind: TpmKind::Hardware(Default::default()),
            ek: Digest::of(&self.ek).0.into(),
            ak: KeyName::sha256(&self.ak),
            tls: KeyName::sha256(&self.spki),
            spki: Digest::of(&self.spki).0.into(),
        }
    }

    pub fn entry(&self) -> RosterEntry {
        RosterEntry::new(self.name.parse().unwrap(), self.identity(), PlatformIdentity::default(), hardware())
    }

    pub fn id(&self) -> MemberId {
        self.identity().member_id()
    }

    pub fn sign(&self, content: &[u8]) -> Vec<u8> {
        self.pair.sign(&SystemRandom::new(), content).unwrap().as_ref().to_vec()
    }

    fn signature(&self, content: &[u8]) -> Signature {
        let (spki, value) = (self.spki.clone(), self.sign(content));
        Signature { spki: spki.try_into().unwrap(), value: value.try_into().unwrap() }
    }
}

pub fn hardware() -> Hardware {
    Hardware::new(2, 4096, "test").unwrap()
}

fn now() -> UnixTime {
    gtvp_communication::clock::wall()
}

impl World {
    /// A union with a period, and its founder's keys.
    pub fn begin(attest_every_ms: u32) -> (Arc<Self>, Arc<Keys>) {
        let founder = Keys::new("a");
        let settings = UnionSettings { attest_every_ms, ..UnionSettings::default() };
        let act = Act::Genesis {
            name: "lab".parse().unwrap(),
            founder: founder.entry(),
            settings,
            random: [7; 32],
        };
        let (union, previous) = ([0; 32].into(), Digest([0; 32]));
        let author = founder.id();
        let entry = signed(&founder, &Entry { union, number: 0, previous, author, time: now(), act });
        let record = Record::begin(&entry, &P256).unwrap();
        let head = co_signed(&founder, &record);
        let page = vec![Committed { entry, head: Some(head.clone()) }];
        let ledger = Ledger { page, follower: Follower::new(record), head, version: 0 };
        (Arc::new(Self::of(ledger, &founder, false)), founder)
    }

    fn of(ledger: Ledger, voter: &Arc<Keys>, real: bool) -> Self {
        let (ledger, voter) = (Mutex::new(ledger), voter.clone());
        Self { ledger, changed: Condvar::new(), voter, promised: Mutex::default(), real }
    }

    /// A record of this member's own, as this one is now.
    pub fn own_copy(&self, keys: &Arc<Keys>) -> Arc<Self> {
        let now = self.ledger();
        let (page, follower, head) = (now.page.clone(), now.follower.clone(), now.head.clone());
        Arc::new(Self::of(Ledger { page, follower, head, version: 0 }, keys, true))
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    /// The next entry, as `author` signs it.
    pub fn next(&self, author: &Keys, act: Act) -> SignedEntry {
        let ledger = self.ledger();
        let view = ledger.follower.record().view();
        let (union, number, previous) = (view.union, view.head.number + 1, view.head.hash);
        signed(author, &Entry { union, number, previous, author: author.id(), time: now(), act })
    }

    fn keeper(&self) -> Keeper {
        let record = self.ledger().follower.record().clone();
        Keeper::new(self.voter.id(), record, *self.promised.lock().unwrap())
    }

    /// The head with this entry, signed.
    pub fn vote(&self, entry: &SignedEntry) -> Result<(Head, Vote), Fault> {
        let mut keeper = self.keeper();
        let head = keeper.promise(entry, now(), &P256).map_err(|e| {
            let never = matches!(e, VoteRefusal::Entry(_));
            Fault::new(if never { FaultKind::Invalid } else { FaultKind::WrongState }, e.to_string())
        })?;
        *self.promised.lock().unwrap() = keeper.promised();
        Ok((head, voted(&self.voter, head)))
    }

    /// The head as it is, signed anew.
    pub fn vote_again(&self) -> Result<(Head, Vote), Fault> {
        let refused = |e: VoteRefusal| Fault::new(FaultKind::WrongState, e.to_string());
        let head = self.keeper().refresh(now()).map_err(refused)?;
        Ok((head, voted(&self.voter, head)))
    }

    pub fn take(&self, from: MemberId, offer: &Offer) -> Result<usize, Fault> {
        let mut ledger = self.ledger();
        let new = ledger.follower.take(offer, from, now(), &P256).map_err(|e| {
            let fork = matches!(e, OfferRefusal::Forked(_));
            Fault::new(if fork { FaultKind::Integrity } else { FaultKind::Denied }, e.to_string())
        })?;
        ledger.page.extend(Committed::of(offer));
        ledger.head = offer.head.clone();
        ledger.version += 1;
        drop(ledger);
        self.changed.notify_all();
        Ok(new)
    }

    /// Another record in the place of this one.
    fn replace(&self, page: Vec<Committed>, follower: Follower) {
        let mut ledger = self.ledger();
        let head = page.iter().rev().find_map(|c| c.head.clone()).unwrap();
        *ledger = Ledger { page, follower, head, version: ledger.version + 1 };
        drop(ledger);
        self.changed.notify_all();
    }

    /// Puts an entry into the record.
    pub fn write(&self, author: &Keys, act: Act) {
        let entry = self.next(author, act);
        let (head, vote) = self.vote(&entry).unwrap();
        let head = CoSigned { head, votes: vec![vote].try_into().unwrap() };
        self.take(author.id(), &Offer { entries: vec![entry], head }).unwrap();
    }

    /// A token that this endpoint answers for.
    pub fn token(&self, endpoint: Endpoint, expires: UnixTime) -> JoinToken {
        let secret = TokenSecret::new(gtvp_communication::clock::random().unwrap());
        let level = PlatformIdentity::default();
        let record =
            TokenRecord { key: secret.key(), expires, ek: None, platform_identity: level, used_by: None };
        let founder = self.voter.clone();
        self.write(&founder, Act::TokenMade(record));
        let head = self.ledger().follower.record().view().head;
        let union = self.ledger().follower.record().view().union;
        JoinToken { union, head, endpoint, expires, ek: None, secret }
    }

    pub fn admit(&self, keys: &Keys) {
        let nowhere = "192.0.2.1:1".parse().unwrap();
        let secret = self.token(nowhere, UnixTime(now().0 + 1000)).secret;
        let admission = Admission { member: keys.entry(), token: secret.key().id(), secret };
        let founder = self.voter.clone();
        self.write(&founder, Act::Admitted(admission));
    }

    fn state(&self) -> (UnionState, u64) {
        let ledger = self.ledger();
        let record = ledger.follower.record();
        let (view, voters) = (record.view().clone(), record.voters().clone());
        (UnionState { view, voters, head: ledger.head.clone() }, ledger.version)
    }
}

fn signed(author: &Keys, entry: &Entry) -> SignedEntry {
    let bytes = entry.encode();
    let signature = author.signature(&signed_content(&bytes));
    SignedEntry { entry: bytes.try_into().unwrap(), signature }
}

fn co_signed(voter: &Keys, record: &Record) -> CoSigned {
    let head = Head { union: record.view().union, at: record.view().head, time: now() };
    CoSigned { head, votes: vec![voted(voter, head)].try_into().unwrap() }
}

fn voted(voter: &Keys, head: Head) -> Vote {
    Vote { voter: voter.id(), time: head.time, signature: voter.signature(&head.signed_content()) }
}

/// Who has heard a frame of CSP, from whom, how long.
pub static HEARD: Mutex<Vec<(MemberId, MemberId, usize)>> = Mutex::new(Vec::new());

/// A voter that is alone: what is proposed is written down, voted for, and taken.
pub struct Alone {
    own: MemberId,
    proposals: BTreeMap<Digest, (u64, SignedEntry)>,
    taking: Option<u64>,
}

pub fn alone(
    own: MemberId,
    _persisted: Option<&[u8]>,
    _seed: u64,
    _ctx: Context,
) -> Result<Box<dyn Decides>, String> {
    Ok(Box::new(Alone { own, proposals: BTreeMap::new(), taking: None }))
}

impl Decides for Alone {
    fn on(&mut self, event: Event, _ctx: Context) -> Vec<Command> {
        match event {
            Event::Propose { ticket, entry } => {
                self.taking = Some(ticket);
                self.proposals.insert(entry.hash(), (ticket, entry.clone()));
                vec![Command::Persist(entry.hash().0.to_vec()), Command::Vote(entry)]
            }
            Event::NotPersisted(why) => {
                let ticket = self.taking.take().unwrap();
                vec![Command::Proposed(ticket, Proposal::Refused(why))]
            }
            Event::Voted { entry, outcome } => {
                let (ticket, entry) = self.proposals.remove(&entry).unwrap();
                match outcome {
                    Ok((head, vote)) => {
                        let head = CoSigned { head, votes: vec![vote].try_into().unwrap() };
                        vec![Command::Take(self.own, Offer { entries: vec![entry], head })]
                    }
                    // Nobody here breaks another rule.
                    Err(_) => vec![Command::Proposed(ticket, Proposal::Overtaken)],
                }
            }
            Event::Taken { outcome, .. } => {
                let ticket = self.taking.take().unwrap();
                let end = outcome.map_or_else(|e| Proposal::Refused(format!("{e:?}")), |_| Proposal::Taken);
                vec![Command::Proposed(ticket, end)]
            }
            Event::Frame(from, frame) => {
                HEARD.lock().unwrap().push((self.own, from, frame.body.len()));
                // One word back.
                let answer = Frame { kind: frame.kind, body: vec![1] };
                if frame.body.len() > 1 { vec![Command::Send(from, answer)] } else { Vec::new() }
            }
            _ => Vec::new(),
        }
    }

    fn deadline(&self) -> Option<Millis> {
        None
    }
}

/// A result: by whom, key, result.
pub type Told = (MemberId, Vec<u8>, Vec<u8>);

/// A `security` that is played.
pub struct Player {
    pub keys: Arc<Keys>,
    pub world: Arc<World>,
    /// Who it says that it is.
    own: Mutex<RosterEntry>,
    pub member: AtomicBool,
    log: Mutex<Vec<String>>,
    pcr: Mutex<Digest>,
    held: Mutex<BTreeMap<MemberId, Vec<u8>>>,
    pub quotes: AtomicUsize,
    pub appraised: AtomicUsize,
    pub hangs: AtomicBool,
    pub forgets: AtomicBool,
    learned: Mutex<Option<(Vec<Committed>, Follower)>>,
    /// Of credentials, by their AKs.
    secrets: Mutex<Vec<(KeyName, CredentialSecret)>>,
    /// What it says when evidence is due: nothing for so long; 0: that it is.
    pub rests: AtomicU64,
    /// Results that it gives out.
    pub results: Mutex<Vec<OwnResult>>,
    /// Of whom it can decide nothing: there is no channel with them.
    pub blind: Mutex<std::collections::BTreeSet<MemberId>>,
    /// Statuses that it has believed.
    pub statuses: Mutex<Vec<gtvp_protocol::gossip::Entry>>,
    /// Results that it was told.
    pub heard: Mutex<Vec<Told>>,
    /// How others see it.
    pub standing: Mutex<std::collections::BTreeMap<MemberId, gtvp_ipc::security::Standing>>,
}

impl Player {
    pub fn new(world: &Arc<World>, keys: &Arc<Keys>, member: bool) -> Arc<Self> {
        Self::as_another(world, keys, keys.entry(), member)
    }

    /// With these keys, as this member.
    pub fn as_another(world: &Arc<World>, keys: &Arc<Keys>, own: RosterEntry, member: bool) -> Arc<Self> {
        let player = Self {
            keys: keys.clone(),
            world: world.clone(),
            own: Mutex::new(own),
            member: AtomicBool::new(member),
            log: Mutex::default(),
            pcr: Mutex::new(Digest([0; 32])),
            held: Mutex::default(),
            quotes: AtomicUsize::new(0),
            appraised: AtomicUsize::new(0),
            hangs: AtomicBool::new(false),
            forgets: AtomicBool::new(false),
            learned: Mutex::default(),
            secrets: Mutex::default(),
            rests: AtomicU64::new(0),
            results: Mutex::default(),
            blind: Mutex::default(),
            statuses: Mutex::default(),
            heard: Mutex::default(),
            standing: Mutex::default(),
        };
        player.measure("good: start");
        Arc::new(player)
    }

    /// Something is started.
    pub fn measure(&self, what: &str) {
        self.log.lock().unwrap().push(what.to_owned());
        self.extend(what);
    }

    /// An extend that nobody logs.
    pub fn extend(&self, what: &str) {
        let mut pcr = self.pcr.lock().unwrap();
        *pcr = extended(*pcr, what);
    }

    fn union(&self) -> (Option<OwnUnion>, u64) {
        let (state, version) = self.world.state();
        let mut own = self.own.lock().unwrap();
        if let Some(now) = state.view.members.get(&own.id()) {
            *own = now.clone();
        }
        let union = OwnUnion { own: own.clone(), state };
        (self.member.load(Ordering::SeqCst).then_some(union), version)
    }

    fn becomes_member(&self) {
        self.member.store(true, Ordering::SeqCst);
        self.changes();
    }

    /// Says that it is in no union any more.
    pub fn leaves(&self) {
        self.member.store(false, Ordering::SeqCst);
        self.changes();
    }

    /// Has the union told anew.
    pub fn changes(&self) {
        self.world.ledger().version += 1;
        self.world.changed.notify_all();
    }
}

fn extended(pcr: Digest, what: &str) -> Digest {
    Digest::of(&[&pcr.0[..], what.as_bytes()].concat())
}

/// A member: its `security` and its `communication`.
pub struct Member {
    pub player: Arc<Player>,
    pub runtime: Arc<Runtime>,
    pub folder: PathBuf,
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Member {
    pub fn start(player: Arc<Player>) -> Self {
        static LAST: AtomicUsize = AtomicUsize::new(0);
        let n = LAST.fetch_add(1, Ordering::SeqCst);
        let folder = std::env::temp_dir().join(format!("gtvp-communication-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self::start_in(player, folder)
    }

    /// With what another one left in this folder.
    pub fn start_in(player: Arc<Player>, folder: PathBuf) -> Self {
        let make: Make = if player.world.real { csp } else { alone };
        let config = Config {
            name: player.keys.name.parse().unwrap(),
            folder: folder.clone(),
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            endpoint: None,
        };
        let runtime = Runtime::start(config, player.clone(), make).unwrap();
        Self { player, runtime, folder }
    }

    pub fn id(&self) -> MemberId {
        self.player.own.lock().unwrap().id()
    }

    /// Where it listens.
    pub fn endpoint(&self) -> Endpoint {
        until("it listens", || self.runtime.listens());
        format!("127.0.0.1:{}", self.runtime.listens().unwrap()).parse().unwrap()
    }

    /// Is told where another one is.
    pub fn hears_of(&self, other: &Member) {
        until("it knows its union", || self.runtime.newest.own());
        self.runtime.reached(other.id(), other.endpoint());
    }

    /// Whether there is a channel, and why not.
    pub fn channel(&self, with: MemberId) -> Result<(), String> {
        let rows = self.runtime.channels();
        let Some(row) = rows.iter().find(|r| r.id == with.to_string()) else {
            return Err("no member".into());
        };
        match row.state.as_str() {
            "open" => Ok(()),
            _ => Err(row.problem.clone().unwrap_or_default()),
        }
    }
}

/// Members of one union, the founder first, each of whom knows where the others are.
pub fn union(period: u32, names: &[&str]) -> (Arc<World>, Vec<Member>) {
    let (world, founder) = World::begin(period);
    let mut keys = vec![founder];
    keys.extend(names.iter().map(|n| Keys::new(n)));
    keys.iter().skip(1).for_each(|k| world.admit(k));
    let members: Vec<Member> = keys.iter().map(|k| Member::start(Player::new(&world, k, true))).collect();
    (world, members)
}

/// Waits until there is something.
pub fn until<T>(what: &str, there: impl Fn() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = there() {
            return found;
        }
        assert!(Instant::now() < end, "not in 30 seconds: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until both have the channel.
pub fn connected(a: &Member, b: &Member) {
    until("a channel", || (a.channel(b.id()).is_ok() && b.channel(a.id()).is_ok()).then_some(()));
}

/// Waits until there is none, for a reason with these words.
pub fn refused(at: &Member, with: MemberId, words: &str) {
    until(words, || at.channel(with).err().filter(|why| why.contains(words)));
}
