//! Applications that ask about each other (GTVP §3.3, docs/design/peers.md): from the box to the other box's member, and what comes back
//! to `security`, which says what it is worth. Here is which box that is, and nothing about trust.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use data_encoding::BASE64;
use data_encoding::HEXLOWER;
use gtvp_ipc::communication::{AnswerAsk, AskMember, MemberAsks, WatchAsks};
use gtvp_ipc::components::ShowComposition;
use gtvp_ipc::drivers::AnswerPeer;
use gtvp_ipc::place::SOCKETS;
use gtvp_ipc::security::{Attest, AttestBox, ChallengePeer, ListMembers, VouchForPeer};
use gtvp_ipc::{Nothing, call_with};
use gtvp_model::boxview::BoxState;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::hex::unhex;
use gtvp_model::ids::{MemberName, Slot};
use gtvp_model::peer::{PeerAnswer, PeerQuestion, PeerResult};

use crate::peers;
use crate::runtime::Runtime;

/// Questions of this member's boxes at once, and of other members as many: each has a thread, and most of its time it waits.
const MOST: usize = 8;
/// Pause before a domain that has gone away is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// How many are at work.
#[derive(Debug, Default)]
pub struct AtWork(Arc<AtomicUsize>);

struct Turn(Arc<AtomicUsize>);

