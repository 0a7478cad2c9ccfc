//! Who should vote: a rule, and nothing else. One comes or goes at a time, as the record wants it.

use std::collections::BTreeSet;

use gtvp_model::union::{MemberId, PlatformIdentity, TpmClass};
use gtvp_protocol::csp::act::MAX_VOTERS;

/// A member, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub id: MemberId,
    /// Without a TPM nobody votes.
    pub class: TpmClass,
    /// Higher ones are preferred.
    pub level: PlatformIdentity,
    /// Whether there is a channel with it, or it is this member: `communication`'s word.
    pub reachable: bool,
    /// Whether this member itself has found it healthy lately, or it is this member.
    pub trusted: bool,
    /// Whether it is about to go.
    pub leaving: bool,
}

impl Candidate {
    /// Whom nobody has heard of: neither is there a channel, nor any evidence of late.
    fn lost(&self) -> bool {
        self.leaving || !self.reachable && !self.trusted
    }
}

/// How many should vote: an odd number, and one alone where a second would only make the union stop with either.
pub fn wanted(members: usize, able: usize) -> usize {
    let by_size = match members {
        0..=2 => 1,
        3..=4 => 3,
        5..=6 => 5,
        _ => MAX_VOTERS,
    };
    let odd = if able % 2 == 0 { able.saturating_sub(1) } else { able };
    by_size.min(odd).max(1)
}

/// Who votes next; `None` if all is well, or nothing can be done.
pub fn next(members: &[Candidate], voters: &BTreeSet<MemberId>) -> Option<BTreeSet<MemberId>> {
    let able = |c: &&Candidate| c.class != TpmClass::None && !c.leaving;
    let want = wanted(members.len(), members.iter().filter(able).count());
    // Best first.
    let key = |c: &Candidate| (c.lost(), std::cmp::Reverse(c.level), c.id);
    let fit = |c: &&Candidate| c.reachable && c.trusted && !voters.contains(&c.id);
    let candidate = members.iter().filter(able).filter(fit).min_by_key(|c| key(c));
    let worst = members.iter().filter(|c| voters.contains(&c.id)).max_by_key(|c| key(c));
    let lost = worst.filter(|c| c.lost());
    let with = |c: &Candidate| voters.iter().copied().chain([c.id]).collect();
    let without = |c: &Candidate| voters.iter().copied().filter(|v| *v != c.id).collect();
    if voters.len() < want {
        return candidate.map(with);
    }
    if voters.len() > want {
        return worst.map(without);
    }
    // As many as wanted, and one of them is gone: another comes first, and then it is one too many.
    match (lost, candidate) {
        (Some(lost), Some(_)) if voters.len() == MAX_VOTERS => Some(without(lost)),
        (Some(_), Some(candidate)) => Some(with(candidate)),
        _ => None,
    }
}

