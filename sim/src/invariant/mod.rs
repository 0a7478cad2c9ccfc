//! What must hold whatever happens: one file each. They look at what members that keep to the protocol have, sign and say; never
//! into a node.

mod acknowledged;
mod agreed;
mod current;
mod live;
mod never_back;
mod no_fork;
mod one_promise;

use gtvp_model::union::{RecordHead, UnixTime};

/// What there was to see.
#[derive(Debug, Clone)]
pub enum Seen {
    /// A member has these entries now, and holds that its head was the last one at `time`.
    Took {
        /// Which one.
        member: usize,
        /// Those that are new to it.
        entries: Vec<RecordHead>,
        /// The last one.
        head: RecordHead,
        /// By the word of a majority.
        time: UnixTime,
    },
    /// A member has started with this record.
    Loaded {
        /// Which one.
        member: usize,
        /// Its last entry.
        head: RecordHead,
        /// The number of the last entry that it knows it has promised.
        promised: u64,
    },
    /// A voter has promised an entry.
    Promised {
        /// Which one.
        voter: usize,
        /// What.
        at: RecordHead,
    },
    /// Who proposed an entry was told that it is in the record.
    Acknowledged {
        /// Which entry.
        at: RecordHead,
    },
    /// Faults are over, and some time has passed.
    Settled {
        /// Members of the union and their last entries.
        heads: Vec<(usize, RecordHead)>,
        /// A member of which no entry went in after that, and what became of it.
        failed: Option<(usize, String)>,
    },
}

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The invariant.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
    /// When, ms.
    pub at: u64,
}

trait Invariant {
    fn name(&self) -> &'static str;
    /// # Errors
    /// What is wrong.
    fn see(&mut self, seen: &Seen, now: u64) -> Result<(), String>;
}

/// Which invariants a run is held to.
pub struct Invariants(Vec<Box<dyn Invariant>>);

impl Invariants {
    /// Of a run in which all keep to the protocol, and in which clocks are off by up to `skew` seconds around `wall`.
    pub fn all(wall: u64, skew: u64) -> Self {
        let mut all = Self::safety(wall, skew);
        all.0.push(Box::new(agreed::Agreed::default()));
        all.0.push(Box::new(live::Live));
        all
    }

    /// Of a run in which somebody lies: those who do not are not fooled, and may have to wait.
    pub fn safety(wall: u64, skew: u64) -> Self {
        Self(vec![
            Box::new(no_fork::NoFork::default()),
            Box::new(one_promise::OnePromise::default()),
            Box::new(never_back::NeverBack::default()),
            Box::new(acknowledged::Acknowledged::default()),
            Box::new(current::Current::new(wall, skew)),
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
