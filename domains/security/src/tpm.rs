//! The member's TPM 2.0: a client of our own, and the one thread ([`actor::Tpm`]) that uses it. Everything outside sees the bytes
//! that TCG defines (contents of TPM2B_PUBLIC and TPM2B_ATTEST, TPMT_SIGNATURE); what they mean is `gtvp_appraisal`'s.
//!
//! Inside out: `transport` the way there · `wire` bytes · `codes` numbers · `client` one command · `commands`, `pcrs` each command
//! · `templates`, `keys`, `saved` keys · `log` GTVP's own log · `promises` what a voter has promised · `actor` the thread, `lanes` who waits for it. `tls` is all that the TLS key signs, and
//! `credential` is the verifier's side of activation, without a TPM.
//!
//! It does not appraise, and it knows neither unions nor protocols.

pub mod actor;
pub mod client;
pub mod codes;
pub mod commands;
pub mod credential;
pub mod keys;
pub mod lanes;
pub mod log;
pub mod pcrs;
pub mod promises;
pub mod saved;
pub mod templates;
pub mod tls;
pub mod transport;
pub mod wire;
