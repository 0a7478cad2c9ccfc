//! The entry that admits a joiner: written by `security`, proposed to the voters, written anew as often as another entry was first.

use std::sync::Arc;
use std::time::Duration;

use gtvp_ipc::security::{OwnUnion, WriteAdmission};
use gtvp_model::union::{Admission, RecordHead};
use gtvp_protocol::csp::node::Proposal;
use gtvp_protocol::hsp::{Event, Request};

use crate::runtime::Runtime;
use crate::switch::{Inbox, Note};

/// Times that it is written anew: joins and tokens of a busy minute.
const TRIES: usize = 10;
/// How long the voters have for one try.
pub const DECISION: Duration = Duration::from_secs(20);
/// How soon what was decided is in this member's record.
const TOLD: Duration = Duration::from_secs(10);

/// Does it on a thread of its own; what comes of it is left in the inbox.
pub fn start(runtime: Arc<Runtime>, inbox: Arc<Inbox>, request: Request, admission: Admission) {
    let failed = inbox.clone();
    let begun = std::thread::Builder::new().name("admits".into()).stack_size(512 * 1024).spawn(move || {
        let outcome = admit(&runtime, &admission);
        inbox.put(Note::Outcome(Event::Committed { request, outcome }));
    });
    if let Err(e) = begun {
        failed.put(Note::Outcome(Event::Committed { request, outcome: Err(e.to_string()) }));
    }
}

/// The newest head, if the record has this member. Its page ends there as well: a majority has signed it.
fn there(union: &OwnUnion, admission: &Admission) -> Option<RecordHead> {
    let entry = union.state.view.members.get(&admission.member.id())?;
    entry.identity.same_keys(&admission.member.identity).then_some(union.state.view.head)
}

fn admit(runtime: &Runtime, admission: &Admission) -> Result<RecordHead, String> {
    let told = |most| runtime.newest.wait(|u| there(u, admission), most);
    for _ in 0..TRIES {
        if let Some(head) = told(Duration::ZERO) {
            return Ok(head);
        }
        let write = WriteAdmission { admission: admission.clone() };
        let entry = runtime.security.write_admission(&write).map_err(|fault| fault.to_string())?;
        match runtime.node.propose(entry, DECISION) {
            Proposal::Taken => {
                return told(TOLD)
                    .ok_or_else(|| "it was decided, and this member has not heard of it".into());
            }
            Proposal::Overtaken => {}
            Proposal::Refused(why) => return Err(why),
            Proposal::Unknown(why) => return told(Duration::from_secs(1)).ok_or(why),
        }
    }
    Err(format!("other entries were first {TRIES} times"))
}
