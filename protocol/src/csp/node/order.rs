//! Which entry comes next: the Raft library among voters, made deterministic, and deaf to messages that it cannot bear.
//!
//! Nothing that is decided here is in the record: a majority of voters must sign it first. So whatever a voter does to Raft, it can
//! hold things up, and not change what was.

use std::collections::BTreeSet;

use gtvp_model::union::{MemberId, UnionId};
use raft::eraftpb::{ConfChange, ConfChangeType, Entry, EntryType, Message, MessageType};
use raft::{ProgressState, RawNode, SnapshotStatus, StateRole};
use slog::{Discard, Logger, o};

use super::Rng;
use super::log::{Log, change, change_context, logged, unlogged};
use super::message::{self, Does, MAX_APPENDED, MAX_APPENDED_BYTES, RaftKind};
use crate::csp::SignedEntry;
use crate::frame::wire;
use crate::hsp::Millis;

/// One tick, milliseconds. Members are in one lab or data centre (a message takes a millisecond); what takes time is a voter's disk
/// and TPM, up to some 100 ms, so a leader is missed after 1 to 2 s, having been silent for three heartbeats at least.
pub const TICK: u64 = 100;
const ELECTION: usize = 10;
const HEARTBEAT: usize = 3;
/// Ticks made up for at once: who slept longer than any election takes up where it was.
const MAX_TICKS: u64 = 2 * ELECTION as u64;
/// Terms and indexes beyond: no union lives to see them, and sums with them do not overflow.
const MAX_NUMBER: u64 = 1 << 62;
/// How far a term may be ahead of ours: elections of half a year, one each second.
const MAX_LEAP: u64 = 1 << 24;
/// How far a snapshot may be ahead of our log: more entries than a union decides.
const MAX_SKIP: u64 = 1 << 32;

/// Context of a request for votes of whom the leader has asked to take over (raft-rs, `CAMPAIGN_TRANSFER`).
const TRANSFER: &[u8] = b"CampaignTransfer";

/// A voter's id in Raft: the first 8 bytes of the member's, and never 0.
pub fn raft_id(member: &MemberId) -> u64 {
    let first = member.as_bytes().first_chunk::<8>().copied().unwrap_or_default();
    u64::from_be_bytes(first).max(1)
}

/// Why a message does not reach Raft.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// No member that keeps to the protocol sends it.
    #[error("{0}")]
    Wrong(&'static str),
    /// One of us has not caught up; it comes again.
    #[error("not yet: {0}")]
    Early(&'static str),
    /// The sender has proof that our log once had more: it is not what it was.
    #[error("this member's log of Raft has less than it had")]
    Lost,
    /// The sender has entries of the term that we lead, which we have not.
    #[error("it has entries that this leader has not")]
    Ahead,
}

/// What Raft wants.
#[derive(Debug, Default)]
pub struct Outcome {
    pub send: Vec<(u64, message::Raft)>,
    pub decided: Vec<(u64, SignedEntry)>,
    /// Something must survive a crash before the rest is done.
    pub persist: bool,
    /// A snapshot was taken: what was decided up to here is in the record or never will be.
    pub skipped: Option<u64>,
}

/// See the module.
pub struct Order {
    own: u64,
    raft: RawNode<Log>,
    rng: Rng,
    drawn: Option<(u64, u8, u64)>,
    timeout: usize,
    ticked: Millis,
}

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let raft = &self.raft.raft;
        let log = &raft.raft_log;
        f.debug_struct("Order")
            .field("term", &raft.term)
            .field("role", &raft.state)
            .field("leader", &raft.leader_id)
            .field("voters", &self.voters())
            .field("log", &(log.first_index()..=log.last_index()))
            .field("committed", &log.committed)
            .field("applied", &log.applied)
            .field("persisted", &log.persisted)
            .field(
                "progress",
                &raft.prs().iter().map(|(id, p)| (*id, p.matched, p.next_idx, p.state)).collect::<Vec<_>>(),
            )
            .finish()
    }
}

