//! What a member has of somebody is never replaced by something older (docs/spec/gossip.md, "What is taken").

use std::collections::BTreeMap;

use gtvp_protocol::gossip::Key;

use super::super::network::number;
use super::{Invariant, Seen};

/// Of each member and key the newest version.
#[derive(Default)]
pub struct Newest(BTreeMap<(usize, Key), (u64, u64)>);

impl Invariant for Newest {
    fn name(&self) -> &'static str {
        "nobody goes back to an older version"
    }

    fn see(&mut self, seen: &Seen<'_>, _: u64) -> Result<(), String> {
        match seen {
            Seen::Restarted(by) => self.0.retain(|(m, _), _| m != by),
            Seen::Took { by, entry, wall } => {
                let before = self.0.insert((*by, entry.key()), (entry.version, entry.expires));
                // One that has ended is forgotten, and what was said before it may come again.
                if let Some((version, _)) = before.filter(|(v, ends)| *v >= entry.version && ends > wall) {
                    let what = format!("m{by} had version {version} of m{}'s", number(entry.author));
                    return Err(format!("{what}, and takes {}", entry.version));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
