//! One quote for all who ask in a period: a tree over leaves that are computed here, from what each is bound to.

use std::os::fd::OwnedFd;

use aws_lc_rs::digest::{Context, SHA256};
use gtvp_ipc::bulk;
use gtvp_ipc::security::{Challenged, LogSpan, Quote, QuoteAnswer, Quoted};
use gtvp_ipc::supervisor::KernelLog;
use gtvp_model::digest::Digest;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_protocol::frame::wire::TooManyBytes;
use gtvp_protocol::hsp::message::{Bank as WireBank, LogKind, PCRS, Pcr};
use gtvp_protocol::hsp::{Binding, tree};

use super::Peers;
use crate::evidence::{kernel_log, turn_for_quote};
use crate::platform::fault;
use crate::tpm::pcrs::{Bank, Selection};
use crate::union::OwnKeys;

/// Lengths of one log that are remembered with their digests.
const MOST: usize = 16;

/// SHA-256 over the beginnings of the kernel's logs, which only grow while this machine runs: so that nobody reads them from the first
/// byte on in each period.
#[derive(Default)]
pub struct Prefixes(Vec<(LogKind, u64, Context)>);

impl Prefixes {
    fn find(&self, log: LogKind, bytes: u64) -> Option<Context> {
        let found = self.0.iter().find(|(l, n, _)| *l == log && *n == bytes);
        found.map(|(_, _, context)| context.clone())
    }

    fn keep(&mut self, log: LogKind, bytes: u64, context: Context) {
        self.0.retain(|(l, n, _)| *l != log || *n != bytes);
        if self.0.iter().filter(|(l, _, _)| *l == log).count() >= MOST {
            if let Some(oldest) = self.0.iter().position(|(l, _, _)| *l == log) {
                self.0.remove(oldest);
            }
        }
        self.0.push((log, bytes, context));
    }
}

pub(super) fn finished(context: &Context) -> Digest {
    let mut out = [0; 32];
    let digest = context.clone().finish();
    out.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    Digest(out)
}

pub(super) fn hashed(bytes: &[u8]) -> Context {
    let mut context = Context::new(&SHA256);
    context.update(bytes);
    context
}

/// A log from an offset on, and where each challenger's part of it begins.
struct Part {
    log: LogKind,
    from: u64,
    bytes: Vec<u8>,
    begins: Vec<u64>,
}

impl Part {
    /// Of a whole log: each begins where it has said, if that is what the log begins with.
    fn of(log: LogKind, mut whole: Vec<u8>, challenges: &[Challenged]) -> Self {
        let begins: Vec<u64> = challenges
            .iter()
            .map(|c| {
                let held = c.held.as_slice().iter().find(|h| h.log == log);
                let fits = held.filter(|h| {
                    let prefix = usize::try_from(h.bytes).ok().and_then(|n| whole.get(..n));
                    prefix.is_some_and(|p| Digest::of(p) == h.digest)
                });
                fits.map_or(0, |h| h.bytes)
            })
            .collect();
        let from = begins.iter().copied().min().unwrap_or(0);
        whole.drain(..usize::try_from(from).unwrap_or(0).min(whole.len()));
        Self { log, from, bytes: whole, begins }
    }
}

