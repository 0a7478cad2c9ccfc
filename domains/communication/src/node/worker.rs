//! The thread on which the node's questions are asked of `security`, one after the other.

use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Duration;

use gtvp_ipc::security::OwnUnion;
use gtvp_model::digest::Digest;
use gtvp_model::fault::FaultKind;
use gtvp_model::union::{MemberId, UnionId};
use gtvp_protocol::csp::node::{Event, NoVote, NotTaken};
use gtvp_protocol::csp::{Offer, SignedEntry, follow, page};

use super::In;
use crate::security::Security;
use crate::union::Newest;

/// The union must be told so soon after something was taken.
const TOLD: Duration = Duration::from_secs(5);
/// Most bytes of one reading of the record: what an offer can have.
const MAX_READ: u64 = follow::MAX_OFFER as u64;

/// What is asked of `security`.
pub enum Work {
    Vote(Box<SignedEntry>),
    Refresh,
    Take(MemberId, Box<Offer>),
    Read(MemberId, u64),
    Housekeeping(Vec<MemberId>),
}

/// Asks until nobody has questions any more.
pub fn run(
    security: &dyn Security,
    newest: &Newest,
    works: &Receiver<(UnionId, Work)>,
    outcomes: &SyncSender<In>,
) {
    while let Ok((union, work)) = works.recv() {
        let event = match work {
            Work::Vote(entry) => {
                let hash: Digest = entry.hash();
                let outcome = security.vote_for(*entry).map(|v| (v.head, v.vote));
                let outcome = outcome.map_err(|f| match f.kind {
                    FaultKind::Invalid => NoVote::Never(f.to_string()),
                    FaultKind::InUse => NoVote::Another(f.to_string()),
                    _ => NoVote::NotNow(f.to_string()),
                });
                Event::Voted { entry: hash, outcome }
            }
            Work::Refresh => {
                let outcome = security.vote_again().map(|v| (v.head, v.vote));
                Event::Refreshed(outcome.map_err(|f| f.to_string()))
            }
            Work::Take(from, offer) => {
                let outcome = security.take_offer(from, &offer).map_err(|f| match f.kind {
                    FaultKind::Integrity => NotTaken::Forked(f.to_string()),
                    FaultKind::Denied | FaultKind::Invalid => NotTaken::Refused(f.to_string()),
                    _ => NotTaken::NotNow(f.to_string()),
                });
                if let Ok(new) = &outcome {
                    // The node hears of the union first; of a new time too, if the union is told with it.
                    let (end, most) = (offer.head.head, if *new > 0 { TOLD } else { TOLD / 10 });
                    let has = |u: &OwnUnion| {
                        let (number, time) = (u.state.view.head.number, u.state.head.head.time);
                        (number, time) >= (end.at.number, end.time)
                    };
                    newest.wait(|u| has(u).then_some(()), most);
                }
                let outcome = outcome.map(|new| usize::try_from(new).unwrap_or(usize::MAX));
                Event::Taken { from, outcome }
            }
            Work::Read(to, from) => {
                let page = security.read_record(from, MAX_READ).map_err(|f| f.to_string());
                let page = page.and_then(|bytes| page::split(&bytes).map_err(|e| e.to_string()));
                if let Err(why) = &page {
                    eprintln!("gtvp-communication: the record cannot be read: {why}");
                }
                Event::Read { to, offer: page.ok().and_then(|p| page::offer(&p)) }
            }
            Work::Housekeeping(reachable) => {
                let entry = match security.write_housekeeping(reachable) {
                    Ok(entry) => entry.map(Box::new),
                    Err(fault) => {
                        eprintln!("gtvp-communication: the union's rules cannot be looked at: {fault}");
                        None
                    }
                };
                if outcomes.send(In::Housekeeping(union, entry)).is_err() {
                    return;
                }
                continue;
            }
        };
        if outcomes.send(In::Outcome(union, Box::new(event))).is_err() {
            return;
        }
    }
}
