//! The record as a member has computed it: entry after entry, each checked against what the ones before made of it. Every
//! member that has the same entries has the same record; an entry that breaks a rule is in no member's record.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gtvp_model::ids::{MemberName, UnionName};
use gtvp_model::token::TokenId;
use gtvp_model::union::{
    Admission, Epoch, MemberId, RecordHead, RosterEntry, TpmClass, UnionId, UnionView, UnixTime,
};

use super::act::{Act, Blob, MAX_NAME, MAX_REASON, MAX_VOTERS};
use super::budget::{Budgets, OverBudget, Spent};
use super::entry::{BadEntry, Entry, Signatures, SignedEntry, signed_content};
use super::owner::{self, BoxRefusal, Situation};
use crate::planted::{Check, check};

/// Most members: what the software is made for, and some.
pub const MAX_MEMBERS: usize = 1000;
/// Most tokens that are remembered, used ones and ended ones among them. All of them are told at once to whoever needs the union.
pub const MAX_TOKENS: usize = 5_000;
/// For so long after its end a token is remembered, seconds: a joiner that did not hear of its entry asks again.
pub const TOKENS_REMEMBERED: u64 = 86_400;
/// Most sets of reference values that count at once.
pub const MAX_REFERENCES: usize = 1000;

/// The record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    name: UnionName,
    view: UnionView,
    voters: BTreeSet<MemberId>,
    references: BTreeMap<String, Arc<Blob>>,
    budgets: Budgets,
}