impl Order {
    pub fn new(own: u64, log: Log, rng: Rng, now: Millis) -> Result<Self, String> {
        let config = raft::Config {
            id: own,
            election_tick: ELECTION,
            heartbeat_tick: HEARTBEAT,
            applied: log.start,
            max_size_per_msg: MAX_APPENDED_BYTES as u64,
            max_inflight_msgs: 16,
            check_quorum: true,
            pre_vote: true,
            ..raft::Config::default()
        };
        let logger = Logger::root(Discard, o!());
        let raft = RawNode::new(&config, log, &logger).map_err(|e| e.to_string())?;
        let mut order = Self { own, raft, rng, drawn: None, timeout: ELECTION, ticked: now };
        if order.voters() == [own].into() {
            // Nobody else can answer: there is nothing to wait for.
            let _ = order.raft.campaign();
        }
        order.settle();
        Ok(order)
    }

    /// Whether Raft has it as a voter.
    pub fn has(&self, node: u64) -> bool {
        self.raft.raft.prs().conf().voters().contains(node)
    }

    pub fn voters(&self) -> BTreeSet<u64> {
        self.raft.raft.prs().conf().voters().ids().iter().collect()
    }

    pub fn leader(&self) -> u64 {
        self.raft.raft.leader_id
    }

    pub fn leads(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    pub fn term(&self) -> u64 {
        self.raft.raft.term
    }

    fn log(&self) -> &Log {
        self.raft.raft.store()
    }

    pub fn to_bytes(&self, union: UnionId, voter: bool, open: Vec<SignedEntry>) -> Vec<u8> {
        self.log().to_bytes(union, voter, open)
    }

    /// Forgets the log, and remembers term and vote. With these voters it goes on at once; with none it waits for a leader's log.
    pub fn forget(&mut self, voters: BTreeSet<u64>, now: Millis) -> Result<(), String> {
        let (term, vote) = (self.raft.raft.term, self.raft.raft.vote);
        let log = if voters.is_empty() { Log::blank(term, vote) } else { Log::begin(voters, term, vote) };
        *self = Self::new(self.own, log, self.rng.fork(), now)?;
        Ok(())
    }

    /// The Raft library draws election timeouts from a source of its own; what counts is drawn here, once a change of term, role or
    /// leader: whenever the library may have drawn.
    fn settle(&mut self) {
        let raft = &mut self.raft.raft;
        let key = (raft.term, raft.state as u8, raft.leader_id);
        if self.drawn != Some(key) {
            self.drawn = Some(key);
            self.timeout = ELECTION + usize::try_from(self.rng.below(ELECTION as u64)).unwrap_or(0);
        }
        raft.set_randomized_election_timeout(self.timeout);
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Millis) {
        let due = now.0.saturating_sub(self.ticked.0) / TICK;
        for _ in 0..due.min(MAX_TICKS) {
            self.raft.tick();
            self.settle();
        }
        self.ticked = if due > MAX_TICKS { now } else { self.ticked.after(due * TICK) };
        self.heal_snapshots();
    }

    /// When [`Self::tick`] does something next. A voter that is alone has nobody to remind.
    pub fn deadline(&self) -> Option<Millis> {
        let raft = &self.raft.raft;
        let ticks = if self.leads() {
            if self.voters().len() == 1 {
                return None;
            }
            HEARTBEAT.saturating_sub(raft.heartbeat_elapsed())
        } else if raft.promotable() {
            self.timeout.saturating_sub(raft.election_elapsed)
        } else {
            return None;
        };
        Some(self.ticked.after(TICK * ticks.max(1) as u64))
    }

    /// A snapshot that was lost would hold its voter up for good: the next message shows whether it came.
    fn heal_snapshots(&mut self) {
        if !self.leads() {
            return;
        }
        let waiting: Vec<u64> = self
            .raft
            .raft
            .prs()
            .iter()
            .filter(|(_, p)| p.state == ProgressState::Snapshot)
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            self.raft.report_snapshot(id, SnapshotStatus::Finish);
        }
    }

    /// That this voter has lost its log.
    pub fn lost_by(&mut self, node: u64) {
        let next = self.raft.raft.raft_log.last_index().saturating_add(1);
        if !self.leads() || node == self.own {
            return;
        }
        if let Some(progress) = self.raft.raft.mut_prs().get_mut(node) {
            progress.become_probe();
            (progress.matched, progress.next_idx) = (0, next);
        }
    }

