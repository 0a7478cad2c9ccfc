//! A token admits one (docs/spec/hsp.md, "A transaction").

use std::collections::BTreeSet;

use gtvp_model::token::TokenId;

use super::{Invariant, Seen};

/// Tokens that were used.
#[derive(Default)]
pub struct Once(BTreeSet<TokenId>);

impl Invariant for Once {
    fn name(&self) -> &'static str {
        "a token admits one"
    }

    fn see(&mut self, seen: &Seen, _: u64) -> Result<(), String> {
        match seen {
            Seen::Admitted { token, server, .. } if !self.0.insert(*token) => {
                Err(format!("a token has admitted another one: {server:?}"))
            }
            _ => Ok(()),
        }
    }
}
