//! A link carries no more than 2 KiB one way in a round of its sender's (docs/spec/gossip.md, "Bounds").

use std::collections::BTreeMap;

use gtvp_protocol::gossip::LINK_ROUND;

use super::{Invariant, Seen};

/// What went from whom to whom in this round.
#[derive(Default)]
pub struct Link(BTreeMap<(usize, usize), usize>);

impl Invariant for Link {
    fn name(&self) -> &'static str {
        "a link carries at most 2 KiB a round"
    }

    fn see(&mut self, seen: &Seen<'_>, _: u64) -> Result<(), String> {
        match seen {
            Seen::Round(by) | Seen::Restarted(by) => self.0.retain(|(from, _), _| from != by),
            Seen::Sent { by, to, bytes, .. } => {
                let sent = self.0.entry((*by, *to)).or_insert(0);
                *sent += bytes;
                if *sent > LINK_ROUND {
                    return Err(format!("m{by} sent {sent} bytes to m{to} in a round"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
