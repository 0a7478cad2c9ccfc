//! Verdicts on members as events: once a change, with the reason, and with what the member held where that matters. Here is what is told;
//! what members are is for `security` to say, and whether they are reached for `communication`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gtvp_ipc::call_with;
use gtvp_ipc::communication::Channels;
use gtvp_ipc::place::SOCKETS;
use gtvp_ipc::security::{HeldBy, History, ShowPeer, VerdictNow, WatchVerdicts};
use gtvp_model::event::Severity;
use gtvp_model::fault::Fault;
use gtvp_model::ids::MemberName;
use gtvp_model::union::MemberId;
use gtvp_model::unionview::{ChannelRow, MemberHeld, PeerView};

use crate::peers;
use crate::runtime::Runtime;

/// Pause before security is asked again after it went away.
const PAUSE: Duration = Duration::from_millis(200);
/// How long is waited for a channel to end that a verdict has ended.
const ENDS: Duration = Duration::from_secs(1);

/// The members as they were told last.
#[derive(Debug, Default)]
pub struct Told(BTreeMap<MemberId, String>);

impl Told {
    /// Whether this is news: what was so when the watching began is none, unless it was told otherwise before; nor is it that a member of
    /// whom nothing is known yet has come, or come again.
    fn is_news(&mut self, now: &VerdictNow) -> bool {
        let before = self.0.insert(now.id, now.verdict.clone());
        match (now.begins, now.first) {
            (true, _) => before.is_some_and(|before| before != now.verdict),
            (false, true) => now.verdict != "unknown",
            (false, false) => true,
        }
    }
}

impl Runtime {
    /// Tells what becomes of members, for as long as this domain lives.
    pub fn watch_verdicts(self: &Arc<Self>) {
        let socket = format!("{SOCKETS}/security.sock");
        let mut told = Told::default();
        loop {
            // Its end, whatever the reason, is answered by connecting anew.
            let _ = call_with(socket.as_ref(), &WatchVerdicts {}, &[], |now: VerdictNow| {
                if told.is_news(&now) {
                    self.verdict_changed(&now);
                }
                ControlFlow::Continue(())
            });
            std::thread::sleep(PAUSE);
        }
    }

    fn verdict_changed(&self, now: &VerdictNow) {
        let VerdictNow { id, name, own, verdict, reason, begins: _, first: _ } = now;
        let who = if *own { format!("{name} (this member)") } else { name.to_string() };
        let (severity, kind, message) = match verdict.as_str() {
            "trusted" => (Severity::Info, "member.trusted", format!("{who} is trusted: {reason}")),
            "untrusted" => {
                let held = held_after(id, name).map_or_else(|f| format!("not known: {f}"), |h| holds(&h));
                (
                    Severity::Warning,
                    "member.untrusted",
                    format!("{who} is untrusted: {reason}. What it held: {held}"),
                )
            }
            _ => match channel_of(name).filter(|c| c.state != "open" && !own) {
                Some(channel) => {
                    let why = channel.problem.unwrap_or_else(|| channel.state.clone());
                    let message = format!("{who} is unreachable ({why}), and unknown by that: {reason}");
                    (Severity::Warning, "member.unreachable", message)
                }
                None => (Severity::Warning, "member.unknown", format!("{who} is unknown: {reason}")),
            },
        };
        self.events.tell(severity, kind, None, message);
    }

    /// One member, and why its verdict is what it is; with the channel that there is with it.
    pub fn show_peer(&self, name: MemberName) -> Result<PeerView, Fault> {
        let channel = channel_of(&name).map(|c| words(&c));
        let mut peer = peers::ask(&ShowPeer { name })?;
        if let Some(held) = &mut peer.held {
            held.channel = channel;
        }
        Ok(peer)
    }
}

fn channel_of(name: &MemberName) -> Option<ChannelRow> {
    let channels = peers::ask(&Channels {}).unwrap_or_default();
    channels.into_iter().find(|c| c.member == name.as_str())
}

fn words(channel: &ChannelRow) -> String {
    match (channel.state.as_str(), channel.full) {
        ("open", true) => "open, for all that members tell each other".into(),
        ("open", false) => "open, for the record and nothing else".into(),
        (_, _) => match &channel.problem {
            Some(why) => format!("closed: {why}"),
            None => "closed".into(),
        },
    }
}

