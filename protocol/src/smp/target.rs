//! The end that a box comes to.
//!
//! What is here is nothing but a copy up to *Promised*: then the target has signed that it holds all of it, and neither runs nor destroys
//! it before the record, or the source's last word, says which.

use super::table::{Do::*, End, If::*, On::*, Row, Say::*, Told, go, stay};

/// Its states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// Nothing has begun.
    Idle,
    /// What the box needs is being held.
    Reserving,
    /// The identical box is being built.
    Building,
    /// State comes.
    Receiving,
    /// All of it is here, it is said; it is being compared.
    Checking,
    /// It is the same, durable, and signed for. The source or the record decides.
    Promised,
    /// The source has signed, too: this end may have the move written down itself.
    Committing,
    /// Promised, and what was received is lost.
    Bare,
    /// The source was removed: this end takes the box, and hears the source no more.
    Adopting,
    /// The same, without a process.
    AdoptingBare,
    /// The box is this member's; the source's process may still be there.
    Owner,
    /// The same, without a process.
    BareOwner,
    /// The box is being let run.
    Resuming,
    /// It did not.
    Held,
    /// Over: the box runs here.
    Running,
    /// Over: the box is this member's, without a process.
    Cold,
    /// What is here is being wiped.
    Dropping,
    /// Over: nothing is here.
    Dropped,
}

use Target::*;

/// State × event → what must hold, what is done, the next state.
#[rustfmt::skip]
pub const TABLE: &[Row<Target>] = &[
    // The way of a move.
    go(  &[Idle],                          &[Heard(Offer)],          &[Alone, Ticket, Live, Permitted], &[Reserve, Tell(Told::Began)],              Reserving),
    go(  &[Reserving],                     &[Done],                  &[],                        &[Send(Accept), Build],                     Building),
    go(  &[Building],                      &[Done],                  &[],                        &[Receive, Send(Built)],                    Receiving),
    go(  &[Receiving],                     &[Heard(Still)],          &[],                        &[Digest],                                  Checking),
    go(  &[Checking],                      &[Done],                  &[Same, Permitted],         &[Send(Ready)],                             Promised),
    go(  &[Promised],                      &[Heard(Switch)],         &[Agreed],                  &[ProposeMoved],                            Committing),
    go(  &[Promised, Committing],          &[Moved],                 &[],                        &[],                                        Owner),
    go(  &[Owner],                         &[Heard(Killed), Without], &[],                        &[Appraise, ReleaseKey, Resume],            Resuming),
    go(  &[Resuming],                      &[Done],                  &[],                        &[Send(Taken), Tell(Told::Arrived)],        Running),
    go(  &[Resuming],                      &[Failed],                &[],                        &[Send(Taken), Tell(Told::Held)],           Held),
    go(  &[Held],                          &[Retry],                 &[],                        &[Appraise, ReleaseKey, Resume],            Resuming),
    // Any doubt before the promise: it is dropped.
    stay(&[Idle],                          &[Heard(Offer), Heard(Still)], &[],                        &[Send(Abort)]),
    go(  &[Reserving, Building, Receiving, Checking], &[Cancel, Failed, Expired, Heard(Abort), Past, Restart, RestartBare], &[],                        &[Send(Abort), Wipe],                       Dropping),
    go(  &[Checking],                      &[Done],                  &[],                        &[Send(Abort), Wipe],                       Dropping),
    go(  &[Dropping],                      &[Done],                  &[],                        &[Tell(Told::Dropped)],                     Dropped),
    // Behind the promise: the source's last word before its own, and then only the record.
    go(  &[Promised, Bare],                &[Heard(Abort)],          &[],                        &[Wipe],                                    Dropping),
    go(  &[Promised, Committing, Bare],    &[Aborted, Past],         &[],                        &[Wipe],                                    Dropping),
    go(  &[Promised, Committing],          &[RestartBare],           &[],                        &[Send(Lost), Tell(Told::Lost)],            Bare),
    go(  &[Bare],                          &[Moved],                 &[],                        &[Tell(Told::SourceSilent)],                BareOwner),
    go(  &[Owner],                         &[RestartBare],           &[],                        &[Tell(Told::SourceSilent)],                BareOwner),
    go(  &[BareOwner],                     &[Heard(Killed), Without], &[],                        &[Send(Taken), Tell(Told::Down)],           Cold),
    go(  &[Resuming, Held],                &[RestartBare],           &[],                        &[Send(Taken), Tell(Told::Down)],           Cold),
    // The source was removed, and an administrator says that its server is off.
    go(  &[Promised, Committing],          &[Adopt],                 &[PeerRemoved],             &[ProposeAdopted],                          Adopting),
    go(  &[Bare],                          &[Adopt],                 &[PeerRemoved],             &[ProposeAdopted],                          AdoptingBare),
    go(  &[Adopting],                      &[Moved],                 &[],                        &[Appraise, ReleaseKey, Resume],            Resuming),
    go(  &[AdoptingBare],                  &[Moved],                 &[],                        &[Tell(Told::Down)],                        Cold),
    go(  &[Adopting, AdoptingBare],        &[Aborted, Past],         &[],                        &[Wipe],                                    Dropping),
    go(  &[Adopting],                      &[RestartBare],           &[],                        &[ProposeAdopted],                          AdoptingBare),
    go(  &[Owner, BareOwner],              &[Past],                  &[],                        &[Wipe],                                    Dropping),
    // Said and done again, until it is heard.
    stay(&[Building],                      &[Tick],                  &[],                        &[Send(Accept)]),
    stay(&[Receiving],                     &[Tick],                  &[],                        &[Send(Built)]),
    stay(&[Promised],                      &[Tick, Restart],         &[],                        &[Send(Ready), Tell(Told::Waiting)]),
    stay(&[Committing],                    &[Tick, Restart],         &[],                        &[ProposeMoved, Tell(Told::Waiting)]),
    stay(&[Adopting, AdoptingBare],        &[Tick, Restart],         &[],                        &[ProposeAdopted]),
    stay(&[AdoptingBare],                  &[RestartBare],           &[],                        &[ProposeAdopted]),
    stay(&[Bare],                          &[Tick, Restart, RestartBare], &[],                        &[Send(Lost)]),
    stay(&[Owner],                         &[Tick, Restart],         &[],                        &[Tell(Told::SourceSilent)]),
    stay(&[Resuming],                      &[Restart, Retry],        &[],                        &[Appraise, ReleaseKey, Resume]),
    stay(&[Dropping],                      &[Tick, Restart, RestartBare], &[],                        &[Wipe]),
    stay(&[Held, Running, Cold],           &[Heard(Killed)],         &[],                        &[Send(Taken)]),
    stay(&[Dropping, Dropped],             &[Heard(Offer), Heard(Still)], &[],                        &[Send(Abort)]),
];