    /// Whether an entry of the record is in the log and not applied.
    pub fn is_deciding(&self) -> bool {
        let applied = self.raft.raft.raft_log.applied;
        let stored = self.log().after(applied);
        let unstable = self.raft.raft.raft_log.unstable_entries();
        stored.chain(unstable).any(|e| e.get_entry_type() == EntryType::EntryNormal && !e.data.is_empty())
    }

    /// Entries of the record in the log, decided or not.
    pub fn entries(&self) -> Vec<SignedEntry> {
        self.log().after(0).filter_map(|e| logged(e).entry).collect()
    }

    /// Appends, as the leader. `false`: not now.
    pub fn propose(&mut self, entry: &SignedEntry) -> bool {
        self.leads() && !self.log().is_full() && self.raft.propose(Vec::new(), wire::encode(entry)).is_ok()
    }

    /// One step that brings Raft's voters nearer to the record's. `true`: there is nothing to do.
    pub fn follow(&mut self, voters: &BTreeSet<u64>) -> bool {
        let have = self.voters();
        if have == *voters {
            return true;
        }
        if !self.leads() || self.raft.raft.has_pending_conf() {
            return false;
        }
        let mut go = have.difference(voters).filter(|v| **v != self.own).map(|v| (false, *v));
        let mut come = voters.difference(&have).map(|v| (true, *v));
        let change = if voters.contains(&self.own) {
            // Who goes may be gone already: it is not to be counted on when somebody comes.
            go.next().or_else(|| come.next())
        } else {
            // Who leads and goes hands over first: nobody could tell the rest that it was allowed to.
            let active = |v: &&u64| self.raft.raft.prs().get(**v).is_some_and(|p| p.recent_active);
            if let Some(to) = voters.intersection(&have).find(active) {
                if self.raft.raft.lead_transferee.is_none() {
                    self.raft.transfer_leader(*to);
                }
                return false;
            }
            come.next()
        };
        if let Some((add, node)) = change {
            let change = ConfChange { node_id: node, change_type: change_type(add), ..ConfChange::default() };
            // Refused by the library: a change is under way, or we lead no more; the next tick sees.
            let _ = self.raft.propose_conf_change(change_context(add, node), change);
        }
        false
    }

    /// Takes a message of a member that Raft or the record has as a voter. `voters` are the record's, `known` also those that were.
    pub fn step(
        &mut self,
        from: u64,
        m: &message::Raft,
        voters: &BTreeSet<u64>,
        known: &BTreeSet<u64>,
    ) -> Result<(), Unfit> {
        let message = self.fit(from, m, voters, known)?;
        // Errors are of no use here: the sender has left Raft, or what it answers was long ago.
        let _ = self.raft.step(message);
        self.settle();
        Ok(())
    }

