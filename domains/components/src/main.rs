//! OSCD (GTVP §2.2): component store, compositions, what a box's root is made of.
#![allow(dead_code)]
mod apt;
mod archive;
mod catalogue;
mod closure;
mod control;
mod deb;
mod sources;
mod store;
mod verity;
mod version;

/// Milliseconds since 1970-01-01 UTC.
fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
fn main() {}
