//! PCRs: which, their values, and quotes of them whose values are known. Replaying a log to them is the verifier's.

use super::client::{Client, TpmError};
use super::codes::{GENERATED, ST_ATTEST_QUOTE, alg, cc};
use super::commands::{Clock, read_clock_info};
use super::wire::{Command, Malformed, Reader, Writer};

/// PCRs of a PC Client TPM (PC Client Platform TPM Profile, §4.6).
pub const PCRS: u32 = 24;
/// A TPM gives at most eight values at once (TPML_DIGEST); 24 take three rounds.
const MAX_ROUNDS: usize = 24;
/// Attempts at a quote while another program extends PCRs: IMA extends for every new file during a boot.
const MAX_ATTEMPTS: u32 = 16;
/// TPM2B_DATA is as large as the largest digest with its algorithm; what is quoted here is a digest of at most 64 bytes.
pub const MAX_QUALIFYING: usize = 64;

/// A bank. SHA-1 is not one: nothing may rest on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bank {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
}

impl Bank {
    /// TPM_ALG_ID.
    pub fn algorithm(self) -> u16 {
        match self {
            Self::Sha256 => alg::SHA256,
            Self::Sha384 => alg::SHA384,
        }
    }

    /// Bytes of a value.
    pub fn size(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }
}

/// Some PCRs of one bank, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection {
    bank: Bank,
    mask: u32,
}

impl Selection {
    /// These PCRs; `None` for none, or for one that does not exist.
    pub fn new(bank: Bank, pcrs: impl IntoIterator<Item = u32>) -> Option<Self> {
        let mut mask = 0;
        for pcr in pcrs {
            mask |= if pcr < PCRS { 1u32 << pcr } else { return None };
        }
        (mask != 0).then_some(Self { bank, mask })
    }

    /// The bank.
    pub fn bank(self) -> Bank {
        self.bank
    }

    /// The PCRs, in order.
    pub fn pcrs(self) -> impl Iterator<Item = u32> {
        (0..PCRS).filter(move |pcr| self.mask & (1 << pcr) != 0)
    }

    /// TPML_PCR_SELECTION with this one selection (Part 2 §10.9.7).
    pub fn to_bytes(self) -> Vec<u8> {
        let [a, b, c, _] = self.mask.to_le_bytes();
        Writer::new().u32(1).u16(self.bank.algorithm()).u8(3).bytes(&[a, b, c]).done()
    }

    fn read(r: &mut Reader<'_>) -> Result<(u16, u32), Malformed> {
        if r.count(1, "the number of selections")? == 0 {
            return Ok((alg::NULL, 0));
        }
        let bank = r.u16("the bank")?;
        let size = r.u8("the selection's size")?;
        if size > 4 {
            return Err(Malformed::Unexpected { what: "the selection's size", got: size.into() });
        }
        let bits = r.take(size.into(), "the selection")?;
        Ok((bank, bits.iter().rev().fold(0, |mask, byte| mask << 8 | u32::from(*byte))))
    }
}

/// A quote and what it quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// Contents of TPM2B_ATTEST: the exact bytes that are signed.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE by the attestation key.
    pub signature: Vec<u8>,
    /// What was selected.
    pub selection: Selection,
    /// The values, in the order of the selection; their digest is the one in `attest`.
    pub values: Vec<Vec<u8>>,
    /// The TPM's clock in `attest`.
    pub clock: Clock,
}

impl Client {
    /// Values of the selected PCRs, in order, and the TPM's count of changes to any PCR.
    pub fn pcr_read(&mut self, selection: Selection) -> Result<(Vec<Vec<u8>>, u32), TpmError> {
        const NAME: &str = "PCR_Read";
        let untrue = |why| TpmError::Untrue { command: NAME, why };
        let mut missing = selection;
        let mut values = Vec::new();
        let mut counter = None;
        for _ in 0..MAX_ROUNDS {
            let command = Command::plain(cc::PCR_READ).with(Writer::new().bytes(&missing.to_bytes()));
            let said = self.run(NAME, &command)?;
            let mut r = Reader::new(&said.parameters);
            let read = (|| {
                let now = r.u32("the counter")?;
                let (bank, mask) = Selection::read(&mut r)?;
                let count = r.count(8, "the number of values")?;
                let digests = (0..count).map(|_| r.sized(64, "a value").map(<[u8]>::to_vec));
                Ok((now, bank, mask, digests.collect::<Result<Vec<_>, _>>()?))
            })();
            let (now, bank, mask, got) =
                read.map_err(|source| TpmError::Malformed { command: NAME, source })?;
            if mask == 0 {
                return Err(TpmError::Unfit(
                    "the TPM keeps no PCRs of this bank: turn it on in the firmware's setup",
                ));
            }
            if bank != selection.bank.algorithm()
                || mask & !missing.mask != 0
                || usize::try_from(mask.count_ones()) != Ok(got.len())
                || got.iter().any(|v| v.len() != selection.bank.size())
            {
                return Err(untrue("it read other PCRs than it was asked for"));
            }
            // Values are given from the lowest PCR on: below the last of them nothing may be missing.
            if missing.mask & !mask & (u32::MAX >> mask.leading_zeros()) != 0 {
                return Err(untrue("it left PCRs out"));
            }
            if *counter.get_or_insert(now) != now {
                // Something changed in between: from the beginning.
                (missing, counter) = (selection, None);
                values.clear();
                continue;
            }
            values.extend(got);
            missing.mask &= !mask;
            if missing.mask == 0 {
                return Ok((values, now));
            }
        }
        Err(TpmError::Unsteady(u32::try_from(MAX_ROUNDS).unwrap_or(u32::MAX)))
    }

