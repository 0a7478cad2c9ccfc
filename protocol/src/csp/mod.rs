//! CSP, Configuration Synchronization Protocol (GTVP §2.2): the union's one record, and how a member that only reads it knows
//! that it has the right one.
//!
//! ```text
//!   act (JSON, its one form) ─▶ Entry ─▶ hash ──▶ previous of the next entry
//!                                 │        └────▶ Head, co-signed by a majority of voters with a time
//!                                 └─ signed by its author
//! ```
//!
//! [`Record`] is what the entries add up to: each member computes it for itself, from entries that it has checked. [`Follower`]
//! takes what other members offer; [`Keeper`] is a follower that may also have a vote. [`node`] is what goes on between members: a
//! Raft library among the voters says which entry comes next, and everybody else pulls.

pub mod act;
pub mod budget;
pub mod entry;
pub mod follow;
pub mod head;
pub mod keeper;
pub mod node;
pub mod owner;
pub mod page;
pub mod record;
#[cfg(test)]
pub(crate) mod testing;

pub use act::Act;
pub use entry::{Entry, Signature, Signatures, SignedEntry};
pub use follow::{Follower, Offer};
pub use head::{CoSigned, Head, Vote};
pub use keeper::Keeper;
pub use owner::Owning;
pub use page::Committed;
pub use record::{Record, Refusal};