impl Peers {
    /// One quote for all of these.
    ///
    /// # Errors
    /// `Invalid` for what cannot be quoted, `Denied` for what is bound to somebody else; the TPM's.
    pub fn quote(&self, asked: &Quote) -> Result<(Quoted, OwnedFd), Fault> {
        let own = self.union.own_keys()?;
        let ak = own.in_tpm()?.ak_public.clone();
        asked.challenges.iter().try_for_each(|c| self.ours(&c.binding, &own))?;
        let leaves: Vec<Digest> = asked.challenges.iter().map(|c| c.binding.leaf()).collect();
        let invalid = |why: &str| Fault::new(FaultKind::Invalid, why);
        let tree = tree(&leaves).ok_or_else(|| invalid("no challenge, or more than one quote answers"))?;
        let selection = selection(asked.selection.as_slice())
            .ok_or_else(|| invalid("a quote is of PCRs of one bank, SHA-256 or SHA-384"))?;
        let _turn = turn_for_quote();
        let bound = tree.qualifying_data.0.to_vec();
        let found = self.platform.tpm()?.evidence(selection, bound, 0).map_err(|e| fault(&e))?;
        let mut parts = Vec::new();
        for (log, kernel) in [(LogKind::Boot, KernelLog::Boot), (LogKind::Ima, KernelLog::Ima)] {
            parts.extend(self.kernel(log, kernel, &asked.challenges)?);
        }
        parts.push(Part::of(LogKind::Own, found.log, &asked.challenges));

        let large = |e: TooManyBytes| Fault::internal("a PCR's value is too long", &e);
        let algorithm = selection.bank().algorithm();
        let pcrs = selection.pcrs().zip(found.quote.values).map(|(index, value)| {
            let index = u8::try_from(index).unwrap_or(u8::MAX);
            Ok(Pcr { algorithm, index, value: value.try_into().map_err(large)? })
        });
        let answers = tree.paths.into_iter().enumerate().map(|(i, path)| QuoteAnswer {
            path,
            from: parts.iter().map(|p| p.begins.get(i).copied().unwrap_or(0)).collect(),
        });
        let span = |p: &Part| LogSpan { log: p.log, from: p.from, length: p.bytes.len() as u64 };
        let quoted = Quoted {
            attest: found.quote.attest,
            signature: found.quote.signature,
            pcrs: pcrs.collect::<Result<_, Fault>>()?,
            ak,
            logs: parts.iter().map(span).collect(),
            answers: answers.collect(),
        };
        let mut bytes = Vec::with_capacity(parts.iter().map(|p| p.bytes.len()).sum());
        // Each is let go of as soon as it is copied.
        parts.into_iter().for_each(|part| bytes.extend(part.bytes));
        let fd = bulk::give(&bytes).map_err(|e| Fault::internal("the logs cannot be given", &e))?;
        Ok((quoted, fd))
    }

    /// That this member is who attests, in its own union or one that it is joining.
    fn ours(&self, binding: &Binding, own: &OwnKeys) -> Result<(), Fault> {
        let denied = |why: &str| Err(Fault::new(FaultKind::Denied, why));
        if binding.attester != own.identity.member_id() || binding.attester_tls != own.identity.tls_name() {
            return denied("a quote is bound to this member and its own TLS key");
        }
        if binding.challenger == binding.attester {
            return denied("no member challenges itself");
        }
        let known = self.union.known()?;
        let member = known.as_ref().filter(|k| k.has_us()).map(|k| k.state.view.union);
        match member {
            Some(union) if union == binding.union => Ok(()),
            None if self.union.joins(binding.union) => Ok(()),
            _ => denied("a quote is bound to this member's union, or to one that it is joining"),
        }
    }

    /// A log of the kernel's: from the least that a challenger needs, as far as what it holds can be told without reading it.
    fn kernel(
        &self,
        log: LogKind,
        which: KernelLog,
        challenges: &[Challenged],
    ) -> Result<Option<Part>, Fault> {
        let logs = self.platform.kernel_logs();
        let mut prefixes = self.prefixes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let held = challenges.iter().map(|c| c.held.as_slice().iter().find(|h| h.log == log));
        let known: Option<Vec<(u64, Context)>> = held
            .map(|h| {
                let h = h.filter(|h| h.bytes > 0)?;
                let context = prefixes.find(log, h.bytes)?;
                (finished(&context) == h.digest).then_some((h.bytes, context))
            })
            .collect();
        let least = known.as_ref().and_then(|k| k.iter().min_by_key(|(n, _)| *n));
        let Some((from, context)) = least else {
            let Some(whole) = kernel_log(logs, which, 0)? else { return Ok(None) };
            prefixes.keep(log, whole.len() as u64, hashed(&whole));
            return Ok(Some(Part::of(log, whole, challenges)));
        };
        let Some(bytes) = kernel_log(logs, which, *from)? else { return Ok(None) };
        let mut whole = context.clone();
        whole.update(&bytes);
        prefixes.keep(log, from.saturating_add(bytes.len() as u64), whole);
        let begins = known.iter().flatten().map(|(n, _)| *n).collect();
        Ok(Some(Part { log, from: *from, bytes, begins }))
    }
}