impl End for Target {
    fn table() -> &'static [Row<Self>] {
        TABLE
    }

    const ALL: &'static [Self] = &[
        Idle,
        Reserving,
        Building,
        Receiving,
        Checking,
        Promised,
        Committing,
        Bare,
        Adopting,
        AdoptingBare,
        Owner,
        BareOwner,
        Resuming,
        Held,
        Running,
        Cold,
        Dropping,
        Dropped,
    ];

    fn is_over(self) -> bool {
        matches!(self, Running | Cold | Dropped)
    }

    fn way_out(self) -> &'static str {
        match self {
            Idle => "none is needed: nothing is here",
            Reserving | Building | Receiving | Checking => {
                "gtvp box migrate --cancel: what is here is dropped"
            }
            Promised | Committing | Bare => {
                "wait for the source or a majority of voters; a source that is lost: gtvp member evict, then gtvp box adopt"
            }
            Adopting | AdoptingBare => "wait for a majority of voters; a source that joined again decides",
            Owner | BareOwner => {
                "wait for the source; its server is off for good: gtvp box resume --without-source"
            }
            Resuming => "it is tried again at a restart; gtvp box resume",
            Held => "gtvp box resume",
            Cold => "gtvp box start",
            Running => "none is needed: the box runs here",
            Dropping => "it is tried again",
            Dropped => "none is needed: nothing is here",
        }
    }
}
