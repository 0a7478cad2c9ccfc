//! What a run is: how many members, which faults, which defect on purpose.

use crate::hsp::Mischief;
use crate::rng::Rng;

/// Faults of a run, until it is to settle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    /// The next thing goes wrong after so long at most, ms.
    pub pace: u64,
    /// Of 1,000 frames so many are lost without a word.
    pub loss: u64,
    /// So many come twice.
    pub duplicates: u64,
    /// A frame takes so long, ms, at least and at most; frames overtake each other.
    pub delay: (u64, u64),
    /// Members are cut off from others, one way or both.
    pub partitions: bool,
    /// Power goes, and comes back.
    pub crashes: bool,
    /// A member stops for up to half a minute, and goes on.
    pub pauses: bool,
    /// Clocks are off by up to so many seconds, and jump.
    pub skew: u64,
    /// Of 1,000 times that the node writes something down so many fail.
    pub bad_disk: u64,
}

impl Faults {
    /// A network and machines as they should be.
    pub const NONE: Self = Self {
        pace: 5000,
        loss: 0,
        duplicates: 0,
        delay: (1, 3),
        partitions: false,
        crashes: false,
        pauses: false,
        skew: 0,
        bad_disk: 0,
    };

    /// Some of all.
    pub fn any(rng: &mut Rng) -> Self {
        Self {
            pace: 5000,
            loss: rng.pick(&[0, 0, 10, 100]).unwrap_or(0),
            duplicates: rng.pick(&[0, 10, 100]).unwrap_or(0),
            delay: rng.pick(&[(1, 3), (1, 50), (5, 400)]).unwrap_or((1, 3)),
            partitions: rng.permille(600),
            crashes: rng.permille(700),
            pauses: rng.permille(400),
            skew: rng.pick(&[0, 2, 20]).unwrap_or(0),
            bad_disk: rng.pick(&[0, 0, 20]).unwrap_or(0),
        }
    }
}

/// A defect that is put in, to see that a run finds it. `gtvp_protocol::without` leaves out the protocol's own checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// `security` signs before its promise is durable.
    PromiseNotSynced,
    /// `security` says that it has taken what is not durable.
    RecordNotSynced,
    /// What the node persists is not synchronized.
    RaftNotSynced,
    /// `communication` carries out what stands after a [`gtvp_protocol::csp::node::Command::Persist`] that failed.
    PersistFailureIgnored,
}

/// A part of HSP that a run leaves out, to see that it finds what that stops: a field of what quotes are bound to, or a check of appraisal.
/// Checks of the engines are left out by `gtvp_protocol::without`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Omitted {
    /// Which end attests.
    Role,
    /// Which connection it is.
    Exporter,
    /// The challenger's nonce.
    Nonce,
    /// What both said.
    Transcript,
    /// The AK is the roster's.
    Ak,
    /// Life and clock of a TPM do not go back.
    Clock,
    /// A session is one life of a TPM.
    Life,
    /// The log replays to the PCR.
    Replay,
    /// Entries are known.
    Reference,
    /// The credential was opened.
    Credential,
}

/// What a run is about beside chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Story {
    /// Everybody keeps to the protocol: all invariants, and that the union goes on.
    Honest,
    /// The `communication` of one voter of three lies, and its `security` does not: nobody else is fooled.
    Liar,
    /// One voter of four lies, with its keys: nobody else is fooled. Of three it could have the other two take different entries.
    Traitor,
    /// One voter's disk goes back to what it was, and its TPM does not: nobody else is fooled.
    Rollback,
    /// Everybody keeps to the protocol, with connections by handshakes, and servers that join; somebody on the network and on members
    /// attacks HSP ([`crate::hsp`]).
    Union,
}

/// A run.
#[derive(Debug, Clone)]
pub struct Config {
    /// All chance comes from it.
    pub seed: u64,
    /// Members at the beginning.
    pub members: usize,
    /// How many should vote.
    pub voters: usize,
    /// So long faults happen, ms.
    pub faulty_ms: u64,
    /// What may go wrong.
    pub faults: Faults,
    /// What it is about.
    pub story: Story,
    /// What is wrong on purpose.
    pub bug: Option<Bug>,
    /// What of HSP is left out on purpose.
    pub omitted: std::collections::BTreeSet<Omitted>,
    /// Connections suffer this and nothing else.
    pub attack: Option<Mischief>,
    /// The disk of a voter goes back to what it was.
    pub rolls_back: bool,
    /// What happens is printed.
    pub verbose: bool,
}

impl Config {
    /// The run of a seed.
    pub fn of(seed: u64, story: Story) -> Self {
        let mut rng = Rng::new(seed.wrapping_mul(3).wrapping_add(story as u64));
        let voters = match story {
            Story::Honest => rng.pick(&[1, 2, 3, 3, 4, 5]).unwrap_or(3),
            Story::Liar | Story::Rollback => 3,
            Story::Traitor => 4,
            Story::Union => rng.pick(&[1, 3]).unwrap_or(3),
        };
        let members = voters + usize::try_from(rng.between(1, 3)).unwrap_or(1);
        let faulty_ms = rng.between(20, 90) * 1000;
        let faults = Faults::any(&mut rng);
        let rolls_back = story == Story::Union && voters > 1 && rng.permille(250);
        Self {
            seed,
            members,
            voters,
            faulty_ms,
            faults,
            story,
            bug: None,
            omitted: Default::default(),
            attack: None,
            rolls_back,
            verbose: false,
        }
    }
}