    /// What the library would not bear (its own source is where the reasons are), and what no honest voter says.
    fn fit(
        &self,
        from: u64,
        m: &message::Raft,
        voters: &BTreeSet<u64>,
        known: &BTreeSet<u64>,
    ) -> Result<Message, Unfit> {
        let log = &self.raft.raft.raft_log;
        let (last, committed, term) = (log.last_index(), log.committed, self.raft.raft.term);
        let numbers = [m.term, m.index, m.log_term, m.commit, m.commit_term, m.reject_hint];
        if m.term == 0 || numbers.iter().any(|n| *n > MAX_NUMBER) {
            return Err(Unfit::Wrong("a number that Raft does not reach"));
        }
        if m.term > term.saturating_add(MAX_LEAP) {
            return Err(Unfit::Wrong("a term far ahead"));
        }
        let mut message = Message { from, to: self.own, term: m.term, ..Message::default() };
        (message.index, message.log_term) = (m.index, m.log_term);
        (message.commit, message.commit_term) = (m.commit, m.commit_term);
        (message.reject, message.reject_hint) = (m.reject, m.reject_hint);
        if m.kind != RaftKind::Append && !m.entries.as_slice().is_empty() {
            return Err(Unfit::Wrong("entries where none are"));
        }
        if (m.kind == RaftKind::Snapshot) != m.snapshot.is_some() {
            return Err(Unfit::Wrong("a snapshot where none is"));
        }
        let kind = match m.kind {
            RaftKind::Append => {
                self.fit_append(m)?;
                let numbered = (m.index.saturating_add(1)..).zip(m.entries.as_slice());
                message.entries = numbered.map(|(i, e)| unlogged(i, e)).collect::<Vec<Entry>>().into();
                MessageType::MsgAppend
            }
            RaftKind::Appended => {
                if m.term == term && (m.reject_hint > last || (!m.reject && m.index > last)) {
                    return Err(if self.leads() { Unfit::Ahead } else { Unfit::Early("we do not lead") });
                }
                MessageType::MsgAppendResponse
            }
            RaftKind::Heartbeat => {
                if m.term >= term && m.commit > last.max(committed) {
                    return Err(Unfit::Lost);
                }
                MessageType::MsgHeartbeat
            }
            RaftKind::Heard => MessageType::MsgHeartbeatResponse,
            RaftKind::RequestVote => {
                if m.transfer {
                    message.context = TRANSFER.into();
                }
                MessageType::MsgRequestVote
            }
            RaftKind::Vote => MessageType::MsgRequestVoteResponse,
            RaftKind::RequestPreVote => MessageType::MsgRequestPreVote,
            RaftKind::PreVote => MessageType::MsgRequestPreVoteResponse,
            RaftKind::Snapshot => {
                let snapshot = m.snapshot.as_ref().ok_or(Unfit::Wrong("no snapshot"))?;
                let conf: BTreeSet<u64> = snapshot.voters.as_slice().iter().copied().collect();
                let small = snapshot.index == 0 || snapshot.term == 0;
                let far = snapshot.index > last.saturating_add(MAX_SKIP).min(MAX_NUMBER);
                if small || far || snapshot.term > m.term {
                    return Err(Unfit::Wrong("a snapshot of no place in the log"));
                }
                if conf.len() != snapshot.voters.as_slice().len() {
                    return Err(Unfit::Wrong("a snapshot that names a voter twice"));
                }
                // One may not have come yet, or not be gone.
                let extra: Vec<_> = conf.difference(voters).collect();
                let near = conf.symmetric_difference(voters).count() <= 1;
                if !near || extra.iter().any(|v| !known.contains(v)) {
                    return Err(Unfit::Early("a snapshot with other voters than the record's"));
                }
                let metadata = message.mut_snapshot().mut_metadata();
                (metadata.index, metadata.term) = (snapshot.index, snapshot.term);
                metadata.mut_conf_state().voters = snapshot.voters.as_slice().to_vec();
                MessageType::MsgSnapshot
            }
            RaftKind::TimeoutNow => {
                if from != self.leader() {
                    return Err(Unfit::Early("who does not lead hands nothing over"));
                }
                MessageType::MsgTimeoutNow
            }
        };
        message.set_msg_type(kind);
        Ok(message)
    }

    fn fit_append(&self, m: &message::Raft) -> Result<(), Unfit> {
        let raft = &self.raft.raft;
        let log = &raft.raft_log;
        if m.log_term == 0 || m.index == 0 {
            return Err(Unfit::Wrong("entries from before any log begins"));
        }
        let mut before = m.log_term;
        for entry in m.entries.as_slice() {
            if entry.term < before.max(1) || entry.term > m.term {
                return Err(Unfit::Wrong("terms go back, or beyond the leader's"));
            }
            before = entry.term;
            match (entry.does, entry.entry.is_some()) {
                (Does::Entry, true) | (Does::Nothing | Does::Add | Does::Remove, false) => {}
                _ => return Err(Unfit::Wrong("an entry of no form")),
            }
        }
        if m.term < raft.term || m.index < log.committed {
            return Ok(());
        }
        let conflicts = |(i, e): (u64, &message::Logged)| {
            i <= log.committed && i >= log.first_index() && !log.match_term(i, e.term)
        };
        if m.index <= log.last_index() {
            if (m.index.saturating_add(1)..).zip(m.entries.as_slice()).any(conflicts) {
                return Err(Unfit::Lost);
            }
            if m.index == log.committed && !log.match_term(m.index, m.log_term) {
                return Err(Unfit::Lost);
            }
        }
        if self.log().is_full() && !m.entries.as_slice().is_empty() {
            return Err(Unfit::Early("the log is full"));
        }
        Ok(())
    }

