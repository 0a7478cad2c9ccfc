//! The channel is open, and fresh evidence repeats on it.

use gtvp_model::union::{Identity, TpmClass};

use super::link::{Link, appraisable, check_ask, out_of_turn, send_evidence};
use super::{Outcome, Session};
use crate::hsp::binding::{self, Binding};
use crate::hsp::command::{Command, Context, Event, Millis, Request, Step, next};
use crate::hsp::logs::Collected;
use crate::hsp::message::{Ask, Challenge, Evidence, LogPiece, Message};
use crate::hsp::refusal::Refusal;
use crate::planted::{Check, check, demand};

/// The round that we asked for.
#[derive(Debug)]
pub enum Asked {
    Nothing,
    Out { ask: Ask, binding: Box<Binding>, logs: Collected, deadline: Millis },
    Appraising { request: Request, deadline: Millis },
}

/// See [`Session::Open`].
#[derive(Debug)]
pub struct Open {
    pub(super) link: Link,
    pub(super) quoting: Option<Request>,
    pub(super) asked: Asked,
    pub(super) our_round: u32,
    pub(super) their_round: u32,
}

const OPEN: &str = "open";

impl Open {
    pub(super) fn on_challenge(mut self: Box<Self>, challenge: Challenge) -> Outcome {
        if self.quoting.is_some() || matches!(self.link.setup.own.identity, Identity::Bare { .. }) {
            return Err(out_of_turn("Challenge", OPEN));
        }
        let want = self.their_round.checked_add(1).ok_or(Refusal::RoundsUsedUp)?;
        let got = challenge.round;
        demand(got == want, || Refusal::OtherRound { got, want })?;
        check_ask(&challenge.ask)?;
        self.their_round = want;
        let request = next(&mut self.link.requests);
        self.quoting = Some(request);
        let transcript = binding::round(self.link.hellos, &Message::from(challenge.clone()).frame().body);
        let binding = Box::new(self.link.ours(challenge.nonce, transcript));
        let commands = vec![Command::Quote { request, binding, ask: challenge.ask }];
        Ok(Step { next: Session::Open(self), commands })
    }

    pub(super) fn on_log(mut self: Box<Self>, piece: LogPiece) -> Outcome {
        let Asked::Out { ask, logs, .. } = &mut self.asked else {
            return Err(out_of_turn("LogPiece", OPEN));
        };
        logs.add(piece, ask)?;
        Ok(Step::stay(Session::Open(self)))
    }

    pub(super) fn on_evidence(mut self: Box<Self>, evidence: Evidence) -> Outcome {
        let Asked::Out { ask, binding, logs, deadline } = &mut self.asked else {
            return Err(out_of_turn("Evidence", OPEN));
        };
        let (logs, deadline) = (std::mem::take(logs), *deadline);
        let what = appraisable(&self.link.peer, evidence, logs, self.our_round, binding, ask)?;
        let request = next(&mut self.link.requests);
        self.asked = Asked::Appraising { request, deadline };
        let commands = vec![Command::Appraise { request, what: Box::new(what) }];
        Ok(Step { next: Session::Open(self), commands })
    }

    pub(super) fn on_outcome(mut self: Box<Self>, event: Event, ctx: &Context<'_>) -> Outcome {
        let mut commands = Vec::new();
        match (event, &self.asked) {
            (Event::Quoted { request, outcome }, _) if self.quoting == Some(request) => {
                let evidence = outcome.map_err(|why| Refusal::NoQuote { why })?;
                self.quoting = None;
                commands = send_evidence(&evidence, self.their_round)?;
            }
            (Event::Appraised { request, outcome }, Asked::Appraising { request: want, .. })
                if check(Check::Request, request == *want, || ()).is_ok() =>
            {
                let appraisal = outcome?;
                self.asked = Asked::Nothing;
                commands.push(Command::Renewed(appraisal));
            }
            (Event::Renew { nonce, ask }, Asked::Nothing)
                if self.link.peer.identity.class() != TpmClass::None =>
            {
                commands.push(self.renew(nonce, ask, ctx)?);
            }
            _ => {}
        }
        Ok(Step { next: Session::Open(self), commands })
    }

    pub(super) fn renew(&mut self, nonce: [u8; 32], ask: Ask, ctx: &Context<'_>) -> Result<Command, Refusal> {
        check(Check::NonceFresh, nonce != self.link.nonce, || Refusal::NonceUsed)?;
        self.our_round = self.our_round.checked_add(1).ok_or(Refusal::RoundsUsedUp)?;
        self.link.nonce = nonce;
        let challenge = Challenge { round: self.our_round, nonce, ask: ask.clone() };
        let transcript = binding::round(self.link.hellos, &Message::from(challenge.clone()).frame().body);
        let binding = Box::new(self.link.theirs(nonce, transcript));
        let deadline = ctx.now.after(self.link.setup.timing.round);
        self.asked = Asked::Out { ask, binding, logs: Collected::default(), deadline };
        Ok(Command::Send(challenge.into()))
    }
}
