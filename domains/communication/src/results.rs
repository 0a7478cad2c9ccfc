//! The results plane: this member's attestation results go to every channel, others' to `security`, and whoever is suspected is asked
//! (docs/spec/results.md). Nothing here believes anything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gtvp_ipc::security::{HearResult, HeardResult, OwnResult};
use gtvp_model::union::MemberId;
use gtvp_protocol::frame::Frame;
use gtvp_protocol::hsp::{Millis, Refusal};
use gtvp_protocol::results::{RESULT, SUSPECT, Suspect, Told};

use crate::calls::Calls;
use crate::clock;
use crate::ends::End;
use crate::gossip;
use crate::runtime::Runtime;
use crate::switch::Note;

/// Frames of the results plane that are looked at beside [`A_SECOND`]: when channels open, a member tells all that it holds.
const FRAMES: u64 = 1_024;
/// Frames a second: one about each of some hundred members a period.
const A_SECOND: u64 = 256;
/// How often fresh evidence of one member is asked for because others suspect it, milliseconds.
const SUSPECTED: u64 = 1_000;

/// This member's results, of each other member the newest.
#[derive(Debug, Default)]
pub struct Results(Mutex<BTreeMap<MemberId, (Frame, Millis)>>);

impl Results {
    fn held(&self) -> MutexGuard<'_, BTreeMap<MemberId, (Frame, Millis)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new one. `None`: it is longer than is told.
    fn put(&self, result: OwnResult, now: Millis, lasts: u64) -> Option<Frame> {
        let frame = Told::frame(result.ak, result.result)?;
        let mut held = self.held();
        held.retain(|_, (_, at)| now.0.saturating_sub(at.0) <= lasts);
        held.insert(result.of, (frame.clone(), now));
        Some(frame)
    }

    /// Those that have not ended.
    fn now(&self, now: Millis, lasts: u64) -> Vec<Frame> {
        let held = self.held();
        held.values().filter(|(_, at)| now.0.saturating_sub(at.0) <= lasts).map(|(f, _)| f.clone()).collect()
    }
}

/// What one channel's peer has told, so that it is not listened to without end.
#[derive(Debug, Default)]
pub struct Budget {
    frames: u64,
    suspected: Option<Millis>,
}

impl Budget {
    fn frame(&mut self, since: Millis, now: Millis) -> bool {
        self.frames = self.frames.saturating_add(1);
        let seconds = now.0.saturating_sub(since.0) / 1_000;
        self.frames <= FRAMES.saturating_add(seconds.saturating_mul(A_SECOND))
    }

    /// Whether the peer, which somebody suspects, is to be asked now.
    pub fn suspected(&mut self, now: Millis) -> bool {
        let asks = self.suspected.is_none_or(|at| now.0.saturating_sub(at.0) >= SUSPECTED);
        if asks {
            self.suspected = Some(now);
        }
        asks
    }
}

/// Two and a half periods, as `security` has it.
fn lasts(runtime: &Runtime) -> u64 {
    runtime.period().period.saturating_mul(5) / 2
}

/// A result of this member's: to all.
pub fn new(runtime: &Arc<Runtime>, result: OwnResult) {
    let of = result.of;
    if let Some(own) = runtime.newest.own().map(|u| u.own.id()) {
        let OwnResult { of, issued, expires, ak, result } = result.clone();
        gossip::has(runtime, own, HeardResult { of, issued, expires }, ak, result);
    }
    match runtime.results.put(result, clock::now(), lasts(runtime)) {
        // Whom it is about learns by it how others see it.
        Some(frame) => runtime.switch.send_full(&frame),
        None => runtime.tell(format_args!("the attestation result of {} is too long to be told", of.short())),
    }
}

/// A channel is open: its peer is told what counts now.
pub fn up(runtime: &Runtime, with: MemberId) {
    for frame in runtime.results.now(clock::now(), lasts(runtime)) {
        runtime.switch.send(with, frame);
    }
}

/// A frame of `peer`'s, whose channel has been open since then.
///
/// # Errors
/// Why the channel is to end.
pub fn frame(
    runtime: &Arc<Runtime>,
    calls: &Calls,
    peer: MemberId,
    frame: &Frame,
    budget: &mut Budget,
    since: Millis,
) -> Result<(), &'static str> {
    // What comes too often is not looked at.
    if !budget.frame(since, clock::now()) {
        return Ok(());
    }
    match frame.kind {
        RESULT => {
            let Told { ak, result } =
                Told::decode(frame).map_err(|_| "the peer's attestation result is malformed")?;
            let (ak, result) = (ak.as_slice().to_vec(), result.as_slice().to_vec());
            let hears = runtime.clone();
            calls.hear(HearResult { from: peer, ak, result }, move |what, heard| match heard {
                // Whoever has no channel with its verifier has it from here.
                Ok(heard) => gossip::has(&hears, peer, heard, what.ak, what.result),
                Err(why) => {
                    hears.tell(format_args!("a result that {} told is not believed: {why}", peer.short()))
                }
            });
        }
        SUSPECT => {
            let Suspect { member } =
                Suspect::decode(frame).map_err(|_| "the peer's suspicion is malformed")?;
            // Of oneself nothing is asked: there is no such channel.
            runtime.switch.tell(member, Note::Suspected);
        }
        _ => {}
    }
    Ok(())
}

/// A connection with a member is over: if what it showed was not believed, all others have it show itself to them.
pub fn over(runtime: &Runtime, with: MemberId, end: &End) {
    // What could not be appraised says nothing about it, and silence is no evidence.
    if let End::Refused(Refusal::EvidenceRejected { .. }) = end {
        runtime.switch.send_full(&Suspect { member: with }.frame());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_member_the_newest_is_told_until_it_ends() {
        let results = Results::default();
        let result = |of: u8, n: u8| OwnResult {
            of: [of; 32].into(),
            ak: vec![1],
            result: vec![n],
            issued: 0,
            expires: 0,
        };
        results.put(result(1, 1), Millis(0), 100).unwrap();
        results.put(result(1, 2), Millis(50), 100).unwrap();
        results.put(result(2, 3), Millis(120), 100).unwrap();
        let told = |now| -> Vec<u8> {
            results.now(now, 100).iter().map(|f| Told::decode(f).unwrap().result.as_slice()[0]).collect()
        };
        assert_eq!(told(Millis(150)), [2, 3]);
        assert_eq!(told(Millis(151)), [3]);
        let long = OwnResult { result: vec![0; 5_000], ..result(1, 1) };
        assert_eq!(results.put(long, Millis(0), 100), None);
    }

    #[test]
    fn a_flood_is_not_looked_at_and_a_suspicion_has_one_question_a_second() {
        let mut budget = Budget::default();
        let looked = (0..100_000).filter(|_| budget.frame(Millis(0), Millis(10))).count() as u64;
        assert_eq!(looked, FRAMES);
        let asked = (0..100_000u64).filter(|i| budget.suspected(Millis(i / 20))).count();
        assert_eq!(asked, 5, "5 seconds");
    }
}
