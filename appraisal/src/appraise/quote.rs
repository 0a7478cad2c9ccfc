//! The quote: whose it is, that it was signed, what it answers, when it was made, which values it is over.

use super::planted::{Guard, guard, left_out};
use super::{Attester, Binding, Check, Failure, KnownFrom, NotMade, Question, Verdict};
use crate::alg::HashAlg;
use crate::evidence::{Evidence, quoted};
use crate::tpm::{Attest, Attested, ClockInfo, PcrSelection, PcrValues, Signature};

/// A quote that was believed.
pub(super) struct Quote<'a> {
    pub bank: HashAlg,
    pub values: &'a PcrValues,
    pub clock: ClockInfo,
}

pub(super) fn check<'a>(
    evidence: &'a Evidence,
    question: &Question<'_>,
    verdict: &mut Verdict,
) -> Result<Quote<'a>, Failure> {
    let mut attester = question.attester;
    let other;
    if evidence.ak != attester.public {
        other = Attester::new(&evidence.ak, attester.class).map_err(Failure::BadAk)?;
        guard(Guard::Key, false, || Failure::OtherAk {
            got: Box::new(other.name),
            want: Box::new(attester.name),
        })?;
        attester = &other;
    }
    match question.known_from {
        KnownFrom::Record => verdict.passed.push(Check::Key),
        KnownFrom::Claim => verdict.not_made.push(NotMade::KeyClaimed),
    }

    // Over the bytes as they came, before anything in them is looked at.
    let signature = Signature::parse(&evidence.signature).map_err(Failure::Malformed)?;
    match attester.key.verify(&evidence.quote, &signature) {
        Err(e) if !left_out(Guard::Signature) => return Err(Failure::Signature(e)),
        _ => {}
    }
    let attest = Attest::parse(&evidence.quote).map_err(Failure::Malformed)?;
    let Attested::Quote { selection, digest } = &attest.attested else { return Err(Failure::NotAQuote) };
    verdict.passed.push(Check::Signature);

    match question.binding {
        Binding::Qualifying(want) => {
            guard(Guard::Binding, attest.extra_data == want, || Failure::BoundElsewhere)?;
            verdict.passed.push(Check::Binding);
        }
        Binding::NotChecked => verdict.not_made.push(NotMade::Freshness),
    }

    verdict.clock = Some(attest.clock);
    epoch(&attest.clock, question, verdict)?;
    let bank = values(evidence, selection, digest, signature.hash())?;
    verdict.passed.push(Check::Pcrs);
    Ok(Quote { bank, values: &evidence.pcrs, clock: attest.clock })
}

fn epoch(clock: &ClockInfo, question: &Question<'_>, verdict: &mut Verdict) -> Result<(), Failure> {
    if !clock.safe {
        verdict.not_made.push(NotMade::ClockUnsafe);
    }
    if let Some(newest) = question.newest {
        let (was, now) = (newest.epoch(), clock.epoch());
        guard(Guard::Life, was <= now, || Failure::EarlierLife { was, now })?;
        guard(Guard::Clock, was != now || clock.clock >= newest.clock, || Failure::ClockBack {
            was: newest.clock,
            now: clock.clock,
        })?;
    }
    if let Some(held) = question.held {
        let (was, now) = (held.clock.epoch(), clock.epoch());
        guard(Guard::Epoch, was == now, || Failure::TpmReset { was, now })?;
        guard(Guard::Clock, clock.clock >= held.clock.clock, || Failure::ClockBack {
            was: held.clock.clock,
            now: clock.clock,
        })?;
    }
    verdict.passed.push(Check::Epoch);
    Ok(())
}

/// The values must be exactly the quoted ones: another value, one more or one less has another digest.
fn values(
    evidence: &Evidence,
    selection: &PcrSelection,
    digest: &[u8],
    hash: HashAlg,
) -> Result<HashAlg, Failure> {
    let bank = selection.single_bank().map_err(Failure::Bank)?;
    if !bank.is_trusted() {
        return Err(Failure::Sha1Bank);
    }
    if let Some(missing) = quoted().find(|p| !selection.contains(bank, *p)) {
        guard(Guard::Selection, false, || Failure::PcrNotQuoted(missing))?;
    }
    let computed = evidence.pcrs.digest(selection, hash);
    let same = computed.is_some_and(|c| c.as_bytes() == digest);
    guard(Guard::Values, same && evidence.pcrs.bank() == bank, || Failure::PcrValues)?;
    Ok(bank)
}