/// Why an entry is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// See [`BadEntry`].
    #[error(transparent)]
    Bad(#[from] BadEntry),
    /// Of another union.
    #[error("the entry is of another union")]
    OtherUnion,
    /// Not the next one.
    #[error("the entry has number {have}, the next one is {next}")]
    Number {
        /// Its number.
        have: u64,
        /// What comes next.
        next: u64,
    },
    /// It follows another entry than the last one: somebody has another record.
    #[error("entry {0} follows another entry than the one that this member has")]
    Fork(u64),
    /// Its author is not a member.
    #[error("its author {0} is not a member")]
    Author(MemberId),
    /// Its author did not sign it.
    #[error("its author's signature does not hold")]
    Signature,
    /// A union begins once.
    #[error("only entry 0 begins a union")]
    Genesis,
    /// The founder did not write entry 0.
    #[error("entry 0 is not by the founder")]
    Founder,
    /// The union does not take members of this class.
    #[error("the union takes no member with TPM class {0}")]
    Class(TpmClass),
    /// No administrator has named its key.
    #[error("it is said to be pinned, and its token names no endorsement key")]
    NotNamed,
    /// There is a member with these keys or this name.
    #[error("a member called {0}, or with its keys, is there already")]
    MemberThere(MemberName),
    /// Nobody has this id.
    #[error("{0} is not a member")]
    NoMember(MemberId),
    /// No more fit.
    #[error("there are {0} {1} already, no more fit")]
    Full(usize, &'static str),
    /// The token is not known.
    #[error("there is no such token")]
    NoToken,
    /// Somebody has used the token.
    #[error("the token has been used")]
    TokenUsed,
    /// The token had expired.
    #[error("the token expired at {0}")]
    TokenExpired(UnixTime),
    /// The secret is not the token's.
    #[error("the token's secret is not the one that was shown")]
    TokenSecret,
    /// The token is another TPM's.
    #[error("the token is for another TPM")]
    TokenEk,
    /// The token gives another platform identity.
    #[error("the member's platform identity is not the token's")]
    PlatformIdentity,
    /// A member cannot admit itself.
    #[error("a member cannot admit itself")]
    AdmitsItself,
    /// A member without a TPM does not vote, and changes nothing but its own membership.
    #[error("member {0} has no TPM: it neither votes nor changes the union")]
    WithoutTpm(MemberId),
    /// A voter leaves by ceasing to vote first.
    #[error("{0} votes: it must cease to before it goes")]
    Votes(MemberId),
    /// Not one to seven.
    #[error("{0} voters: a union has 1 to {MAX_VOTERS}")]
    Voters(usize),
    /// More than one voter at once comes or goes.
    #[error("voters change one at a time")]
    VotersAtOnce,
    /// Too long.
    #[error("the reason has {0} bytes, at most {MAX_REASON} are kept")]
    Reason(usize),
    /// No majority is behind it.
    #[error("it replaces the voters, and nobody here has said that it may")]
    Recovery,
    /// See [`OverBudget`].
    #[error(transparent)]
    Budget(#[from] OverBudget),
    /// Empty, or too long.
    #[error("a name of reference values has 1 to {MAX_NAME} bytes")]
    ReferenceName,
    /// Without any, nobody could be trusted any more.
    #[error("reference values {0:?} are the last: accept others first")]
    LastReference(String),
    /// None of this name count.
    #[error("there are no reference values called {0:?}")]
    Reference(String),
    /// About a box.
    #[error(transparent)]
    Box(#[from] BoxRefusal),
}

impl Record {
    /// A record of entry 0 alone.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn begin(signed: &SignedEntry, signatures: &dyn Signatures) -> Result<Self, Refusal> {
        let entry = Entry::decode(signed.entry.as_slice())?;
        let zero = [0; 32];
        let Act::Genesis { name, founder, settings, .. } = entry.act else { return Err(Refusal::Genesis) };
        if entry.number != 0 || entry.previous.0 != zero || entry.union != UnionId::from(zero) {
            return Err(Refusal::Genesis);
        }
        if entry.author != founder.id() {
            return Err(Refusal::Founder);
        }
        if !settings.admits(founder.identity.class()) {
            return Err(Refusal::Class(founder.identity.class()));
        }
        check(Check::EntrySignature, signed_by(signed, &founder, signatures), || Refusal::Signature)?;
        let hash = signed.hash();
        let id = founder.id();
        Ok(Self {
            name,
            view: UnionView {
                union: UnionId::new(hash),
                epoch: Epoch(0),
                head: RecordHead { number: 0, hash },
                head_time: entry.time,
                settings,
                members: [(id, founder)].into(),
                tokens: Default::default(),
                boxes: Default::default(),
            },
            voters: [id].into(),
            references: BTreeMap::new(),
            budgets: Budgets::begin(id, entry.time),
        })
    }

    /// The record with one entry more. An entry that is refused leaves it as it was.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn apply(&mut self, signed: &SignedEntry, signatures: &dyn Signatures) -> Result<(), Refusal> {
        let entry = self.next(signed, signatures)?;
        self.may(&entry)?;
        let spent = self.affordable(&entry, signed.entry.as_slice().len())?;
        self.act(&entry, signatures)?;
        self.budgets.take(spent);
        if let Act::Admitted(admission) = &entry.act {
            self.budgets.joined(admission.member.id(), &entry.author);
        }
        self.budgets.keep(|member| self.view.members.contains_key(member));
        self.view.head = RecordHead { number: entry.number, hash: signed.hash() };
        Ok(())
    }

    /// Whether its author may write an entry of so many bytes by now: the rule that can be asked before it is signed.
    ///
    /// # Errors
    /// [`Refusal::Budget`].
    pub fn affordable(&self, entry: &Entry, bytes: usize) -> Result<Spent, Refusal> {
        self.budgets.spend(entry, bytes, &self.voters).or_else(|over| {
            check(Check::EntryBudget, false, || Refusal::Budget(over)).map(|()| Spent::default())
        })
    }

    /// The entry, if it is the next one and its author's.
    fn next(&self, signed: &SignedEntry, signatures: &dyn Signatures) -> Result<Entry, Refusal> {
        let entry = Entry::decode(signed.entry.as_slice())?;
        check(Check::EntryUnion, entry.union == self.view.union, || Refusal::OtherUnion)?;
        let next = self.view.head.number.saturating_add(1);
        check(Check::EntryNumber, entry.number == next, || Refusal::Number { have: entry.number, next })?;
        let follows = entry.previous == self.view.head.hash;
        check(Check::EntryChain, follows, || Refusal::Fork(entry.number))?;
        let author = self.view.members.get(&entry.author).ok_or(Refusal::Author(entry.author))?;
        check(Check::EntrySignature, signed_by(signed, author, signatures), || Refusal::Signature)?;
        Ok(entry)
    }

    /// Whether its author may do this. Who cannot prove what it has booted changes nothing but its own membership.
    fn may(&self, entry: &Entry) -> Result<(), Refusal> {
        let own = matches!(entry.act, Act::Left);
        let author = self.view.members.get(&entry.author).ok_or(Refusal::Author(entry.author))?;
        let proves = author.identity.class() != TpmClass::None;
        check(Check::AuthorTpm, own || proves, || Refusal::WithoutTpm(entry.author))
    }

    /// Carries an act out, after every rule about it has been looked at.
    fn act(&mut self, entry: &Entry, signatures: &dyn Signatures) -> Result<(), Refusal> {
        match &entry.act {
            Act::Genesis { .. } => return Err(Refusal::Genesis),
            Act::TokenMade(token) => {
                let id = token.key.id();
                // Those that nobody can use any more, nor ask about: the same key is never made again, it is random.
                let since = entry.time.0.saturating_sub(TOKENS_REMEMBERED);
                self.view.tokens.retain(|_, t| t.expires.0 >= since);
                if self.view.tokens.len() >= MAX_TOKENS {
                    return Err(Refusal::Full(MAX_TOKENS, "tokens"));
                }
                if self.view.tokens.contains_key(&id) || token.used_by.is_some() {
                    return Err(Refusal::TokenUsed);
                }
                self.view.tokens.insert(id, token.clone());
            }
            Act::TokenEnded(id) => {
                self.unused(id)?;
                // It stays known, so that it is not made again.
                if let Some(token) = self.view.tokens.get_mut(id) {
                    token.expires = UnixTime(0);
                }
            }
            Act::Admitted(admission) => self.admit(entry, admission)?,
            Act::Left => {
                self.gone(entry.author)?;
                // It takes its boxes along. Those of who is removed stay: another member may adopt them.
                self.view.boxes.retain(|_, b| b.owner != entry.author);
            }
            Act::Evicted { member, reason } => {
                if reason.len() > MAX_REASON {
                    return Err(Refusal::Reason(reason.len()));
                }
                self.gone(*member)?;
                self.view.epoch = Epoch(self.view.epoch.0.saturating_add(1));
            }
            Act::Voters(voters) => self.vote(voters)?,
            Act::Recovered { .. } => return Err(Refusal::Recovery),
            Act::ReferenceAccepted { name, manifest } => {
                if name.is_empty() || name.len() > MAX_NAME {
                    return Err(Refusal::ReferenceName);
                }
                if self.references.len() >= MAX_REFERENCES && !self.references.contains_key(name) {
                    return Err(Refusal::Full(MAX_REFERENCES, "manifests of reference values"));
                }
                self.references.insert(name.clone(), Arc::new(manifest.clone()));
            }
            Act::ReferenceRetired { name } => {
                let words = || name.chars().take(MAX_NAME).collect();
                if !self.references.contains_key(name) {
                    return Err(Refusal::Reference(words()));
                }
                if self.references.len() == 1 {
                    return Err(Refusal::LastReference(words()));
                }
                self.references.remove(name);
            }
            Act::Box { id, does } => {
                let UnionView { union, members, boxes, .. } = &mut self.view;
                let (author, number) = (entry.author, entry.number);
                let at = Situation { union: *union, members, author, number, signatures };
                owner::change(boxes, *id, does, &at)?;
            }
        }
        Ok(())
    }

    fn unused(&self, id: &TokenId) -> Result<&gtvp_model::union::TokenRecord, Refusal> {
        let token = self.view.tokens.get(id).ok_or(Refusal::NoToken)?;
        check(Check::EntryToken, token.used_by.is_none(), || Refusal::TokenUsed)?;
        Ok(token)
    }

    fn admit(&mut self, entry: &Entry, admission: &Admission) -> Result<(), Refusal> {
        let token = self.unused(&admission.token)?;
        let joiner = &admission.member;
        if joiner.id() == entry.author {
            return Err(Refusal::AdmitsItself);
        }
        let secret = admission.secret.key() == token.key;
        check(Check::EntryToken, secret, || Refusal::TokenSecret)?;
        check(Check::EntryToken, entry.time < token.expires, || Refusal::TokenExpired(token.expires))?;
        let ek = match &joiner.identity {
            gtvp_model::union::Identity::Tpm { ek, .. } => Some(*ek),
            gtvp_model::union::Identity::Bare { .. } => None,
        };
        check(Check::EntryToken, token.ek.is_none() || token.ek == ek, || Refusal::TokenEk)?;
        let named = joiner.identity.class() != TpmClass::Pinned || token.ek.is_some();
        check(Check::EntryPin, named, || Refusal::NotNamed)?;
        if token.platform_identity != joiner.platform_identity {
            return Err(Refusal::PlatformIdentity);
        }
        let class = joiner.identity.class();
        check(Check::Class, self.view.settings.admits(class), || Refusal::Class(class))?;
        let there = self.view.members.contains_key(&joiner.id())
            || self.view.members.values().any(|m| m.identity.spki() == joiner.identity.spki())
            || self.view.named(&joiner.name, joiner.id()).is_some();
        check(Check::EntryFree, !there, || Refusal::MemberThere(joiner.name.clone()))?;
        if self.view.members.len() >= MAX_MEMBERS {
            return Err(Refusal::Full(MAX_MEMBERS, "members"));
        }
        if let Some(token) = self.view.tokens.get_mut(&admission.token) {
            token.used_by = Some(joiner.id());
        }
        self.view.members.insert(joiner.id(), joiner.clone());
        Ok(())
    }

    fn gone(&mut self, member: MemberId) -> Result<(), Refusal> {
        if self.voters.contains(&member) {
            return Err(Refusal::Votes(member));
        }
        self.view.members.remove(&member).map(|_| ()).ok_or(Refusal::NoMember(member))
    }

    fn vote(&mut self, voters: &BTreeSet<MemberId>) -> Result<(), Refusal> {
        if voters.is_empty() || voters.len() > MAX_VOTERS {
            return Err(Refusal::Voters(voters.len()));
        }
        // Majorities of sets that differ by one have a member in common, so no two can decide at once.
        if self.voters.symmetric_difference(voters).count() > 1 {
            return Err(Refusal::VotersAtOnce);
        }
        for id in voters {
            let member = self.view.members.get(id).ok_or(Refusal::NoMember(*id))?;
            if member.identity.class() == TpmClass::None {
                return Err(Refusal::WithoutTpm(*id));
            }
        }
        self.voters.clone_from(voters);
        Ok(())
    }

    /// The record with the entry that replaces its voters: see [`Act::Recovered`]. Whoever calls this has been told to.
    ///
    /// # Errors
    /// [`Refusal`]; the record is as it was.
    pub(super) fn recover(
        &mut self,
        signed: &SignedEntry,
        signatures: &dyn Signatures,
    ) -> Result<(), Refusal> {
        let entry = self.next(signed, signatures)?;
        let Act::Recovered { lost, reason } = &entry.act else { return Err(Refusal::Recovery) };
        if reason.len() > MAX_REASON {
            return Err(Refusal::Reason(reason.len()));
        }
        let author = self.view.members.get(&entry.author).ok_or(Refusal::Author(entry.author))?;
        if author.identity.class() == TpmClass::None || lost.contains(&entry.author) {
            return Err(Refusal::WithoutTpm(entry.author));
        }
        if let Some(unknown) = lost.iter().find(|m| !self.view.members.contains_key(m)) {
            return Err(Refusal::NoMember(*unknown));
        }
        self.view.members.retain(|id, _| !lost.contains(id));
        self.budgets.keep(|member| !lost.contains(member));
        self.voters = [entry.author].into();
        self.view.epoch = Epoch(self.view.epoch.0.saturating_add(1));
        self.view.head = RecordHead { number: entry.number, hash: signed.hash() };
        Ok(())
    }

    /// What authors may still write.
    #[cfg(test)]
    pub(super) fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    /// A member that nobody has admitted.
    #[cfg(test)]
    pub(super) fn put(&mut self, member: RosterEntry) {
        self.view.members.insert(member.id(), member);
    }

    /// Notes the time that a majority of voters has put on this head.
    pub(super) fn timed(&mut self, time: UnixTime) {
        self.view.head_time = self.view.head_time.max(time);
    }

    /// The union's name.
    pub fn name(&self) -> &UnionName {
        &self.name
    }

    /// Members, tokens, settings, epoch and head.
    pub fn view(&self) -> &UnionView {
        &self.view
    }

    /// Who votes.
    pub fn voters(&self) -> &BTreeSet<MemberId> {
        &self.voters
    }

    /// A member, by its id.
    pub fn member(&self, id: &MemberId) -> Option<&RosterEntry> {
        self.view.members.get(id)
    }
}

fn signed_by(signed: &SignedEntry, author: &RosterEntry, signatures: &dyn Signatures) -> bool {
    signed.signature.is_by(author, &signed_content(signed.entry.as_slice()), signatures)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Cheap, Keys, World};
    use super::*;

    /// What is refused, and that nothing changed by it.
    fn refused(world: &mut World, author: &str, act: Act) -> Refusal {
        let before = world.record().clone();
        let refusal = world.write(author, act).unwrap_err();
        assert_eq!(*world.record(), before, "{refusal}");
        refusal
    }

    #[test]
    fn a_token_admits_once_and_only_whom_it_is_for() {
        let mut w = World::begin(&["a", "b"]);
        assert_eq!(refused(&mut w, "a", Act::Admitted(World::admission("d"))), Refusal::NoToken);
        w.token("d");
        let mut guessed = World::admission("d");
        guessed.secret = World::secret("e");
        assert_eq!(refused(&mut w, "a", Act::Admitted(guessed)), Refusal::TokenSecret);
        let mut risen = World::admission("d");
        risen.member.platform_identity = 9.try_into().unwrap();
        assert_eq!(refused(&mut w, "a", Act::Admitted(risen)), Refusal::PlatformIdentity);
        w.write("b", Act::Admitted(World::admission("d"))).unwrap();
        let mut other = World::admission("d");
        other.member = Keys::of("e").entry;
        assert_eq!(refused(&mut w, "a", Act::Admitted(other)), Refusal::TokenUsed);
        assert_eq!(refused(&mut w, "a", Act::TokenMade(World::token_for("d"))), Refusal::TokenUsed);
        let mut late = World::token_for("f");
        late.expires = UnixTime(10);
        w.write("a", Act::TokenMade(late)).unwrap();
        let refusal = refused(&mut w, "a", Act::Admitted(World::admission("f")));
        assert_eq!(refusal, Refusal::TokenExpired(UnixTime(10)));
        let mut pinned = World::token_for("g");
        pinned.ek = Some([9; 32].into());
        w.write("a", Act::TokenMade(pinned)).unwrap();
        assert_eq!(refused(&mut w, "a", Act::Admitted(World::admission("g"))), Refusal::TokenEk);
    }

    #[test]
    fn one_tpm_is_one_member_and_one_name_too() {
        let mut w = World::begin(&["a", "b"]);
        w.token("b2");
        let mut again = World::admission("b2");
        again.member = Keys::of("b").entry;
        assert!(matches!(refused(&mut w, "a", Act::Admitted(again)), Refusal::MemberThere(_)));
        let mut named = World::admission("b2");
        named.member.name = "b".parse().unwrap();
        assert!(matches!(refused(&mut w, "a", Act::Admitted(named)), Refusal::MemberThere(_)));
    }

    #[test]
    fn the_class_of_a_tpm_is_the_unions_choice() {
        let mut w = World::begin(&["a", "b"]);
        w.token("s");
        let mut soft = World::admission("s");
        if let gtvp_model::union::Identity::Tpm { kind, .. } = &mut soft.member.identity {
            *kind = gtvp_model::union::TpmKind::Software;
        }
        assert_eq!(refused(&mut w, "a", Act::Admitted(soft)), Refusal::Class(TpmClass::Software));
    }

    #[test]
    fn only_a_tpm_whose_key_its_token_names_is_pinned() {
        let mut w = World::begin(&["a", "b"]);
        w.token("p");
        let mut pinned = World::admission("p");
        let gtvp_model::union::Identity::Tpm { kind, ek, .. } = &mut pinned.member.identity else { panic!() };
        *kind = gtvp_model::union::TpmKind::Pinned;
        let ek = *ek;
        assert_eq!(refused(&mut w, "a", Act::Admitted(pinned.clone())), Refusal::NotNamed);
        let control =
            crate::planted::without(Check::EntryPin, || w.clone().write("b", Act::Admitted(pinned.clone())));
        assert!(control.is_ok(), "{control:?}");
        let mut naming = World::token_for("q");
        naming.ek = Some(ek);
        w.write("a", Act::TokenMade(naming)).unwrap();
        pinned.token = World::token_for("q").key.id();
        pinned.secret = World::secret("q");
        w.write("b", Act::Admitted(pinned)).unwrap();
    }

    #[test]
    fn an_evicted_member_writes_nothing_more() {
        let mut w = World::begin(&["a", "b", "c"]);
        w.evict("c");
        assert_eq!(w.record().view().epoch, Epoch(1));
        let author = w.id("c");
        assert_eq!(refused(&mut w, "c", Act::TokenMade(World::token_for("z"))), Refusal::Author(author));
        w.write("b", Act::Left).unwrap();
        assert_eq!(w.record().view().epoch, Epoch(1), "who leaves by itself ends its own sessions");
        assert!(w.record().member(&w.id("b")).is_none());
    }

    #[test]
    fn voters_come_and_go_one_at_a_time_and_never_all() {
        let mut w = World::begin(&["a", "b", "c"]);
        let ids = |w: &World, names: &[&str]| Act::Voters(names.iter().map(|n| w.id(n)).collect());
        let (none, three, stranger) = (ids(&w, &[]), ids(&w, &["a", "b", "c"]), ids(&w, &["a", "q"]));
        assert_eq!(refused(&mut w, "a", none), Refusal::Voters(0));
        assert_eq!(refused(&mut w, "a", three), Refusal::VotersAtOnce);
        assert!(matches!(refused(&mut w, "a", stranger), Refusal::NoMember(_)));
        w.voters(&["a", "b"]);
        let b = w.id("b");
        let evict = Act::Evicted { member: b, reason: String::new() };
        assert_eq!(refused(&mut w, "a", evict), Refusal::Votes(b));
    }

    #[test]
    fn who_has_no_tpm_changes_nothing_but_its_own_membership() {
        let mut world = World::begin(&["a", "b"]);
        let bare = world.bare("bare");
        for act in [
            Act::Evicted { member: world.id("b"), reason: String::new() },
            Act::TokenMade(World::token_for("q")),
            Act::Voters([world.id("a"), world.id("b")].into()),
            Act::ReferenceAccepted { name: "r".into(), manifest: Blob::new(vec![1]).unwrap() },
        ] {
            let refused = world.write("bare", act.clone()).unwrap_err();
            assert_eq!(refused, Refusal::WithoutTpm(bare));
            let mut control = world.clone();
            let taken = crate::planted::without(Check::AuthorTpm, || control.write("bare", act));
            assert_eq!(taken, Ok(()));
        }
        assert_eq!(world.write("bare", Act::Left), Ok(()));
    }

    #[test]
    fn the_last_reference_values_stay() {
        let mut world = World::begin(&["a"]);
        let accept =
            |name: &str| Act::ReferenceAccepted { name: name.into(), manifest: Blob::new(vec![1]).unwrap() };
        world.write("a", accept("one")).unwrap();
        let retire = |name: &str| Act::ReferenceRetired { name: name.into() };
        assert_eq!(world.write("a", retire("one")), Err(Refusal::LastReference("one".into())));
        world.write("a", accept("two")).unwrap();
        assert_eq!(world.write("a", retire("one")), Ok(()));
    }

    #[test]
    fn an_entry_has_one_place_and_one_form() {
        let w = World::begin(&["a", "b"]);
        let good = w.next("a", Act::TokenMade(World::token_for("z")));
        let mut twice = w.clone();
        twice.write("a", Act::TokenMade(World::token_for("z"))).unwrap();
        let mut record = twice.record().clone();
        assert!(matches!(record.apply(&good, &Cheap), Err(Refusal::Number { .. })));
        assert!(matches!(record.apply(&w.genesis(), &Cheap), Err(Refusal::OtherUnion)));
        let entry = Entry::decode(good.entry.as_slice()).unwrap();
        assert_eq!(entry.encode(), good.entry.as_slice());
    }
}
