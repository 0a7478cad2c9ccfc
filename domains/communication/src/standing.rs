//! How others see this member: what they said when they refused it, and that they do so no more, told to `security`. Only of whoever's
//! key the connection has shown; what it is worth is for `security` to say.

use gtvp_ipc::security::{HearStanding, Standing};
use gtvp_model::union::MemberId;
use gtvp_protocol::hsp::Refusal;

use crate::ends::End;
use crate::engine::LinkId;
use crate::runtime::Runtime;

/// What a member has said of us at the end of a connection; `None`: nothing that matters.
fn said(end: &End) -> Option<(Standing, String)> {
    let End::Refused(Refusal::PeerRefused { code, reason }) = end else { return None };
    let standing = match Refusal::name_of(*code)? {
        "NotInRoster" | "Evicted" => Standing::NoMember,
        "EvidenceRejected" => Standing::NotBelieved,
        _ => return None,
    };
    Some((standing, reason.clone()))
}

/// The end of a connection, if whoever answered where a member was dialled has shown that member's key; of anybody else's words it is
/// only told that they are somebody else's.
pub fn of_member(end: End, is_member: bool) -> End {
    match said(&end) {
        Some((_, reason)) if !is_member => {
            End::Broken(format!("somebody with another key answers there, and refuses: {reason}"))
        }
        _ => end,
    }
}

/// A connection with a member is over, and there is no channel with it.
pub fn over(runtime: &Runtime, link: LinkId, with: MemberId, end: &End) {
    if let Some((standing, why)) = said(end) {
        tell(runtime, link, with, (standing, why));
    }
}

/// There is a channel with a member.
pub fn up(runtime: &Runtime, link: LinkId, with: MemberId) {
    tell(runtime, link, with, (Standing::Member, String::new()));
}

/// The threads that tell it have no order: each word says of which connection it is.
fn tell(runtime: &Runtime, link: LinkId, from: MemberId, (standing, why): (Standing, String)) {
    let what = HearStanding { from, link: (runtime.begun.0, link.0), standing, why };
    let security = runtime.security.clone();
    runtime.pool.run(move || {
        // It is said again with the next connection.
        let _ = security.hear_standing(&what);
    });
}

#[cfg(test)]
mod tests {
    use gtvp_protocol::hsp::{Rejection, RejectionKind};

    use super::*;

    #[test]
    fn a_refusal_counts_by_its_code_and_only_from_the_member_itself() {
        let m: MemberId = [1; 32].into();
        let why = Rejection { kind: RejectionKind::Reference, why: "a program".into() };
        // Its `security` is not there, or was started again: nothing of this member.
        // Whoever quotes for another connection does so itself: both ends have this one's hellos.
        let elsewhere = Rejection { kind: RejectionKind::BoundElsewhere, why: "another connection".into() };
        let own = Rejection { kind: RejectionKind::Unknown, why: "security is not there".into() };
        let heard = |refusal: Refusal| {
            End::Refused(Refusal::PeerRefused { code: refusal.code(), reason: "r".into() })
        };
        let cases = [
            (Refusal::NotInRoster { member: m }, Some(Standing::NoMember)),
            (Refusal::Evicted { member: m }, Some(Standing::NoMember)),
            (Refusal::from(why), Some(Standing::NotBelieved)),
            (Refusal::from(elsewhere), Some(Standing::NotBelieved)),
            (Refusal::from(own), None),
            (Refusal::Ended, None),
            (Refusal::Lost, None),
        ];
        for (refusal, want) in cases {
            assert_eq!(said(&heard(refusal)).map(|(standing, _)| standing), want);
        }
        let refused = || heard(Refusal::NotInRoster { member: m });
        assert!(said(&of_member(refused(), true)).is_some());
        assert!(said(&of_member(refused(), false)).is_none(), "whoever answers there with another key");
        // What this side refuses says nothing of it.
        assert!(said(&End::Refused(Refusal::NotInRoster { member: m })).is_none());
    }
}
