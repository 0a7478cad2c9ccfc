//! Nobody is in a record whose TPM did not prove itself for that token: its keys are in one TPM, what runs is what should, and the token
//! was given to it (docs/spec/hsp.md, "A join"; threats 7, 8).

use std::collections::{BTreeMap, BTreeSet};

use gtvp_model::token::TokenId;

use super::{Invariant, Seen};

/// Who was given which token.
#[derive(Default)]
pub struct Proved(BTreeMap<TokenId, BTreeSet<usize>>);

impl Invariant for Proved {
    fn name(&self) -> &'static str {
        "who is admitted has proved its TPM for that token"
    }

    fn see(&mut self, seen: &Seen, _: u64) -> Result<(), String> {
        match seen {
            Seen::Given { server, token } => {
                self.0.entry(*token).or_default().insert(*server);
            }
            // Those of the beginning, and of no story of HSP, have tokens of their own.
            Seen::Admitted { token, server, genuine } if self.0.contains_key(token) => match server {
                Some(s) if *genuine && self.0.get(token).is_some_and(|g| g.contains(s)) => {}
                Some(s) => return Err(format!("m{s} was admitted, and must not be")),
                None => return Err("keys were admitted that no TPM has".into()),
            },
            _ => {}
        }
        Ok(())
    }
}
