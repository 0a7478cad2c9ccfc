//! What the two tables are made of, and how a row is found. Nothing here knows a box, a member or a message's contents.

use std::fmt::Debug;

/// What happens to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum On {
    /// The administrator wants the box moved, and `security` has signed the ticket.
    Begin,
    /// The administrator wants it no more; or it may not be any more: policy, a verdict, the other end's membership.
    Cancel,
    /// The administrator has what failed tried again.
    Retry,
    /// The administrator says that the source's server is off: its word is not waited for.
    Without,
    /// The administrator takes the box of a source that was removed.
    Adopt,
    /// The administrator gives up what is still here of a box that has moved.
    Forget,
    /// A message of this ticket.
    Heard(Say),
    /// What was last begun is done.
    Done,
    /// It failed.
    Failed,
    /// The record has moved the box by this ticket.
    Moved,
    /// The record says that this ticket moves nothing.
    Aborted,
    /// The record has gone on: by this ticket nothing moves any more.
    Past,
    /// A while has passed in which nothing came.
    Tick,
    /// The ticket has expired.
    Expired,
    /// The machine was read from the journal; the box's process is there.
    Restart,
    /// The machine was read from the journal; the box's process is not there.
    RestartBare,
}

/// What one end says to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Say {
    /// Source: take this box, by this ticket.
    Offer,
    /// Target: the ticket, signed.
    Accept,
    /// Target: the identical box is built.
    Built,
    /// Source: the box stands still, in this state.
    Still,
    /// Target: all of it is here, and the same; signed.
    Ready,
    /// Source: it does not run here any more unless the record says so; signed.
    Switch,
    /// Source: the process is gone.
    Killed,
    /// Target: the box runs here, or is kept here.
    Taken,
    /// Target: what was here of the running box is lost.
    Lost,
    /// This ticket moves nothing, and that is final.
    Abort,
}

/// What must hold for a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum If {
    /// No other migration of this box is under way here.
    Alone,
    /// The box is this member's in the record, in the ticket's epoch.
    Owns,
    /// The ticket is good, by all that this member knows.
    Ticket,
    /// The ticket has the other end's signature.
    Countersigned,
    /// The ticket's time is not over.
    Live,
    /// Policy, verdicts and membership are as when the ticket was made.
    Permitted,
    /// Both ends have the same state.
    Same,
    /// The other end has signed these terms.
    Agreed,
    /// The other end is no member any more.
    PeerRemoved,
}

/// What is done, in a row's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Do {
    /// Says it to the other end.
    Send(Say),
    /// Holds what the box needs, and signs the ticket. Has an outcome.
    Reserve,
    /// Builds the identical box, paused and empty. Has an outcome.
    Build,
    /// Takes state from now on. Its outcome is only that it failed.
    Receive,
    /// Sends state while the box runs, until little is left. Has an outcome.
    SendState,
    /// Stops the box, sends the rest, says what state it is in. Has an outcome.
    Pause,
    /// Waits for the rest of the state, makes it durable, compares its digest, signs the terms. Has an outcome.
    Digest,
    /// Signs the terms, as the source. Has an outcome.
    Agree,
    /// Proposes that the box moves.
    ProposeMoved,
    /// Proposes that it stays.
    ProposeAborted,
    /// Proposes that it is adopted.
    ProposeAdopted,
    /// Kills the box's process. Has an outcome.
    Kill,
    /// Wipes what is here of the box, its process first. Has an outcome.
    Wipe,
    /// Looks at the components again, and fails where they are not appraised.
    Appraise,
    /// Gives the vTPM its key.
    ReleaseKey,
    /// Lets the box run. Has an outcome.
    Resume,
    /// People are told.
    Tell(Told),
}

