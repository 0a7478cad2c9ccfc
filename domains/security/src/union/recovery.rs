//! A union whose voters are lost: its administrator makes one member the only voter, and those of the others say that they follow. No
//! majority stands behind such an entry, so nobody takes it by itself; what a majority may have decided since this member last heard of
//! it is given up, and so are the members that are named.

use std::collections::BTreeSet;

use gtvp_ipc::security::{FollowRecovery, Recover};
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::union::{MemberId, UnixTime};
use gtvp_model::unionview::{Change, Recovery};
use gtvp_protocol::csp::follow::{CURRENT, Recoveries};
use gtvp_protocol::csp::page::Committed;
use gtvp_protocol::csp::{Act, CoSigned, Offer, Vote};

use super::{Ecdsa, Kept, Union};
use crate::platform::{chain as causes, fault};
use crate::tpm::promises::Promised;

impl Union {
    /// What a recovery would give up, and, if that is confirmed, the recovery.
    ///
    /// # Errors
    /// `WrongState` while a majority of the voters can be reached, has not said two things, and does not stand still; the disk's and the
    /// TPM's.
    pub fn recover(&self, asked: &Recover, now: UnixTime) -> Result<Recovery, Fault> {
        let own = self.own_keys()?;
        own.in_tpm()?;
        let own = own.identity.member_id();
        self.can_count()?;
        // A voter that signs nothing until it has what nobody may have any more is no voter to wait for.
        let withholds = self.withheld().is_some();
        let done = self.kept(|kept| {
            let (plan, lost) = plan(kept, own, asked, withholds, now)?;
            if asked.confirmed { self.carry_out(kept, own, plan, lost, &asked.reason, now) } else { Ok(plan) }
        })?;
        self.turns.bump();
        Ok(done)
    }

    fn carry_out(
        &self,
        kept: &mut Kept,
        own: MemberId,
        plan: Recovery,
        lost: BTreeSet<MemberId>,
        reason: &str,
        now: UnixTime,
    ) -> Result<Recovery, Fault> {
        let refused =
            |why: String| Fault::new(FaultKind::WrongState, "the union is not recovered").because(why);
        let disk = |e: std::io::Error| Fault::internal("the record cannot be written", &e);
        let draft = self.draft(kept, Act::Recovered { lost, reason: reason.to_owned() }, now)?;
        let signed = self.sign(&draft.entry)?;
        let mut keeper = kept.keeper.clone();
        let head = keeper.recover(&signed, now, &Ecdsa).map_err(|e| refused(causes(&e)))?;
        self.disk.promise_recovery(head.at).map_err(disk)?;
        let now_promised = Promised { union: head.union, number: head.at.number };
        self.platform.tpm()?.set_promised(now_promised).map_err(|e| fault(&e))?;
        let vote = Vote { voter: own, time: head.time, signature: self.sign_head(&head)? };
        let votes = vec![vote].try_into().map_err(|e: gtvp_protocol::frame::wire::TooManyBytes| {
            Fault::internal("its head is too large", &e)
        })?;
        let offer = Offer { entries: vec![signed.clone()], head: CoSigned { head, votes } };
        keeper.allow(Recoveries::This(signed.hash()));
        keeper.take(&offer, own, now, &Ecdsa).map_err(|e| refused(causes(&e)))?;
        keeper.allow(Recoveries::None);
        self.disk.append(head.at.number, &Committed::of(&offer)).map_err(disk)?;
        kept.keeper = keeper;
        self.taken(kept, &offer);
        Ok(Recovery { hash: Some(signed.hash().to_string()), ..plan })
    }

    /// Says that the entry with this hash may replace the voters.
    ///
    /// # Errors
    /// Outside of a union; the disk's.
    pub fn follow(&self, asked: &FollowRecovery) -> Result<Change, Fault> {
        self.kept(|kept| {
            let cannot = |e: std::io::Error| Fault::internal("it cannot be written down", &e);
            self.disk.follow(asked.hash).map_err(cannot)?;
            kept.keeper.allow(Recoveries::This(asked.hash));
            let about = format!("entry {} may replace the union's voters", asked.hash.short());
            Ok(Change { about })
        })
    }
}

/// A majority that can be reached has the word, unless somebody says that it comes to nothing. It is believed of a majority only that puts
/// no new time on the last entry: as voters do that have promised what others have not.
fn refused_by_majority(kept: &Kept, asked: &Recover, heard: usize, now: UnixTime) -> Result<(), Fault> {
    let current = kept.keeper.follower().is_current(now);
    if asked.stands_still && !current {
        return Ok(());
    }
    let fault = Fault::new(FaultKind::WrongState, "the union has its voters: there is nothing to recover")
        .because(format!("{heard} of {} can be reached", kept.record().voters().len()));
    Err(match current {
        true => fault.hint("gtvp union show; gtvp member evict NAME removes a member"),
        false => fault.because(format!("but no majority has signed the last entry within {CURRENT} s")).hint(
            "gtvp union show, on each voter, says whether it withholds its vote. If the record stands still for good: \
             gtvp union recover --stands-still",
        ),
    })
}

/// What is given up.
fn plan(
    kept: &Kept,
    own: MemberId,
    asked: &Recover,
    withholds: bool,
    now: UnixTime,
) -> Result<(Recovery, BTreeSet<MemberId>), Fault> {
    let record = kept.record();
    let view = record.view();
    let there = |id: &MemberId| *id == own || asked.reachable.contains(id);
    let voters = record.voters();
    let heard = voters.iter().filter(|v| there(v) && !(withholds && **v == own)).count();
    // Voters that have said two things decide nothing any more.
    let forked = kept.known.forked;
    if heard > voters.len() / 2 && !forked {
        refused_by_majority(kept, asked, heard, now)?;
    }
    let mut lost: BTreeSet<MemberId> = voters.iter().filter(|v| !there(v)).copied().collect();
    for name in &asked.lost {
        let member = view
            .members
            .values()
            .find(|m| m.name == *name)
            .ok_or_else(|| Fault::new(FaultKind::NotFound, format!("the union has no member {name}")))?;
        if there(&member.id()) && (!forked || member.id() == own) {
            return Err(Fault::new(
                FaultKind::WrongState,
                format!("{name} is not lost: there is a channel with it"),
            ));
        }
        lost.insert(member.id());
    }
    let name = |id: &MemberId| view.members.get(id).map_or_else(|| id.short(), |m| m.name.to_string());
    let follow = view.members.keys().filter(|id| **id != own && !lost.contains(id));
    let plan = Recovery {
        entries: view.head.number.saturating_add(1),
        head: view.head.hash.to_string(),
        head_time: view.head_time.0,
        lost: lost.iter().map(name).collect(),
        follow: follow.map(name).collect(),
        hash: None,
    };
    Ok((plan, lost))
}