    /// A quote whose values were read so that they match it: as often as it takes, within a bound.
    pub fn quote_with_values(
        &mut self,
        key: u32,
        qualifying: &[u8],
        selection: Selection,
    ) -> Result<Quote, TpmError> {
        if qualifying.len() > MAX_QUALIFYING {
            return Err(TpmError::Unfit("a quote covers at most 64 bytes of its challenger's"));
        }
        for _ in 0..MAX_ATTEMPTS {
            let attested = self.quote(key, qualifying, &selection.to_bytes())?;
            let read = read_quote(&attested.attest)
                .map_err(|source| TpmError::Malformed { command: "Quote", source })?;
            let wrong = |why| Err(TpmError::Untrue { command: "Quote", why });
            if read.qualifying != qualifying {
                return wrong("it covers other data than it was given");
            }
            if (read.bank, read.mask) != (selection.bank.algorithm(), selection.mask) {
                return wrong("it covers other PCRs than were selected");
            }
            let (values, _) = self.pcr_read(selection)?;
            if digest_of(&values) == read.digest {
                let clock = read.clock;
                let (attest, signature) = (attested.attest, attested.signature);
                return Ok(Quote { attest, signature, selection, values, clock });
            }
        }
        Err(TpmError::Unsteady(MAX_ATTEMPTS))
    }
}

/// The digest that a key with SHA-256 quotes (Part 1 §17.6.2).
fn digest_of(values: &[Vec<u8>]) -> Vec<u8> {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    values.iter().for_each(|value| context.update(value));
    context.finish().as_ref().to_vec()
}

struct ReadQuote<'a> {
    qualifying: &'a [u8],
    clock: Clock,
    bank: u16,
    mask: u32,
    digest: Vec<u8>,
}

/// TPMS_ATTEST of a quote (Part 2 §10.12.12): what is needed to know that values match it. Appraising it is the verifier's.
fn read_quote(attest: &[u8]) -> Result<ReadQuote<'_>, Malformed> {
    let mut r = Reader::new(attest);
    for (what, want, got) in [
        ("the magic number", GENERATED, r.u32("the magic number")?),
        ("the type", ST_ATTEST_QUOTE.into(), r.u16("the type")?.into()),
    ] {
        if want != got {
            return Err(Malformed::Unexpected { what, got: got.into() });
        }
    }
    r.sized(68, "the signer")?;
    let qualifying = r.sized(MAX_QUALIFYING, "the qualifying data")?;
    let clock = read_clock_info(&mut r)?;
    r.u64("the firmware's version")?;
    let (bank, mask) = Selection::read(&mut r)?;
    let digest = r.sized(64, "the PCRs' digest")?.to_vec();
    r.end()?;
    Ok(ReadQuote { qualifying, clock, bank, mask, digest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_has_its_bits_where_part_2_wants_them() {
        let s = Selection::new(Bank::Sha256, [0, 9, 23]).unwrap();
        assert_eq!(s.to_bytes(), [0, 0, 0, 1, 0, 0x0b, 3, 1, 2, 0x80]);
        assert_eq!(s.pcrs().collect::<Vec<_>>(), [0, 9, 23]);
        assert!(Selection::new(Bank::Sha256, [24]).is_none() && Selection::new(Bank::Sha256, []).is_none());
        let bytes = s.to_bytes();
        assert_eq!(Selection::read(&mut Reader::new(&bytes)), Ok((alg::SHA256, 1 | 1 << 9 | 1 << 23)));
    }
}
