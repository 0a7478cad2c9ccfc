//! Values that two or more parts of GTVP share. A value that exists is valid: every constructor, and every
//! deserializer, checks what it takes.
//!
//! Nothing here opens a file, a socket or a clock.

pub mod api;
pub mod boxspec;
pub mod boxview;
pub mod component;
pub mod composition;
pub mod digest;
pub mod event;
pub mod fault;
pub mod guest;
pub mod hex;
pub mod ids;
pub mod member;
pub mod operation;
pub mod owner;
pub mod peer;
pub mod stream;
pub mod template;
pub mod token;
pub mod topology;
pub mod union;
pub mod unionview;
pub mod units;