fn selection(banks: &[WireBank]) -> Option<Selection> {
    let mut asked = banks.iter().filter(|b| b.pcrs != 0);
    let (one, None) = (asked.next()?, asked.next()) else { return None };
    let bank = [Bank::Sha256, Bank::Sha384].into_iter().find(|b| b.algorithm() == one.algorithm)?;
    if one.pcrs & !PCRS != 0 {
        return None;
    }
    Selection::new(bank, (0..24).filter(|n| one.pcrs >> n & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gtvp_model::union::Epoch;
    use gtvp_protocol::hsp::Role;
    use gtvp_protocol::hsp::message::Held;

    fn challenged(held: Option<(u64, Digest)>) -> Challenged {
        let binding = Binding {
            union: [1; 32].into(),
            epoch: Epoch(0),
            role: Role::Responder,
            attester: [2; 32].into(),
            challenger: [3; 32].into(),
            exporter: [4; 32],
            nonce: [5; 32],
            attester_tls: Vec::new(),
            challenger_tls: Vec::new(),
            transcript: Digest([6; 32]),
        };
        let held = held.map(|(bytes, digest)| Held { log: LogKind::Ima, bytes, digest });
        Challenged { binding, held: held.into_iter().collect::<Vec<_>>().try_into().unwrap() }
    }

    #[test]
    fn who_holds_what_the_log_begins_with_gets_the_rest_and_everybody_else_all_of_it() {
        let log = b"first, second, third".to_vec();
        let holds = |n: usize| challenged(Some((n as u64, Digest::of(&log[..n]))));
        let part = Part::of(LogKind::Ima, log.clone(), &[holds(7), holds(15)]);
        assert_eq!((part.from, part.begins, part.bytes), (7, vec![7, 15], log[7..].to_vec()));
        let lies = challenged(Some((7, Digest::of(b"another"))));
        let long = challenged(Some((1000, Digest::of(&log))));
        let other = Challenged { held: Default::default(), ..holds(7) };
        for with in [lies, long, other, challenged(None)] {
            let part = Part::of(LogKind::Ima, log.clone(), &[holds(7), with]);
            assert_eq!((part.from, part.begins), (0, vec![7, 0]));
            assert_eq!(part.bytes, log, "whoever holds nothing of it needs it from the first byte on");
        }
        assert_eq!(Part::of(LogKind::Ima, log.clone(), &[holds(log.len())]).bytes, b"");
    }

    #[test]
    fn a_few_lengths_are_remembered_each_of_its_own_log() {
        let mut prefixes = Prefixes::default();
        for n in 0..=MOST {
            prefixes.keep(LogKind::Ima, n as u64, hashed(&vec![0; n]));
        }
        prefixes.keep(LogKind::Boot, 3, hashed(b"boo"));
        assert!(prefixes.find(LogKind::Ima, 0).is_none(), "the oldest went");
        assert_eq!(finished(&prefixes.find(LogKind::Ima, 3).unwrap()), Digest::of(&[0; 3]));
        assert_eq!(finished(&prefixes.find(LogKind::Boot, 3).unwrap()), Digest::of(b"boo"));
        prefixes.keep(LogKind::Boot, 3, hashed(b"new"));
        assert_eq!(finished(&prefixes.find(LogKind::Boot, 3).unwrap()), Digest::of(b"new"));
    }

    #[test]
    fn a_quote_is_of_one_bank_that_counts() {
        let bank = |algorithm, pcrs| WireBank { algorithm, pcrs };
        assert!(selection(&[bank(0x000B, 0x47FF)]).is_some());
        assert!(selection(&[bank(0x000B, 1), bank(0x000C, 0)]).is_some(), "no PCR of the second");
        let bad = [
            vec![],
            vec![bank(0x000B, 0)],
            vec![bank(0x000B, 1), bank(0x000C, 1)],
            vec![bank(0x0004, 1)],
            vec![bank(0x000B, 1 << 24)],
        ];
        for bad in bad {
            assert!(selection(&bad).is_none(), "{bad:?}");
        }
    }
}
