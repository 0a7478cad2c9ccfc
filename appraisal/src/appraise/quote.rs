//! The quote: whose it is, that it was signed, what it answers, when it was made, which values it is over.

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
    let attester = question.attester;
    if evidence.ak != attester.public {
        let got = Attester::new(&evidence.ak, attester.class).map_err(Failure::BadAk)?;
        return Err(Failure::OtherAk { got: Box::new(got.name), want: Box::new(attester.name) });
    }
    match question.known_from {
        KnownFrom::Record => verdict.passed.push(Check::Key),
        KnownFrom::Claim => verdict.not_made.push(NotMade::KeyClaimed),
    }

    // Over the bytes as they came, before anything in them is looked at.
    let signature = Signature::parse(&evidence.signature).map_err(Failure::Malformed)?;
    attester.key.verify(&evidence.quote, &signature).map_err(Failure::Signature)?;
    let attest = Attest::parse(&evidence.quote).map_err(Failure::Malformed)?;
    let Attested::Quote { selection, digest } = &attest.attested else { return Err(Failure::NotAQuote) };
    verdict.passed.push(Check::Signature);

    match question.binding {
        Binding::Qualifying(want) if attest.extra_data == want => verdict.passed.push(Check::Binding),
        Binding::Qualifying(_) => return Err(Failure::BoundElsewhere),
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
    if let Some(held) = question.held {
        let (was, now) = (held.clock.epoch(), clock.epoch());
        if was != now {
            return Err(Failure::TpmReset { was, now });
        }
        if clock.clock < held.clock.clock {
            return Err(Failure::ClockBack { was: held.clock.clock, now: clock.clock });
        }
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
        return Err(Failure::PcrNotQuoted(missing));
    }
    match evidence.pcrs.digest(selection, hash) {
        Some(computed) if computed.as_bytes() == digest => Ok(bank),
        _ => Err(Failure::PcrValues),
    }
}
