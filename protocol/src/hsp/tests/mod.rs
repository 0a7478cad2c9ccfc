//! HSP as its users see it, and its attackers.

mod attacks;
mod join;
mod session;
mod spec;
mod table;
mod world;
