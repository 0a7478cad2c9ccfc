//! Evidence goes both ways for the first time.

use gtvp_model::union::{Identity, TpmClass};

use super::link::{Link, appraisable, out_of_turn, send_evidence};
use super::open::{Asked, Open};
use super::{Outcome, Session};
use crate::hsp::binding::Binding;
use crate::hsp::command::{Appraisal, Command, Context, Event, Millis, Request, Step, next};
use crate::hsp::logs::Collected;
use crate::hsp::message::{Accept, Ask, Evidence, LogPiece};
use crate::hsp::refusal::Refusal;
use crate::planted::{Check, check, demand};

/// Our evidence.
#[derive(Debug, PartialEq, Eq)]
pub enum Mine {
    Quoting(Request),
    Sent,
}

/// The peer's.
#[derive(Debug)]
pub enum Theirs {
    Collecting(Collected),
    Appraising(Request),
    Trusted(Option<Appraisal>),
}

/// See [`Session::Exchanging`].
#[derive(Debug)]
pub struct Exchanging {
    pub(super) link: Link,
    pub(super) ask: Ask,
    pub(super) binding: Binding,
    pub(super) mine: Mine,
    pub(super) theirs: Theirs,
    pub(super) accepted: bool,
    pub(super) deadline: Millis,
}

const EXCHANGING: &str = "exchanging evidence";

impl Exchanging {
    pub(super) fn on_log(mut self: Box<Self>, piece: LogPiece) -> Outcome {
        let Theirs::Collecting(logs) = &mut self.theirs else {
            return Err(out_of_turn("LogPiece", EXCHANGING));
        };
        logs.add(piece, &self.ask)?;
        Ok(Step::stay(Session::Exchanging(self)))
    }

    pub(super) fn on_evidence(mut self: Box<Self>, evidence: Evidence) -> Outcome {
        let (Theirs::Collecting(logs), Identity::Tpm { .. }) = (&mut self.theirs, &self.link.peer.identity)
        else {
            return Err(out_of_turn("Evidence", EXCHANGING));
        };
        let logs = std::mem::take(logs);
        let request = next(&mut self.link.requests);
        let what = appraisable(&self.link.peer, evidence, logs, 0, &self.binding, &self.ask)?;
        self.theirs = Theirs::Appraising(request);
        let commands = vec![Command::Appraise { request, what: Box::new(what) }];
        Ok(Step { next: Session::Exchanging(self), commands })
    }

    pub(super) fn on_no_evidence(mut self: Box<Self>, ctx: &Context<'_>) -> Outcome {
        if !matches!(self.theirs, Theirs::Collecting(_)) {
            return Err(out_of_turn("NoEvidence", EXCHANGING));
        }
        let bare = self.link.peer.identity.class() == TpmClass::None;
        let taken = bare && ctx.view.settings.admits(TpmClass::None);
        check(Check::NoEvidence, taken, || Refusal::EvidenceMissing)?;
        self.theirs = Theirs::Trusted(None);
        Ok(self.proceed(vec![Command::Send(Accept {}.into())]))
    }

    pub(super) fn on_accept(mut self: Box<Self>) -> Outcome {
        let in_turn = self.mine == Mine::Sent && !self.accepted;
        demand(in_turn, || out_of_turn("Accept", EXCHANGING))?;
        self.accepted = true;
        Ok(self.proceed(Vec::new()))
    }

    pub(super) fn on_outcome(mut self: Box<Self>, event: Event) -> Outcome {
        match (event, &self.mine, &self.theirs) {
            (Event::Quoted { request, outcome }, Mine::Quoting(want), _) if request == *want => {
                let evidence = outcome.map_err(|why| Refusal::NoQuote { why })?;
                self.mine = Mine::Sent;
                let commands = send_evidence(&evidence, 0)?;
                Ok(self.proceed(commands))
            }
            (Event::Appraised { request, outcome }, _, Theirs::Appraising(want))
                if check(Check::Request, request == *want, || ()).is_ok() =>
            {
                let appraisal = outcome?;
                self.theirs = Theirs::Trusted(Some(appraisal));
                Ok(self.proceed(vec![Command::Send(Accept {}.into())]))
            }
            _ => Ok(Step::stay(Session::Exchanging(self))),
        }
    }

    /// Opens the channel if everything is there.
    pub(super) fn proceed(self: Box<Self>, mut commands: Vec<Command>) -> Step<Session> {
        let next = match (&self.mine, &self.theirs, self.accepted) {
            (Mine::Sent, Theirs::Trusted(result), true) => {
                commands.push(Command::Established(self.link.channel(*result)));
                let asked = Asked::Nothing;
                let link = self.link;
                Session::Open(Box::new(Open { link, quoting: None, asked, our_round: 0, their_round: 0 }))
            }
            _ => Session::Exchanging(self),
        };
        Step { next, commands }
    }
}
