//! Runs find what is wrong with HSP: each defect that is put in on purpose is found by some seed, by the invariant that is about it.
//! That the same seeds find nothing without it is `safety.rs`'s.

use gtvp_protocol::{Check, without_all};
use gtvp_sim::{Config, Mischief, Omitted, Story, Violation, run};

const OTHER: &str = "at the other end is who is believed to be";
const CONTAINED: &str = "who was tampered with is cut off in time";
const EPOCHS: &str = "who has an old roster gets the record only";
const EVICTED: &str = "who is evicted has no channel";
const LIFE: &str = "a session is one life of a TPM";
const ONCE: &str = "a token admits one";
const PROVED: &str = "who is admitted has proved its TPM for that token";
const WHOLE: &str = "a join is whole or nothing";
const STRANGERS: &str = "strangers hear nothing";

/// Seeds that a defect has until it must be found.
const SEEDS: u64 = 300;

fn find(
    seeds: u64,
    checks: &[Check],
    omitted: &[Omitted],
    attack: Option<Mischief>,
    which: impl Fn(&Violation) -> bool,
) -> Option<(u64, Violation)> {
    without_all(checks, || {
        (0..seeds).find_map(|seed| {
            let mut config = Config::of(seed, Story::Union);
            config.omitted = omitted.iter().copied().collect();
            config.attack = attack;
            run(&config).violation.filter(|v| which(v)).map(|v| (seed, v))
        })
    })
}

#[track_caller]
fn found(checks: &[Check], omitted: &[Omitted], attack: Option<Mischief>, invariants: &[&str]) {
    // What is left out may do harm that another invariant is about too.
    let about = |v: &Violation| invariants.contains(&v.invariant);
    let violation = find(SEEDS, checks, omitted, attack, about);
    let (seed, v) = violation.unwrap_or_else(|| panic!("{checks:?} {omitted:?} are not missed"));
    println!("{checks:?} {omitted:?}: seed {seed}: {}: {}", v.invariant, v.what);
}

macro_rules! planted {
    ($($(#[$doc:meta])* fn $name:ident() [$($check:ident),*] [$($omitted:ident),*] => $($invariant:ident)|+;)*) => {
        $($(#[$doc])* #[test]
        #[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
        fn $name() {
            found(&[$(Check::$check),*], &[$(Omitted::$omitted),*], None, &[$($invariant),+]);
        })*
    };
}

planted! {
    /// A round is answered by the evidence of the one before. The transcript has the nonce too.
    fn a_nonce_that_is_not_checked() [] [Nonce, Transcript] => CONTAINED;
    /// Somebody in the middle passes every byte on.
    fn an_exporter_that_is_not_bound() [] [Exporter] => OTHER;
    fn an_epoch_that_is_not_compared() [EpochGrant] [] => EPOCHS;
    fn a_roster_that_is_not_looked_at() [Evicted] [] => EVICTED;
    fn a_call_that_ends_elsewhere() [Dialled] [] => OTHER;
    /// A member's disk beside another TPM.
    fn a_clone_whose_keys_are_not_looked_at() [TlsKey] [Ak] => OTHER | CONTAINED;
    fn a_quote_by_another_tpm() [] [Ak] => CONTAINED;
    fn a_tpm_that_went_back() [] [Clock] => CONTAINED;
    fn a_tpm_that_was_reset_within_a_session() [] [Life] => LIFE;
    fn silence_that_is_no_reason() [Silence] [] => CONTAINED;
    fn a_pcr_that_is_not_missed() [PcrSelection] [] => CONTAINED;
    fn a_tpm_that_is_not_missed() [NoEvidence] [] => CONTAINED;
    fn a_log_that_is_not_replayed() [] [Replay] => CONTAINED;
    fn entries_that_nobody_looks_at() [] [Reference] => CONTAINED | PROVED;
    fn a_credential_that_was_not_opened() [] [Credential] => PROVED;
    fn a_token_that_is_used_twice() [TokenUnused, EntryToken] [] => ONCE;
    fn a_token_without_its_secret() [TokenSecret, EntryToken] [] => PROVED;
    fn an_entry_that_is_not_there() [OwnEntry] [] => WHOLE;
    fn a_token_that_has_ended() [TokenExpiry, EntryToken] [] => PROVED;
    fn a_token_for_another_tpm() [TokenEk, EntryToken] [] => PROVED;
    fn a_name_that_a_member_has() [NameFree, EntryFree] [] => PROVED;
    fn a_tls_key_that_is_in_no_tpm() [Certified] [] => PROVED;
    /// It was not shown that the token is there: who has only seen its id is sent the record.
    fn a_token_that_was_not_proved() [TokenProof] [] => STRANGERS;
}

/// A member's own words back to it, under its own key: three checks stand before the role in what is quoted, which stops it alone.
#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn a_role_that_is_not_bound() {
    let before = [Check::NotOurselves, Check::NonceEchoed, Check::Dialled];
    found(&before, &[Omitted::Role], Some(Mischief::Reflect), &[OTHER]);
    assert_eq!(find(40, &before, &[], Some(Mischief::Reflect), |_| true), None);
}

/// An answer that was given before comes again while bad evidence is looked at.
#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn an_answer_to_another_request() {
    let attack = Some(Mischief::Echo);
    found(&[Check::Request], &[], attack, &[CONTAINED]);
    assert_eq!(find(40, &[], &[], attack, |v| v.invariant == CONTAINED), None);
}

/// A member whose random numbers stand still would ask twice with one nonce. The transcript, which has the round's number, stops the
/// evidence of the round before, too.
#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn a_nonce_that_comes_again() {
    let attack = Some(Mischief::Stuck);
    found(&[Check::NonceFresh], &[Omitted::Transcript], attack, &[CONTAINED]);
    let contained = |v: &Violation| v.invariant == CONTAINED;
    assert_eq!(find(60, &[], &[Omitted::Transcript], attack, contained), None);
    assert_eq!(find(60, &[Check::NonceFresh], &[], attack, contained), None);
}

/// What a member said on a connection, once more on another: each of the three fields stops it alone.
#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn evidence_that_is_bound_to_no_connection_and_no_nonce() {
    let all = [Omitted::Exporter, Omitted::Nonce, Omitted::Transcript];
    let attack = Some(Mischief::Replay);
    found(&[], &all, attack, &[OTHER]);
    // The exporter alone lets relays through, and the other two together the evidence of a round before: not this.
    assert_eq!(find(40, &[], &all[1..2], attack, |_| true), None);
    assert_eq!(find(40, &[], &all[2..], attack, |_| true), None);
}

/// Between a joiner and a member somebody passes every byte on: each of the five has the connection in it, and stops it alone.
#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimization: cargo test --release -p gtvp-sim")]
fn a_join_that_is_bound_to_no_connection() {
    let attack = Some(Mischief::RelayedJoin);
    let checks = [Check::TokenProof, Check::VerifierProof, Check::Certified];
    let omitted = [Omitted::Exporter, Omitted::Credential];
    found(&checks, &omitted, attack, &[OTHER]);
    let without = |n: usize| {
        let checks: Vec<Check> =
            checks.iter().enumerate().filter(|(i, _)| *i != n).map(|(_, c)| *c).collect();
        let omitted = omitted.iter().enumerate().filter(|(i, _)| i + 3 != n);
        let omitted: Vec<Omitted> = omitted.map(|(_, o)| *o).collect();
        find(20, &checks, &omitted, attack, |v| v.invariant == OTHER)
    };
    (0..5).for_each(|n| assert_eq!(without(n), None, "{n}"));
}
