//! What members hold of their union, by its record: votes, reference values that they signed, tokens that they made.

use gtvp_model::fault::Fault;
use gtvp_model::union::{MemberId, UnixTime};
use gtvp_model::unionview::{MemberHeld, TokenRow};

use super::{Kept, Union};

impl Union {
    /// What a member holds, or what is left of one that has gone.
    ///
    /// # Errors
    /// Outside of a union.
    pub fn held_by(&self, member: &MemberId, now: UnixTime) -> Result<MemberHeld, Fault> {
        self.read(|kept| {
            let signed = kept.book.accepted().iter().filter(|(_, a)| a.author == *member);
            let made = open(kept, now).filter(|(_, by)| by == member).map(|(row, _)| row.id).collect();
            Ok(MemberHeld {
                voter: kept.record().voters().contains(member),
                references: signed.map(|(name, _)| name.clone()).collect(),
                tokens: made,
                channel: None,
                boxes: None,
            })
        })
    }

    /// Tokens that can still be used. Their secrets are nowhere here.
    ///
    /// # Errors
    /// Outside of a union.
    pub fn tokens(&self, now: UnixTime) -> Result<Vec<TokenRow>, Fault> {
        self.read(|kept| {
            let mut rows: Vec<TokenRow> = open(kept, now).map(|(row, _)| row).collect();
            rows.sort_by(|a, b| (a.expires, &a.id).cmp(&(b.expires, &b.id)));
            Ok(rows)
        })
    }
}

/// By the later of this clock and the record's: as whoever takes a token looks at it.
fn open(kept: &Kept, now: UnixTime) -> impl Iterator<Item = (TokenRow, MemberId)> {
    let view = kept.record().view();
    let now = now.max(view.head_time);
    kept.book.tokens().iter().filter_map(move |(id, by)| {
        let token = view.tokens.get(id).filter(|t| t.used_by.is_none() && t.expires > now)?;
        let row = TokenRow {
            id: id.to_string(),
            expires: token.expires.0,
            by: kept
                .known
                .member(by)
                .map_or_else(|| format!("{} (gone)", by.short()), |m| m.name.to_string()),
            ek: token.ek.map(|ek| ek.to_string()),
            platform_identity: token.platform_identity.get(),
        };
        Some((row, *by))
    })
}