    /// Lets go of entries before this index: all of them are in the record or never will be.
    pub fn compact(&mut self, before: u64) {
        let to = before.saturating_sub(1).min(self.raft.raft.raft_log.applied);
        self.raft.mut_store().compact(to);
    }

    /// What is to be done since the last time. What is to survive is in [`Self::to_bytes`] from now on.
    pub fn ready(&mut self) -> Outcome {
        let mut out = Outcome::default();
        while self.raft.has_ready() {
            let mut ready = self.raft.ready();
            let mut messages = ready.take_messages();
            if !ready.snapshot().is_empty() {
                let metadata = ready.snapshot().get_metadata();
                let (index, term) = (metadata.index, metadata.term);
                let voters = metadata.get_conf_state().voters.iter().copied().collect();
                self.raft.mut_store().restart(index, term, voters);
                out.skipped = Some(index);
            }
            let entries = ready.take_entries();
            self.raft.mut_store().append(entries);
            if let Some(hard) = ready.hs() {
                let (term, vote, commit) = (hard.term, hard.vote, hard.commit);
                let log = self.raft.mut_store();
                (log.term, log.vote, log.commit) = (term, vote, commit);
            }
            out.persist |= ready.must_sync();
            messages.extend(ready.take_persisted_messages());
            let decided = ready.take_committed_entries();
            self.apply(decided, &mut out);
            let mut light = self.raft.advance_append(ready);
            if let Some(commit) = light.commit_index() {
                self.raft.mut_store().commit = commit;
            }
            messages.extend(light.take_messages());
            let decided = light.take_committed_entries();
            self.apply(decided, &mut out);
            self.raft.advance_apply();
            self.settle();
            out.send.extend(messages.into_iter().filter_map(said));
        }
        out
    }

    fn apply(&mut self, entries: Vec<Entry>, out: &mut Outcome) {
        for entry in entries {
            if let Some((add, node)) = change(&entry) {
                let change =
                    ConfChange { node_id: node, change_type: change_type(add), ..ConfChange::default() };
                // It fails alike everywhere: the last voter does not go.
                let _ = self.raft.apply_conf_change(&change);
                out.persist = true;
            } else if let Some(signed) = logged(&entry).entry {
                out.decided.push((entry.index, signed));
            }
        }
    }
}

fn change_type(add: bool) -> ConfChangeType {
    if add { ConfChangeType::AddNode } else { ConfChangeType::RemoveNode }
}

/// A message as it is sent. Those that the library means for itself are not.
fn said(m: Message) -> Option<(u64, message::Raft)> {
    let kind = match m.get_msg_type() {
        MessageType::MsgAppend => RaftKind::Append,
        MessageType::MsgAppendResponse => RaftKind::Appended,
        MessageType::MsgHeartbeat => RaftKind::Heartbeat,
        MessageType::MsgHeartbeatResponse => RaftKind::Heard,
        MessageType::MsgRequestVote => RaftKind::RequestVote,
        MessageType::MsgRequestVoteResponse => RaftKind::Vote,
        MessageType::MsgRequestPreVote => RaftKind::RequestPreVote,
        MessageType::MsgRequestPreVoteResponse => RaftKind::PreVote,
        MessageType::MsgSnapshot => RaftKind::Snapshot,
        MessageType::MsgTimeoutNow => RaftKind::TimeoutNow,
        _ => return None,
    };
    let metadata = m.get_snapshot().get_metadata();
    let snapshot = (kind == RaftKind::Snapshot).then(|| message::Snapshot {
        index: metadata.index,
        term: metadata.term,
        voters: metadata.get_conf_state().voters.clone().try_into().unwrap_or_default(),
    });
    let entries: Vec<_> = m.entries.iter().take(MAX_APPENDED).map(logged).collect();
    let sent = message::Raft {
        kind,
        term: m.term,
        index: m.index,
        log_term: m.log_term,
        commit: m.commit,
        commit_term: m.commit_term,
        reject: m.reject,
        reject_hint: m.reject_hint,
        transfer: m.context == TRANSFER,
        entries: entries.try_into().unwrap_or_default(),
        snapshot,
    };
    Some((m.to, sent))
}
