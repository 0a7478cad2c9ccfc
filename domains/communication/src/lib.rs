//! The rooms of `communication`: the way to other members. `tls` the channel and its keys · `link` one connection, frames in and out.

pub mod link;
pub mod tls;
