//! What must hold whatever happens: one file each. They look at what members that keep to the protocol have and send.

mod ended;
mod everywhere;
mod forged;
mod link;
mod member;
mod neighbour;
mod newest;
mod share;

use std::collections::BTreeSet;

use gtvp_model::union::MemberId;
use gtvp_protocol::gossip::{Entry, Times};

use crate::invariant::Violation;

/// An author's number, its newest version, and who has which.
pub type Said = (usize, u64, Vec<(usize, Option<u64>)>);

/// What there was to see, of a member that keeps to the protocol.
pub enum Seen<'a> {
    /// A round of this one's began.
    Round(usize),
    /// It sent a frame of so many bytes to this one, with these entries in it.
    Sent {
        /// Who.
        by: usize,
        /// To whom.
        to: usize,
        /// With its header.
        bytes: usize,
        /// What was in it.
        entries: &'a [Entry],
        /// What time it was by the sender's clock.
        wall: u64,
    },
    /// It looked at the signature of what this one passed on.
    Looked {
        /// Who.
        by: usize,
        /// Who passed it on.
        from: usize,
    },
    /// It has this now.
    Took {
        /// Who.
        by: usize,
        /// What.
        entry: &'a Entry,
        /// What time it was by its clock.
        wall: u64,
    },
    /// It has begun anew, with nothing.
    Restarted(usize),
    /// These are the members from now on.
    Members(&'a BTreeSet<MemberId>),
    /// Faults are over, and some rounds have passed: of each of these authors the newest version, and what members have of it.
    Settled {
        /// Author, version, and who has which.
        all: &'a [Said],
    },
}

trait Invariant {
    fn name(&self) -> &'static str;
    /// # Errors
    /// What is wrong.
    fn see(&mut self, seen: &Seen<'_>, now: u64) -> Result<(), String>;
}

/// All of them.
pub struct Invariants(Vec<Box<dyn Invariant>>);

impl Invariants {
    /// Of a run with these times and so many members.
    pub fn all(times: Times, members: usize) -> Self {
        Self(vec![
            Box::new(forged::Forged),
            Box::new(newest::Newest::default()),
            Box::new(ended::Ended),
            Box::new(member::Member::default()),
            Box::new(share::Share::new(times, members)),
            Box::new(neighbour::Neighbour::new(times)),
            Box::new(link::Link::default()),
            Box::new(everywhere::Everywhere),
        ])
    }

    /// # Errors
    /// The first that does not hold.
    pub fn see(&mut self, seen: &Seen<'_>, now: u64) -> Result<(), Violation> {
        for invariant in &mut self.0 {
            let name = invariant.name();
            invariant.see(seen, now).map_err(|what| Violation { invariant: name, what, at: now })?;
        }
        Ok(())
    }
}
