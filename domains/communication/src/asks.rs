//! Evidence of boxes and of members, between members: what this one asks others, and what they ask it (GTVP §3.3, docs/design/peers.md). Bytes and
//! budgets only: `management` finds the box, `security` makes the evidence and appraises what comes.
//!
//! * One question at a time to each member: the next waits for its answer.
//! * A member that asks more than [`AT_ONCE`] at once, or faster than [`EVERY`], is refused: each costs two quotes of a TPM.
//! * About this member itself a person asks: no more than one a member and [`OWN_EVERY`]. `security` has a bound for all of them together.
//! * Who is refused hears when to ask again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gtvp_ipc::communication::MemberAsks;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::BoxName;
use gtvp_model::union::MemberId;
use gtvp_protocol::frame::Frame;
use gtvp_protocol::frame::wire::BodyFault;
use gtvp_protocol::vouch::{ASK_OWN, Answer, Ask, AskOwn, MAX_EVIDENCE, NONCE, OWN_NONCE, Part};

/// How long another member may take to answer: its TPM may take seconds, and others may ask it too.
pub const ANSWER: Duration = Duration::from_secs(20);
/// Questions of one member at once: one, and one whose asker has given up.
const AT_ONCE: usize = 2;
/// Questions of all members at once.
const ALL_AT_ONCE: usize = 8;
/// Questions of one member that may come at once after a quiet time, and how often one more may.
const BURST: u32 = 8;
const EVERY: Duration = Duration::from_millis(250);

/// How often one member may ask about this one itself: the answer has whole logs.
const OWN_EVERY: Duration = Duration::from_secs(5);

/// What this member asked.
struct Out {
    to: MemberId,
    bytes: Vec<u8>,
    done: Option<Result<(), Fault>>,
}

/// What another member asked.
struct In {
    from: MemberId,
    theirs: u64,
    since: Instant,
}

struct Budget {
    left: u32,
    at: Instant,
}

impl Budget {
    fn take(&mut self, now: Instant) -> bool {
        let more = now.saturating_duration_since(self.at).as_millis() / EVERY.as_millis();
        let more = u32::try_from(more).unwrap_or(BURST);
        self.left = self.left.saturating_add(more).min(BURST);
        self.at += EVERY.saturating_mul(more);
        if self.left == BURST {
            self.at = now;
        }
        self.left = match self.left.checked_sub(1) {
            Some(left) => left,
            None => return false,
        };
        true
    }
}

