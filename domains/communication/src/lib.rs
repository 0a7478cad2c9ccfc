//! The rooms of `communication`, the way to other members; README.md says what it may do and be asked.
//!
//! `engine` decides · `runtime` carries it out · `union`, `security` what the other domain tells and is asked · `identity`, `tls`,
//! `link` a connection · `listen`, `connect`, `join` how one begins · `machine`, `drive`, `calls`, `period` what goes on on it ·
//! `quoter` this member's evidence · `admit` the entry of a joiner · `results` attestation results between members · `standing` how others see this one · `places` where
//! others are · `switch` between threads · `node` the record · `asks` evidence of boxes · `service` what other domains ask.

pub mod address;
pub mod admit;
pub mod asks;
pub mod calls;
pub mod clock;
pub mod connect;
pub mod drive;
pub mod ends;
pub mod engine;
pub mod gossip;
pub mod identity;
pub mod join;
pub mod link;
pub mod listen;
pub mod machine;
pub mod node;
pub mod period;
pub mod places;
pub mod pool;
pub mod quoter;
pub mod results;
pub mod runtime;
pub mod security;
pub mod service;
pub mod standing;
pub mod switch;
pub mod tls;
pub mod union;