impl AtWork {
    fn begin(&self) -> Option<Turn> {
        let more = |n: usize| (n < MOST).then_some(n + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Turn(self.0.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Runtime {
    /// Evidence of a box that runs.
    ///
    /// # Errors
    /// There is none such; it cannot be attested.
    pub fn attest_box(&self, name: &str, nonce: String, for_member: bool) -> Result<Vec<OwnedFd>, Fault> {
        let record = self.engine().get(name)?.clone();
        if !matches!(record.state, BoxState::Running | BoxState::Paused) {
            return Err(Fault::new(FaultKind::WrongState, format!("box {name} does not run")));
        }
        let composition = record
            .composition
            .ok_or_else(|| Fault::new(FaultKind::WrongState, "the box has no composition yet"))?;
        let composition = peers::ask(&ShowComposition { composition })?;
        let name = record.spec.name.clone();
        peers::ask_fds(&AttestBox { slot: record.slot, name, composition, nonce, for_member })
    }

    /// Evidence of a member as a file: of this one, or fresh from another one over the channel with it. What it is worth is for its reader
    /// to see.
    ///
    /// # Errors
    /// There is no such member; it is not reached, or gives none.
    pub fn attest_member(&self, name: Option<&MemberName>, nonce: String) -> Result<Vec<OwnedFd>, Fault> {
        let Some(name) = name.filter(|name| **name != self.config.name) else {
            return peers::ask_fds(&Attest { nonce, for_member: false });
        };
        let member = peers::ask(&ListMembers {})?.into_iter().find(|m| m.name == name.as_str());
        let id = member.and_then(|m| m.id).and_then(|id| id.parse().ok()).ok_or_else(|| {
            Fault::new(FaultKind::NotFound, format!("the union has no member {name}")).hint("gtvp member ls")
        })?;
        let nonce =
            unhex(&nonce).ok_or_else(|| Fault::new(FaultKind::Invalid, "the nonce is not hexadecimal"))?;
        peers::ask_fds(&AskMember { member: id, name: None, nonce }).map_err(|fault| {
            let hint = format!(
                "gtvp member show {name} says how it stands; or ask it: gtvp --member {name} member attest"
            );
            if fault.hint.is_some() { fault } else { fault.hint(hint) }
        })
    }

    /// A box asks about another one. Answers it by and by, on a thread of its own.
    pub fn box_asks(self: &Arc<Self>, slot: Slot, ask: u64, question: PeerQuestion) {
        let answer = move |answer| {
            // Whoever asked may be gone.
            let _ = peers::tell(&AnswerPeer { slot, ask, answer });
        };
        let runtime = self.clone();
        let work = self.boxes_ask.begin().map(|turn| {
            std::thread::Builder::new().name("vouch".into()).spawn(move || {
                let _turn = turn;
                answer(match runtime.vouched(slot, question) {
                    Ok(result) => PeerAnswer::Vouched(result),
                    Err(fault) => PeerAnswer::refused(&fault.to_string()),
                });
            })
        });
        if !matches!(work, Some(Ok(_))) {
            std::thread::spawn(move || answer(PeerAnswer::refused("too many boxes ask at once: try again")));
        }
    }

    fn vouched(&self, slot: Slot, question: PeerQuestion) -> Result<PeerResult, Fault> {
        let asker = self.engine().boxes().find(|r| r.slot == slot && !r.builder).map(|r| r.spec.name.clone());
        let asker = asker.ok_or_else(|| Fault::new(FaultKind::NotFound, "the box that asks is gone"))?;
        let peer = question.check().map_err(|e| Fault::new(FaultKind::Invalid, e.to_string()))?;
        let challenge = peers::ask(&ChallengePeer { asker, peer: question })?;
        let fds = match challenge.member {
            Some(member) => {
                peers::ask_fds(&AskMember { member, name: Some(peer.name), nonce: challenge.nonce.to_vec() })?
            }
            None => self.attest_box(peer.name.as_str(), HEXLOWER.encode(&challenge.nonce), false)?,
        };
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let found = peers::give(&VouchForPeer { nonce: challenge.nonce }, &borrowed)?;
        Ok(PeerResult {
            result: BASE64.encode(&found.result),
            verdict: found.verdict,
            member: found.member.to_string(),
            name: found.name.to_string(),
            composition: found.composition.to_string(),
            expires: found.expires,
            not_checked: found.not_checked,
        })
    }

    /// Answers what other members ask about this one's boxes, for as long as this domain lives.
    pub fn watch_asks(self: &Arc<Self>) {
        let socket = format!("{SOCKETS}/communication.sock");
        loop {
            // Its end, whatever the reason, is answered by connecting anew.
            let _ = call_with(socket.as_ref(), &WatchAsks {}, &[], |asks: MemberAsks| {
                self.member_asks(asks);
                ControlFlow::Continue(())
            });
            std::thread::sleep(PAUSE);
        }
    }

    fn member_asks(self: &Arc<Self>, asks: MemberAsks) {
        let ask = asks.ask;
        let answer = move |fds: &[OwnedFd], refused, busy| {
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            // Whoever asked may be gone.
            let _: Result<Nothing, Fault> = peers::give(&AnswerAsk { ask, refused, busy }, &borrowed);
        };
        let runtime = self.clone();
        let work = self.members_ask.begin().map(|turn| {
            std::thread::Builder::new().name("attest".into()).spawn(move || {
                let _turn = turn;
                let nonce = HEXLOWER.encode(&asks.nonce);
                let evidence = match &asks.name {
                    Some(name) => runtime.attest_box(name.as_str(), nonce, true),
                    None => peers::ask_fds(&Attest { nonce, for_member: true }),
                };
                match evidence {
                    Ok(fds) => answer(&fds, None, false),
                    Err(fault) => answer(&[], Some(fault.to_string()), fault.retryable),
                }
            })
        });
        if !matches!(work, Some(Ok(_))) {
            std::thread::spawn(move || {
                answer(&[], Some("too many ask at once: try again in 1 s".into()), true)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_are_at_work_and_each_gives_its_turn_back() {
        let work = AtWork::default();
        let turns: Vec<_> = (0..MOST).map(|_| work.begin().unwrap()).collect();
        assert!(work.begin().is_none());
        drop(turns);
        assert!(work.begin().is_some());
    }

    #[test]
    fn a_fault_is_told_with_its_causes() {
        let fault = Fault::new(FaultKind::Denied, "m2/web is not vouched for")
            .because("its member is untrusted here");
        assert_eq!(fault.to_string(), "m2/web is not vouched for: its member is untrusted here");
    }
}