/// What people are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Told {
    /// It has begun.
    Began,
    /// It was given up, and the box is where it was.
    Returned,
    /// Both stand still until the record says which.
    Waiting,
    /// The box runs here now.
    Arrived,
    /// The box has left.
    Departed,
    /// What was begun here for a box is gone.
    Dropped,
    /// The box is paused here and did not go on: `gtvp box resume`.
    Held,
    /// The box is here and has no process: `gtvp box start`.
    Down,
    /// The box is someone else's: what was here does not run.
    Fenced,
    /// The box is this member's; the source has not said that its process is gone.
    SourceSilent,
    /// What was received is lost; the source decides.
    Lost,
}

impl Told {
    /// The event's kind.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Began => "migration.began",
            Self::Returned => "migration.returned",
            Self::Waiting => "migration.waiting",
            Self::Arrived => "migration.arrived",
            Self::Departed => "migration.departed",
            Self::Dropped => "migration.dropped",
            Self::Held => "migration.held",
            Self::Down => "migration.down",
            Self::Fenced => "migration.fenced",
            Self::SourceSilent => "migration.source_silent",
            Self::Lost => "migration.lost",
        }
    }
}

/// A row: in one of these states, at one of these events, if all of that holds.
#[derive(Debug, Clone, Copy)]
pub struct Row<S: 'static> {
    /// In one of these states.
    pub from: &'static [S],
    /// At one of these.
    pub on: &'static [On],
    /// If all of this holds. The first row that fits counts.
    pub only: &'static [If],
    /// The next state is durable before anything else is done. Only rows that stay in their state write nothing.
    pub write: bool,
    /// What is done then, in this order.
    pub does: &'static [Do],
    /// The next state; none: it stays.
    pub to: Option<S>,
}

/// A row that changes the state.
pub(super) const fn go<S: Copy>(
    from: &'static [S],
    on: &'static [On],
    only: &'static [If],
    does: &'static [Do],
    to: S,
) -> Row<S> {
    Row { from, on, only, write: true, does, to: Some(to) }
}

/// A row that stays in the state.
pub(super) const fn stay<S: Copy>(
    from: &'static [S],
    on: &'static [On],
    only: &'static [If],
    does: &'static [Do],
) -> Row<S> {
    Row { from, on, only, write: false, does, to: None }
}

/// One end of a migration.
pub trait End: Debug + Copy + Eq + Ord + std::hash::Hash + 'static {
    /// Its table.
    fn table() -> &'static [Row<Self>];
    /// All states.
    const ALL: &'static [Self];
    /// Nothing happens by itself any more.
    fn is_over(self) -> bool;
    /// Who is in this state for long: what an administrator can do about it.
    fn way_out(self) -> &'static str;
}

/// The row that counts, and its place in the table.
pub fn find<S: End>(
    rows: &[Row<S>],
    state: S,
    on: On,
    mut holds: impl FnMut(If) -> bool,
) -> Option<(usize, &Row<S>)> {
    rows.iter()
        .enumerate()
        .find(|(_, r)| r.from.contains(&state) && r.on.contains(&on) && r.only.iter().all(|i| holds(*i)))
}

/// The table as the specification has it.
pub fn render<S: End>() -> String {
    let list = |items: Vec<String>, none: &str| {
        if items.is_empty() { none.to_owned() } else { items.join(", ") }
    };
    let mut text = String::from("| in | at | if | written | then | next |\n|---|---|---|---|---|---|\n");
    for row in S::table() {
        let from = list(row.from.iter().map(|s| format!("{s:?}")).collect(), "");
        let on = list(row.on.iter().map(|o| format!("{o:?}").replace("Heard", "")).collect(), "");
        let only = list(row.only.iter().map(|i| format!("{i:?}")).collect(), "");
        let does = list(row.does.iter().map(|d| format!("{d:?}")).collect(), "");
        let (written, to) = match row.to {
            Some(to) => (if row.write { "first" } else { "" }, format!("**{to:?}**")),
            None => ("", "stays".to_owned()),
        };
        let cells =
            [from, on, only, written.to_owned(), does, to].map(|c| format!(" {c} ").replace("  ", " "));
        text.push_str(&format!("|{}|\n", cells.join("|")));
    }
    text
}