/// What a member held, once the channel with it has ended, or is known not to.
fn held_after(id: &MemberId, name: &MemberName) -> Result<MemberHeld, Fault> {
    let until = Instant::now() + ENDS;
    let mut channel = channel_of(name);
    while channel.as_ref().is_some_and(|c| c.state == "open") && Instant::now() < until {
        std::thread::sleep(PAUSE / 4);
        channel = channel_of(name);
    }
    let held = peers::ask(&HeldBy { member: *id })?;
    Ok(MemberHeld { channel: channel.map(|c| words(&c)), ..held })
}

/// What a member that has gone held.
pub fn held_before(id: &MemberId, voter: bool) -> String {
    match peers::ask(&HeldBy { member: *id }) {
        Ok(held) => holds(&MemberHeld { voter, channel: Some("closed".into()), ..held }),
        Err(fault) => format!("not known: {fault}"),
    }
}

/// In a sentence.
pub fn holds(held: &MemberHeld) -> String {
    let list = |what: &[String]| if what.is_empty() { "none".to_owned() } else { what.join(", ") };
    let short: Vec<String> = held.tokens.iter().map(|id| id.chars().take(12).collect()).collect();
    format!(
        "channel {}; vote: {}; reference values that it signed and that count: {}; join tokens that it made and that can be used: {}; \
         boxes on it: {}",
        held.channel.as_deref().unwrap_or("none"),
        if held.voter { "yes" } else { "no" },
        list(&held.references),
        list(&short),
        held.boxes.as_deref().map_or_else(|| "not known to this member".into(), list),
    )
}

/// The record's last word about a member.
pub fn entry_about(name: &MemberName) -> String {
    let history = peers::ask(&History { member: Some(name.clone()) }).unwrap_or_default();
    history
        .last()
        .map_or_else(String::new, |h| format!(" (entry {}, by {}: {})", h.number, h.author, h.about))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(n: u8, verdict: &str, begins: bool) -> VerdictNow {
        let name = format!("m{n}").parse().unwrap();
        let (id, verdict, reason) = ([n; 32].into(), verdict.to_owned(), "r".to_owned());
        VerdictNow { id, name, own: false, verdict, reason, begins, first: begins }
    }

    fn comes(n: u8, verdict: &str) -> VerdictNow {
        VerdictNow { first: true, ..now(n, verdict, false) }
    }

    #[test]
    fn a_change_is_news_once_and_what_was_so_before_is_none() {
        let mut told = Told::default();
        assert!(!told.is_news(&now(1, "trusted", true)), "it was so when this domain began");
        assert!(told.is_news(&now(1, "untrusted", false)));
        assert!(!told.is_news(&now(1, "untrusted", true)), "security has started again, and says it again");
        assert!(told.is_news(&now(1, "unknown", true)));
        // Somebody who was removed while trusted, and has joined again.
        assert!(told.is_news(&comes(4, "trusted")) && told.is_news(&comes(4, "trusted")));
        // And who was not looked at yet then: it comes, and is trusted; one event, and not that it was unknown in between.
        assert!(!told.is_news(&comes(4, "unknown")) && told.is_news(&now(4, "trusted", false)));
        assert!(told.is_news(&now(4, "unknown", false)), "the control: it was there all the time");
        // Somebody who came later.
        assert!(!told.is_news(&comes(2, "unknown")));
        assert!(told.is_news(&now(2, "trusted", false)));
        assert!(told.is_news(&comes(3, "untrusted")));
    }

    #[test]
    fn what_is_not_known_of_a_member_is_said_so() {
        let mut held = MemberHeld {
            voter: true,
            references: Vec::new(),
            tokens: Vec::new(),
            channel: None,
            boxes: None,
        };
        let said = holds(&held);
        assert!(
            said.contains("vote: yes") && said.ends_with("boxes on it: not known to this member"),
            "{said}"
        );
        (held.references, held.tokens) = (vec!["founder".into()], vec!["ab".repeat(32)]);
        let said = holds(&held);
        assert!(said.contains("that count: founder") && said.contains("used: abababababab;"), "{said}");
    }
}