/// Why another member gets no evidence.
#[derive(Debug, Clone, Copy)]
pub enum NoEvidence<'a> {
    /// Whenever it asks.
    Refused(&'a str),
    /// Now: the words say when to ask again.
    Busy(&'a str),
}

#[derive(Default)]
struct State {
    last: u64,
    out: BTreeMap<u64, Out>,
    asked: BTreeMap<u64, In>,
    budgets: BTreeMap<MemberId, Budget>,
    /// Who has asked about this member itself, and when.
    own: BTreeMap<MemberId, Instant>,
    waiting: VecDeque<MemberAsks>,
    /// The newest who watches; `None`: nobody.
    watcher: Option<u64>,
}

impl State {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

/// See the module.
#[derive(Default)]
pub struct Asks {
    state: Mutex<State>,
    changed: Condvar,
}

fn unavailable(what: &str) -> Fault {
    Fault::new(FaultKind::Unavailable, what)
}

impl Asks {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, State>, until: Instant) -> MutexGuard<'a, State> {
        let left = until.saturating_duration_since(Instant::now());
        self.changed.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Asks `to` about a box, or about itself; `send` sends it a frame. Waits for the evidence.
    ///
    /// # Errors
    /// `Unavailable`: no answer in time, or the channel ended. `Denied`: it refuses.
    pub fn ask(
        &self,
        to: MemberId,
        name: Option<&BoxName>,
        nonce: &[u8],
        send: impl FnOnce(Frame),
    ) -> Result<Vec<u8>, Fault> {
        let bad = || {
            let (least, most) = (OWN_NONCE.start(), OWN_NONCE.end());
            Fault::new(FaultKind::Invalid, format!("a nonce is {least} to {most} bytes, about a box {NONCE}"))
        };
        let until = Instant::now() + ANSWER;
        let mut state = self.state();
        while state.out.values().any(|o| o.to == to) {
            if Instant::now() >= until {
                return Err(unavailable("too much is asked of that member at once"));
            }
            state = self.wait(state, until);
        }
        let number = state.next();
        let frame = match name {
            Some(name) => {
                let nonce = nonce.to_vec().try_into().map_err(|_| bad())?;
                Ask { number, name: name.clone(), nonce }.frame()
            }
            None if !OWN_NONCE.contains(&nonce.len()) => return Err(bad()),
            None => AskOwn { number, nonce: nonce.to_vec().try_into().map_err(|_| bad())? }.frame(),
        };
        state.out.insert(number, Out { to, bytes: Vec::new(), done: None });
        drop(state);
        send(frame);
        let mut state = self.state();
        let outcome = loop {
            match state.out.get_mut(&number).map(|o| (o.done.take(), std::mem::take(&mut o.bytes))) {
                Some((Some(done), bytes)) => break done.map(|()| bytes),
                Some((None, bytes)) if Instant::now() < until => {
                    if let Some(o) = state.out.get_mut(&number) {
                        o.bytes = bytes;
                    }
                    state = self.wait(state, until);
                }
                _ => break Err(unavailable("that member has not answered in time")),
            }
        };
        state.out.remove(&number);
        drop(state);
        self.changed.notify_all();
        outcome
    }

    /// A part of an answer came. What was not asked for is nothing.
    ///
    /// # Errors
    /// Not an answer's frame.
    pub fn answered(&self, from: MemberId, frame: &Frame) -> Result<(), BodyFault> {
        let answer = Answer::decode(frame)?;
        let mut state = self.state();
        let Some(out) = state.out.get_mut(&answer.number).filter(|o| o.to == from && o.done.is_none()) else {
            return Ok(());
        };
        let refused = match answer.part {
            Part::Piece(_) | Part::Last(_) => None,
            Part::Refused(_) => Some(Fault::new(FaultKind::Denied, "that member gives no evidence of it")),
            Part::Busy(_) => Some(unavailable("that member gives no evidence of it now")),
        };
        let (bytes, last) = match answer.part {
            Part::Piece(bytes) => (bytes, false),
            Part::Last(bytes) => (bytes, true),
            Part::Refused(why) | Part::Busy(why) => {
                let why = String::from_utf8_lossy(why.as_slice());
                let why: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
                out.done = refused.map(|fault| Err(fault.because(why)));
                self.changed.notify_all();
                return Ok(());
            }
        };
        if out.bytes.len() + bytes.as_slice().len() > MAX_EVIDENCE {
            out.done = Some(Err(Fault::new(FaultKind::Denied, "that member's evidence is too long")));
        } else {
            out.bytes.extend_from_slice(bytes.as_slice());
            out.done = last.then_some(Ok(()));
        }
        if out.done.is_some() {
            self.changed.notify_all();
        }
        Ok(())
    }

    /// There is no channel with this member any more.
    pub fn down(&self, with: MemberId) {
        let mut state = self.state();
        for out in state.out.values_mut().filter(|o| o.to == with && o.done.is_none()) {
            out.done = Some(Err(unavailable("the channel with that member ended")));
        }
        state.asked.retain(|_, a| a.from != with);
        drop(state);
        self.changed.notify_all();
    }

    /// Another member asks. `Some`: what it is told at once.
    ///
    /// # Errors
    /// Not a question's frame.
    pub fn asked(&self, from: MemberId, frame: &Frame) -> Result<Option<Frame>, BodyFault> {
        let (theirs, name, nonce) = match frame.kind {
            ASK_OWN => AskOwn::decode(frame).map(|a| (a.number, None, a.nonce.into_vec()))?,
            _ => Ask::decode(frame).map(|a| (a.number, Some(a.name), a.nonce.into_vec()))?,
        };
        let refused = |why: &str, after: Duration| {
            let seconds = after.as_millis().div_ceil(1000).max(1);
            Ok(Some(Answer::busy(theirs, &format!("{why}: try again in {seconds} s"))))
        };
        let now = Instant::now();
        let mut state = self.state();
        state.asked.retain(|_, a| now.saturating_duration_since(a.since) < ANSWER);
        // Of whom nothing was heard for long, all is forgotten.
        let full = EVERY.saturating_mul(BURST);
        state.budgets.retain(|_, b| now.saturating_duration_since(b.at) < full);
        let budget = state.budgets.entry(from).or_insert(Budget { left: BURST, at: now });
        if !budget.take(now) || state.asked.values().filter(|a| a.from == from).count() >= AT_ONCE {
            return refused("it is asked too much by this member", EVERY);
        }
        if state.asked.len() >= ALL_AT_ONCE {
            return refused("it is asked too much", EVERY);
        }
        if state.watcher.is_none() {
            return refused("nobody there can answer at the moment", EVERY);
        }
        if name.is_none() {
            state.own.retain(|_, since| now.saturating_duration_since(*since) < OWN_EVERY);
            if let Some(since) = state.own.get(&from) {
                let rest = OWN_EVERY.saturating_sub(now.saturating_duration_since(*since));
                return refused("it has just been asked about itself by this member", rest);
            }
            state.own.insert(from, now);
        }
        let number = state.next();
        state.asked.insert(number, In { from, theirs, since: now });
        state.waiting.push_back(MemberAsks { ask: number, name, nonce });
        drop(state);
        self.changed.notify_all();
        Ok(None)
    }

    /// Hears of questions until `told` says that nobody listens any more, or another one watches. `None` is a look whether somebody does.
    pub fn watch(&self, look: Duration, mut told: impl FnMut(Option<MemberAsks>) -> bool) {
        let mut state = self.state();
        let own = state.next();
        state.watcher = Some(own);
        loop {
            let next = state.waiting.pop_front();
            if next.is_none() {
                state = self.wait(state, Instant::now() + look);
                if state.watcher != Some(own) {
                    return;
                }
                if !state.waiting.is_empty() {
                    continue;
                }
            }
            drop(state);
            let listens = told(next);
            state = self.state();
            if state.watcher != Some(own) {
                return;
            }
            if !listens {
                state.watcher = None;
                state.waiting.clear();
                state.asked.clear();
                return;
            }
        }
    }

    /// The answer to another member's question: whom it goes to, and the frames. `None`: nobody waits for it.
    pub fn answer(&self, ask: u64, outcome: Result<&[u8], NoEvidence<'_>>) -> Option<(MemberId, Vec<Frame>)> {
        let asked = self.state().asked.remove(&ask)?;
        let frames = match outcome {
            Ok(evidence) if !evidence.is_empty() => Answer::frames(asked.theirs, evidence),
            Ok(_) => vec![Answer::refusal(asked.theirs, "there is no evidence")],
            Err(NoEvidence::Refused(why)) => vec![Answer::refusal(asked.theirs, why)],
            Err(NoEvidence::Busy(why)) => vec![Answer::busy(asked.theirs, why)],
        };
        Some((asked.from, frames))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use super::*;

    fn m(n: u8) -> MemberId {
        [n; 32].into()
    }

    fn web() -> BoxName {
        "web".parse().unwrap()
    }

    fn ask(number: u64) -> Frame {
        Ask { number, name: web(), nonce: vec![3; NONCE].try_into().unwrap() }.frame()
    }

    fn refusal(frame: Option<Frame>) -> String {
        match Answer::decode(&frame.expect("an answer at once")).unwrap().part {
            Part::Refused(why) | Part::Busy(why) => String::from_utf8(why.into_vec()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Somebody who listens.
    fn watched() -> (Arc<Asks>, std::sync::mpsc::Receiver<MemberAsks>) {
        let asks = Arc::new(Asks::default());
        let ((tell, told), watches) = (channel(), asks.clone());
        std::thread::spawn(move || {
            watches.watch(Duration::from_millis(5), |a| a.is_none_or(|a| tell.send(a).is_ok()))
        });
        while asks.state().watcher.is_none() {
            std::thread::yield_now();
        }
        (asks, told)
    }

    #[test]
    fn evidence_goes_from_one_member_to_another_and_nowhere_else() {
        let (ours, (theirs, told)) = (Arc::new(Asks::default()), watched());
        let evidence: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        let (sent, sends) = channel();
        let asking = ours.clone();
        let asker = std::thread::spawn(move || {
            asking.ask(m(2), Some(&web()), &[3; NONCE], |f| sent.send(f).unwrap())
        });
        assert_eq!(theirs.asked(m(1), &sends.recv().unwrap()), Ok(None));
        let heard = told.recv().unwrap();
        assert_eq!((heard.name, heard.nonce), (Some(web()), vec![3; NONCE]));
        let (to, frames) = theirs.answer(heard.ask, Ok(&evidence)).unwrap();
        assert_eq!(to, m(1));
        // Of somebody who was not asked nothing is taken.
        let forged = Answer::frames(1, b"forged");
        ours.answered(m(3), &forged[0]).unwrap();
        frames.iter().for_each(|f| ours.answered(m(2), f).unwrap());
        assert_eq!(asker.join().unwrap().unwrap(), evidence);
        assert!(theirs.answer(heard.ask, Ok(&evidence)).is_none(), "it was answered");
        ours.answered(m(2), &forged[0]).unwrap();
        assert!(ours.state().out.is_empty());
    }

    #[test]
    fn a_member_is_asked_about_itself_within_the_same_budget() {
        let (ours, (theirs, told)) = (Arc::new(Asks::default()), watched());
        let (sent, sends) = channel();
        let asking = ours.clone();
        let asker = std::thread::spawn(move || asking.ask(m(2), None, &[9; 20], |f| sent.send(f).unwrap()));
        let question = sends.recv().unwrap();
        assert_eq!((question.kind, theirs.asked(m(1), &question)), (ASK_OWN, Ok(None)));
        let heard = told.recv().unwrap();
        assert_eq!((heard.name, heard.nonce), (None, vec![9; 20]));
        let (_, frames) = theirs.answer(heard.ask, Ok(b"evidence")).unwrap();
        frames.iter().for_each(|f| ours.answered(m(2), f).unwrap());
        assert_eq!(asker.join().unwrap().unwrap(), b"evidence");
        assert_eq!(ours.ask(m(2), None, &[9; 65], |_| panic!("sent")).unwrap_err().kind, FaultKind::Invalid);
        assert_eq!((theirs.asked(m(1), &ask(1)), theirs.asked(m(1), &ask(2))), (Ok(None), Ok(None)));
        let said = "it is asked too much by this member: try again in 1 s";
        assert_eq!(refusal(theirs.asked(m(1), &own(3)).unwrap()), said);
    }

    fn own(number: u64) -> Frame {
        AskOwn { number, nonce: vec![9; 20].try_into().unwrap() }.frame()
    }

    #[test]
    fn a_member_asks_about_another_itself_once_in_a_while_and_is_told_when() {
        let (theirs, told) = watched();
        assert_eq!(theirs.asked(m(1), &own(1)), Ok(None));
        // Answered or not.
        assert!(theirs.answer(told.recv().unwrap().ask, Ok(b"evidence")).is_some());
        let again = theirs.asked(m(1), &own(2)).unwrap();
        let said = "it has just been asked about itself by this member: try again in 5 s";
        assert_eq!(refusal(again.clone()), said);
        assert_eq!(theirs.asked(m(2), &own(1)), Ok(None), "another member is heard");
        assert_eq!(theirs.asked(m(1), &ask(3)), Ok(None), "and so is a question about a box");
        theirs.state().own.insert(m(1), Instant::now().checked_sub(OWN_EVERY).unwrap());
        theirs.state().asked.clear();
        assert_eq!(theirs.asked(m(1), &own(4)), Ok(None), "the control: it comes back with time");

        // Whoever asked may ask again.
        let ours = Arc::new(Asks::default());
        let (sent, sends) = channel();
        let asking = ours.clone();
        let asker = std::thread::spawn(move || asking.ask(m(2), None, &[9; 20], |f| sent.send(f).unwrap()));
        let number = AskOwn::decode(&sends.recv().unwrap()).unwrap().number;
        let frame = Answer::busy(number, said);
        ours.answered(m(2), &frame).unwrap();
        let fault = asker.join().unwrap().unwrap_err();
        assert!(fault.kind == FaultKind::Unavailable && fault.retryable, "{fault}");
        assert_eq!(fault.causes, [said]);
    }

    #[test]
    fn a_member_that_asks_too_much_is_refused_and_no_other() {
        let (theirs, told) = watched();
        assert_eq!(theirs.asked(m(1), &ask(1)), Ok(None));
        assert_eq!(theirs.asked(m(1), &ask(2)), Ok(None));
        let said = "it is asked too much by this member: try again in 1 s";
        assert_eq!(refusal(theirs.asked(m(1), &ask(3)).unwrap()), said);
        assert_eq!(theirs.asked(m(2), &ask(1)), Ok(None), "another member is heard");
        for _ in 0..2 {
            assert!(theirs.answer(told.recv().unwrap().ask, Err(NoEvidence::Refused("no"))).is_some());
        }
        // Answered or not, only so many in a time.
        let mut taken = 0;
        for n in 0..100 {
            if theirs.asked(m(1), &ask(n)).unwrap().is_none() {
                theirs.answer(told.recv().unwrap().ask, Err(NoEvidence::Refused("no")));
                taken += 1;
            }
        }
        assert!(taken <= BURST, "{taken} were taken");
        (0..20).for_each(|n| drop(theirs.asked(m(100 + n), &ask(1))));
        assert_eq!(refusal(theirs.asked(m(200), &ask(1)).unwrap()), "it is asked too much: try again in 1 s");
    }

    #[test]
    fn a_budget_comes_back_with_time() {
        let begun = Instant::now();
        let mut budget = Budget { left: BURST, at: begun };
        (0..BURST).for_each(|_| assert!(budget.take(begun)));
        assert!(!budget.take(begun) && !budget.take(begun + EVERY / 2));
        assert!(budget.take(begun + EVERY) && !budget.take(begun + EVERY));
    }

    #[test]
    fn a_channel_that_ends_and_a_refusal_end_the_waiting() {
        let ours = Arc::new(Asks::default());
        let refused = |by: &dyn Fn(&Asks)| {
            let (sent, sends) = channel();
            let asking = ours.clone();
            let asker = std::thread::spawn(move || {
                asking.ask(m(2), Some(&web()), &[3; NONCE], |f| sent.send(f).unwrap())
            });
            let number = Ask::decode(&sends.recv().unwrap()).unwrap().number;
            ours.answered(m(2), &Answer::refusal(number + 9, "another's")).unwrap();
            if number == 1 {
                ours.down(m(2))
            } else {
                by(&ours)
            }
            asker.join().unwrap().unwrap_err()
        };
        assert_eq!(refused(&|_| ()).kind, FaultKind::Unavailable);
        let fault = refused(&|asks| asks.answered(m(2), &Answer::refusal(2, "no\nbox")).unwrap());
        assert_eq!((fault.kind, fault.causes[0].as_str()), (FaultKind::Denied, "no box"));
        // More bytes than any evidence has.
        let fault = refused(&|asks| {
            for frame in Answer::frames(3, &vec![0; MAX_EVIDENCE]) {
                let Ok(Answer { part: Part::Piece(b) | Part::Last(b), .. }) = Answer::decode(&frame) else {
                    panic!("a piece")
                };
                let piece = Answer { number: 3, part: Part::Piece(b) };
                let body = gtvp_protocol::frame::wire::encode(&piece);
                asks.answered(m(2), &Frame { kind: frame.kind, body }).unwrap();
            }
            asks.answered(m(2), &Answer::frames(3, &[1])[0]).unwrap();
        });
        assert_eq!(fault.message, "that member's evidence is too long");
    }

    #[test]
    fn without_somebody_who_listens_it_is_said() {
        let theirs = Asks::default();
        let said = refusal(theirs.asked(m(1), &ask(1)).unwrap());
        assert_eq!(said, "nobody there can answer at the moment: try again in 1 s");
        assert!(theirs.asked(m(1), &Frame { kind: 67, body: vec![0xff] }).is_err());
    }
}
