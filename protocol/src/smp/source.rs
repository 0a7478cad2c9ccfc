//! The end that a box leaves.
//!
//! The box runs here up to *Pausing*. From *Committing* on it does not go on without a committed entry that says so: the journal has
//! that before anything is signed or proposed, and a machine that is read from such a journal kills the process.

use super::table::{Do::*, End, If::*, On::*, Row, Say::*, Told, go, stay};

/// Its states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// Nothing has begun.
    Idle,
    /// The target was asked. The box runs.
    Offered,
    /// The target builds. The box runs.
    Preparing,
    /// State goes over. The box runs.
    Sending,
    /// The box is being stopped, the rest goes over.
    Pausing,
    /// The box stands still; whether the target has the same is not known yet.
    Stopped,
    /// **The fence.** The box does not go on here before the record says that it stays.
    Committing,
    /// The same, and it was proposed that the box stays.
    Aborting,
    /// Restarted behind the fence: the process is being killed.
    Closing,
    /// Behind the fence without a process: only moving can save what the target has.
    Blind,
    /// It has moved: the process is being killed.
    Leaving,
    /// It has moved, and no process is here.
    Gone,
    /// The target has it: what is here is wiped.
    Wiping,
    /// Over: the box has left.
    Left,
    /// The box is to go on here.
    Returning,
    /// It did not.
    Held,
    /// Over: the box runs here, as before.
    Stayed,
    /// Over: the box is here, without a process.
    Down,
    /// The box is somebody else's: the process is being killed.
    Fencing,
    /// Over: nothing of it runs here. Its files are left alone.
    Fenced,
}

use Source::*;

