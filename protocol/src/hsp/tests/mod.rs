//! HSP as its users see it, and its attackers.

mod attacks;
mod join;
mod models;
mod session;
mod spec;
mod table;
mod world;