/// The voters without this one, who wants to go; first with another in its place, if it is the only one.
pub fn without(
    members: &[Candidate],
    voters: &BTreeSet<MemberId>,
    gone: MemberId,
) -> Option<BTreeSet<MemberId>> {
    if voters.len() > 1 {
        return Some(voters.iter().copied().filter(|v| *v != gone).collect());
    }
    let able = members.iter().filter(|c| c.id != gone && c.class != TpmClass::None && c.trusted);
    let best = able.min_by_key(|c| (c.leaving, !c.reachable, std::cmp::Reverse(c.level), c.id))?;
    Some(voters.iter().copied().chain([best.id]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(n: u8) -> Candidate {
        Candidate {
            id: [n; 32].into(),
            class: TpmClass::Software,
            level: PlatformIdentity::try_from(8).unwrap(),
            reachable: true,
            trusted: true,
            leaving: false,
        }
    }

    fn union(n: u8) -> Vec<Candidate> {
        (1..=n).map(member).collect()
    }

    fn ids(numbers: &[u8]) -> BTreeSet<MemberId> {
        numbers.iter().map(|n| [*n; 32].into()).collect()
    }

    /// Until nothing is to be done.
    fn settle(members: &[Candidate], mut voters: BTreeSet<MemberId>) -> BTreeSet<MemberId> {
        for _ in 0..20 {
            let Some(new) = next(members, &voters) else { return voters };
            assert_eq!(new.symmetric_difference(&voters).count(), 1, "one at a time");
            assert!((1..=MAX_VOTERS).contains(&new.len()));
            voters = new;
        }
        panic!("it never comes to rest: {voters:?}");
    }

    #[test]
    fn as_many_vote_as_the_union_is_large() {
        for (n, want) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (7, 7), (20, 7)] {
            assert_eq!(settle(&union(n), ids(&[1])).len(), want, "{n} members");
        }
        assert_eq!(settle(&union(2), ids(&[1, 2])), ids(&[1]), "two voters are worse than one");
    }

    #[test]
    fn only_tpms_vote_and_the_better_level_first() {
        let mut members = union(4);
        members[1].class = TpmClass::None;
        members[3].level = PlatformIdentity::try_from(9).unwrap();
        assert_eq!(next(&members, &ids(&[1])), Some(ids(&[1, 4])));
        assert_eq!(settle(&members, ids(&[1])), ids(&[1, 3, 4]));
        members[2].class = TpmClass::None;
        assert_eq!(settle(&members, ids(&[1])), ids(&[1]), "two that can vote are one voter");
    }

    #[test]
    fn who_is_gone_is_replaced_and_who_is_there_never_swapped() {
        let mut members = union(5);
        members[4].level = PlatformIdentity::try_from(15).unwrap();
        let four: Vec<Candidate> = members[..4].to_vec();
        assert_eq!(next(&four, &ids(&[1, 2, 3])), None);
        let mut four_better = four.clone();
        four_better[3].level = PlatformIdentity::try_from(15).unwrap();
        assert_eq!(next(&four_better, &ids(&[1, 2, 3])), None, "a better one is no reason");
        let mut gone = four;
        (gone[1].reachable, gone[1].trusted) = (false, false);
        assert_eq!(settle(&gone, ids(&[1, 2, 3])), ids(&[1, 3, 4]));
        // With the most that there can be, the lost one goes first.
        let mut many = union(9);
        (many[0].reachable, many[0].trusted) = (false, false);
        let seven = ids(&[1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(settle(&many, seven), ids(&[2, 3, 4, 5, 6, 7, 8]));
        let alone = [
            member(1),
            Candidate { reachable: false, ..member(2) },
            Candidate { reachable: false, ..member(3) },
        ];
        assert_eq!(next(&alone, &ids(&[1])), None, "nobody votes who is not there");
    }

    #[test]
    fn nobody_votes_who_was_not_found_healthy_here_and_nobody_healthy_is_lost() {
        let mut members = union(4);
        (members[1].trusted, members[3].trusted) = (false, false);
        assert_eq!(settle(&members, ids(&[1])), ids(&[1, 3]), "there is a channel with all of them");
        (members[2].reachable, members[3].trusted) = (false, true);
        assert_eq!(
            next(&members, &ids(&[1, 2, 3])),
            None,
            "whoever is healthy is not lost by anybody's word"
        );
        members[2].trusted = false;
        assert_eq!(settle(&members, ids(&[1, 2, 3])), ids(&[1, 2, 4]));
        let mut two = union(2);
        two[1].trusted = false;
        assert_eq!(without(&two, &ids(&[1]), [1; 32].into()), None);
    }

    #[test]
    fn the_only_voter_goes_when_another_votes() {
        assert_eq!(without(&union(2), &ids(&[1]), [1; 32].into()), Some(ids(&[1, 2])));
        assert_eq!(without(&union(2), &ids(&[1, 2]), [1; 32].into()), Some(ids(&[2])));
        assert_eq!(without(&union(1), &ids(&[1]), [1; 32].into()), None);
        let mut leaving = union(2);
        leaving[0].leaving = true;
        assert_eq!(next(&leaving, &ids(&[1, 2])), Some(ids(&[2])), "not the one that stays");
    }
}
