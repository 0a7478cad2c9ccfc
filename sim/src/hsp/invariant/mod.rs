//! What must hold of HSP whatever happens: one file each. They look at what is so and at what members believe, never into an engine.

mod contained;
mod epochs;
mod evicted;
mod healthy;
mod live;
mod once;
mod one_connection;
mod one_life;
mod proved;
mod strangers;
mod transaction;

use gtvp_model::token::TokenId;
use gtvp_model::union::Epoch;

use crate::invariant::Violation;

/// A channel, as it is.
#[derive(Debug, Clone, Copy)]
pub struct Open {
    /// Whose end.
    pub by: usize,
    /// Whose it is at the other end, as this end believes.
    pub peer: usize,
    /// For everything.
    pub full: bool,
    /// Since when.
    pub since: u64,
    /// When this end's member last went on after it had stood still.
    pub rested: u64,
    /// Who really is there, if it is a server of its own.
    pub there: Option<usize>,
    /// It is not whom this end has called.
    pub another: bool,
    /// Both ends are of one connection.
    pub one: bool,
    /// The epochs of this end and the other when they began.
    pub epochs: [Epoch; 2],
    /// The record of this end has the peer.
    pub known: bool,
    /// Since when the peer runs what it should not, if that can be told.
    pub tampered: Option<u64>,
}

/// What there was to see.
#[derive(Debug, Clone)]
pub enum Seen {
    /// A channel came to be.
    Opened(Open),
    /// Evidence was believed, of a handshake or a later round, of this life of the TPM, by a verifier in this life of its own.
    Believed { verifier: (usize, u32), of: usize, handshake: bool, life: u32 },
    /// All channels.
    Audit(Vec<Open>),
    /// A member's record has changed, and it has channels with these, who are no members.
    Changed { by: usize, strangers: Vec<usize> },
    /// A server was given a token.
    Given { server: usize, token: TokenId },
    /// The record has admitted somebody: the server whose keys those are, and whether they are in its TPM and it runs what it should.
    Admitted { token: TokenId, server: Option<usize>, genuine: bool },
    /// A member sends its record to who has proved no token.
    Told { server: usize },
    /// A server has written down that it is a member.
    Member { server: usize },
    /// A server's try to join is over: whether it has kept anything of the union.
    NotJoined { server: usize, kept: bool },
    /// Appraisal did not believe who is well.
    Disbelieved { by: usize, of: usize, why: String },
    /// Faults are over, and some time has passed: who has no fresh channel with whom, and who should be a member and is none.
    Settled { apart: Vec<(usize, usize)>, outside: Vec<usize> },
}

trait Invariant {
    fn name(&self) -> &'static str;
    /// # Errors
    /// What is wrong.
    fn see(&mut self, seen: &Seen, now: u64) -> Result<(), String>;
}

/// All of them.
pub struct Invariants(Vec<Box<dyn Invariant>>);

impl Invariants {
    pub fn all() -> Self {
        Self(vec![
            Box::new(proved::Proved::default()),
            Box::new(once::Once::default()),
            Box::new(transaction::Transaction::default()),
            Box::new(strangers::Strangers),
            Box::new(one_connection::OneConnection),
            Box::new(contained::Contained),
            Box::new(epochs::Epochs),
            Box::new(evicted::Evicted),
            Box::new(one_life::OneLife::default()),
            Box::new(healthy::Healthy),
            Box::new(live::Live),
        ])
    }

    /// # Errors
    /// The first that does not hold.
    pub fn see(&mut self, seen: &Seen, now: u64) -> Result<(), Violation> {
        for invariant in &mut self.0 {
            let name = invariant.name();
            invariant.see(seen, now).map_err(|what| Violation { invariant: name, what, at: now })?;
        }
        Ok(())
    }
}
