//! CSP's gossip: how signed entries reach members to whom their author has no channel (docs/spec/gossip.md). An entry is pushed to a few
//! neighbours when it is new; each round a member also tells one neighbour in a filter what it has, and gets what it lacks.
//!
//! Nothing is kept or passed on before its signature was checked here, so that whoever passes it on can delay it and no more. How an
//! entry counts is not decided here: results are `security`'s to believe, and statuses decide nothing at all.

mod budget;
mod engine;
mod entry;
mod filter;
mod message;
mod status;
mod store;

pub use engine::{Checked, Command, Context, Event, FANOUT, Gossip, LINK_ROUND, MAX_LINKS, Times};
pub use entry::{Entry, Key, Kind, MAX_BODY, MAX_ENTRY, content};
pub use message::{HAVE, Have, MAX_MESSAGE, SPREAD, Spread, limits};
pub use status::{BadStatus, Status};
pub use store::OF_AUTHOR;
