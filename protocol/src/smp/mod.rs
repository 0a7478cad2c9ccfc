//! SMP, Secure Migration Protocol (GTVP §3.2): a running box changes hands, and never has more or less than one owner.
//!
//! ```text
//!   Ticket, signed by both ─▶ source: Machine<Source>  ◀── messages ──▶  target: Machine<Target>
//!                                       │    each change of state is in the journal before anything of it is done    │
//!                                       └─────────────▶  the record: Owning::Moved, MoveAborted  ◀────────────────┘
//! ```
//!
//! [`source::TABLE`] and [`target::TABLE`] are the protocol: state × event → what must hold, what is done, the next state. The
//! engine ([`engine`]) looks things up in them and has no rule of its own about when something is done; the model checker (`sim`)
//! explores the same tables. docs/spec/smp.md shows them.
//!
//! What the state is made of, and how it travels, is not here: `SendState` and `Receive` are commands.

pub mod engine;
pub mod message;
pub mod source;
pub mod table;
pub mod target;
#[cfg(test)]
mod tests;
pub mod ticket;

pub use engine::{Command, Context, Event, Facts, Journal, Machine, Product, Request, Side, Step, Wish};
pub use message::{Message, limits, to_unknown};
pub use source::Source;
pub use table::{Do, End, If, On, Row, Say, Told};
pub use target::Target;
pub use ticket::{SignedTicket, Ticket, TicketRefusal};