/// State × event → what must hold, what is done, the next state.
#[rustfmt::skip]
pub const TABLE: &[Row<Source>] = &[
    // The way of a move.
    go(  &[Idle],                          &[Begin],                 &[Alone, Owns, Permitted],  &[Send(Offer), Tell(Told::Began)],          Offered),
    go(  &[Offered],                       &[Heard(Accept)],         &[Countersigned],           &[],                                        Preparing),
    go(  &[Preparing],                     &[Heard(Built)],          &[],                        &[SendState],                               Sending),
    go(  &[Sending],                       &[Done],                  &[],                        &[Pause],                                   Pausing),
    go(  &[Pausing],                       &[Done],                  &[],                        &[Send(Still)],                             Stopped),
    go(  &[Stopped],                       &[Heard(Ready)],          &[Same, Agreed, Live, Permitted], &[ProposeMoved, Agree],                     Committing),
    stay(&[Committing, Blind],             &[Done],                  &[],                        &[Send(Switch)]),
    go(  &[Committing],                    &[Moved],                 &[],                        &[Kill],                                    Leaving),
    go(  &[Leaving],                       &[Done],                  &[],                        &[Send(Killed)],                            Gone),
    go(  &[Gone],                          &[Heard(Taken), Forget, Past], &[],                        &[Wipe],                                    Wiping),
    go(  &[Wiping],                        &[Done],                  &[],                        &[Tell(Told::Departed)],                    Left),
    // Any doubt before the fence: it stays.
    go(  &[Offered, Preparing, Sending],   &[Cancel, Expired, Heard(Abort), Restart], &[],                        &[Send(Abort), Tell(Told::Returned)],       Stayed),
    go(  &[Sending],                       &[Failed],                &[],                        &[Send(Abort), Tell(Told::Returned)],       Stayed),
    go(  &[Offered, Preparing, Sending, Pausing, Stopped], &[RestartBare],           &[],                        &[Send(Abort), Tell(Told::Down)],           Down),
    go(  &[Pausing, Stopped],              &[Cancel, Expired, Heard(Abort), Restart], &[],                        &[Send(Abort), Resume],                     Returning),
    go(  &[Pausing],                       &[Failed],                &[],                        &[Send(Abort), Resume],                     Returning),
    go(  &[Stopped],                       &[Heard(Lost)],           &[],                        &[Send(Abort), Resume],                     Returning),
    go(  &[Stopped],                       &[Heard(Ready)],          &[],                        &[Send(Abort), Resume],                     Returning),
    go(  &[Returning],                     &[Done],                  &[],                        &[Tell(Told::Returned)],                    Stayed),
    go(  &[Returning],                     &[Failed],                &[],                        &[Tell(Told::Held)],                        Held),
    go(  &[Returning, Held],               &[RestartBare],           &[],                        &[Tell(Told::Down)],                        Down),
    go(  &[Held],                          &[Retry],                 &[],                        &[Resume],                                  Returning),
    // Behind the fence: only the record ends it.
    go(  &[Committing],                    &[Cancel, Heard(Lost)],   &[],                        &[ProposeAborted, Tell(Told::Waiting)],     Aborting),
    go(  &[Committing, Aborting],          &[Aborted],               &[],                        &[Send(Abort), Resume],                     Returning),
    go(  &[Aborting],                      &[Moved],                 &[],                        &[Kill],                                    Leaving),
    go(  &[Offered, Preparing, Sending, Pausing, Stopped, Committing, Aborting, Closing, Blind], &[Past],                  &[],                        &[Kill],                                    Fencing),
    go(  &[Fencing],                       &[Done],                  &[],                        &[Tell(Told::Fenced)],                      Fenced),
    go(  &[Committing],                    &[Restart, RestartBare],  &[],                        &[Kill],                                    Closing),
    go(  &[Aborting],                      &[RestartBare],           &[],                        &[ProposeMoved, Agree],                     Blind),
    go(  &[Closing],                       &[Done],                  &[],                        &[ProposeMoved, Agree],                     Blind),
    go(  &[Blind],                         &[Moved],                 &[],                        &[Send(Killed)],                            Gone),
    stay(&[Blind],                         &[Cancel],                &[PeerRemoved],             &[ProposeAborted, Tell(Told::Waiting)]),
    go(  &[Blind],                         &[Aborted],               &[],                        &[Send(Abort), Tell(Told::Down)],           Down),
    // Said and done again, until it is heard.
    stay(&[Offered, Preparing],            &[Tick],                  &[],                        &[Send(Offer)]),
    stay(&[Stopped],                       &[Tick],                  &[],                        &[Send(Still)]),
    stay(&[Committing, Blind],             &[Tick],                  &[],                        &[ProposeMoved, Agree, Tell(Told::Waiting)]),
    stay(&[Blind],                         &[Restart, RestartBare],  &[],                        &[ProposeMoved, Agree]),
    stay(&[Aborting],                      &[Tick, Restart],         &[],                        &[ProposeAborted]),
    stay(&[Leaving, Closing, Fencing],     &[Tick, Restart, RestartBare], &[],                        &[Kill]),
    stay(&[Gone],                          &[Tick, Restart, RestartBare], &[],                        &[Send(Killed)]),
    stay(&[Wiping],                        &[Tick, Restart, RestartBare], &[],                        &[Wipe]),
    stay(&[Returning],                     &[Restart, Retry],        &[],                        &[Resume]),
    stay(&[Returning, Held, Stayed, Down], &[Heard(Accept), Heard(Built), Heard(Ready), Heard(Lost)], &[],                        &[Send(Abort)]),
];

impl End for Source {
    fn table() -> &'static [Row<Self>] {
        TABLE
    }

    const ALL: &'static [Self] = &[
        Idle, Offered, Preparing, Sending, Pausing, Stopped, Committing, Aborting, Closing, Blind, Leaving,
        Gone, Wiping, Left, Returning, Held, Stayed, Down, Fencing, Fenced,
    ];

    fn is_over(self) -> bool {
        matches!(self, Left | Stayed | Down | Fenced)
    }

    fn way_out(self) -> &'static str {
        match self {
            Idle => "gtvp box migrate",
            Offered | Preparing | Sending | Pausing | Stopped => {
                "gtvp box migrate --cancel: the box goes on here"
            }
            Committing => {
                "wait for a majority of voters; or gtvp box migrate --cancel: the record says which was first"
            }
            Aborting | Closing => "wait for a majority of voters: the record says where the box goes on",
            Blind => {
                "wait for a majority of voters; a target that is lost: gtvp member evict, then gtvp box migrate --cancel"
            }
            Leaving | Fencing => "it is tried again; gtvp box kill",
            Gone => "wait for the target; gtvp box migrate --forget wipes what is here",
            Wiping => "it is tried again",
            Returning => "it is tried again at a restart; gtvp box resume",
            Held => "gtvp box resume",
            Down => "gtvp box start",
            Stayed => "none is needed: the box runs here",
            Left => "none is needed: the box is the target's",
            Fenced => "gtvp box rm removes what is here: the box is somebody else's",
        }
    }
}
