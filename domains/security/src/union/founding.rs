//! A union begins: its first entry, and with it the first reference values, which are what this member shows of itself at that moment.
//! Whoever runs `gtvp union init` says by it that this server is healthy; nobody else can.

use gtvp_appraisal::tpm::Public;
use gtvp_ipc::security::BeginUnion;
use gtvp_model::digest::Digest;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::union::{
    EkDigest, Identity, PlatformIdentity, RosterEntry, TpmClass, TpmKind, UnionId, UnionSettings, UnixTime,
};
use gtvp_model::unionview::{UnionBegin, UnionSummary};
use gtvp_protocol::csp::act::RANDOM;
use gtvp_protocol::csp::follow::Recoveries;
use gtvp_protocol::csp::page::Committed;
use gtvp_protocol::csp::{Act, CoSigned, Entry, Head, Keeper, Vote};
use gtvp_protocol::frame::wire::TooManyBytes;

use super::chain::Chain;
use super::{Held, Kept, Union, damaged, summary};
use crate::platform::chain as causes;
use crate::reference;
use crate::tpm::keys;
use crate::vendors::{self, NoClass};

/// A founder's reference security level: the middle of the scale, until the union has a policy that says otherwise.
const FOUNDER: u8 = 8;
/// How often a member may be made to prove itself, milliseconds: no TPM quotes faster, and silence longer than an hour is no proof.
const PERIODS: std::ops::RangeInclusive<u32> = 500..=3_600_000;

impl Union {
    /// Begins a union of this member. It is there once its first entries are on the disk, both at once.
    ///
    /// # Errors
    /// `WrongState` in a union, or with a damaged record; `Denied` for a TPM that the union would not let in; whatever keeps this
    /// member's own evidence from being healthy.
    pub fn begin(&self, asked: &BeginUnion, now: UnixTime) -> Result<UnionSummary, Fault> {
        let _alone = self.writing();
        let mut held = self.held();
        match &*held {
            Held::Record(kept) if kept.known.has_us() => {
                return Err(Fault::new(
                    FaultKind::WrongState,
                    format!("this server is in union {} already", kept.record().name()),
                )
                .hint("gtvp union show"));
            }
            Held::Damaged(why) => return Err(damaged(why)),
            Held::Nothing | Held::Record(_) => {}
        }
        let attest_every_ms = asked.union.attest_every_ms.unwrap_or(UnionSettings::default().attest_every_ms);
        if !PERIODS.contains(&attest_every_ms) {
            let (least, most) = (PERIODS.start(), PERIODS.end());
            return Err(Fault::new(
                FaultKind::Invalid,
                format!("members prove themselves every {least} to {most} milliseconds"),
            ));
        }
        let (software_tpms, without_tpm) = (asked.union.software_tpms, asked.union.without_tpm);
        let settings = UnionSettings { software_tpms, without_tpm, attest_every_ms };
        let class = self.platform.class();
        if !settings.admits(class) {
            return Err(not_admitted(class));
        }
        let keys = self.own_keys()?;
        let in_tpm = keys.tpm.as_ref().ok_or_else(super::without_tpm)?;
        let identity = self.founder(&keys.identity, in_tpm, &asked.union, now)?;
        self.can_count()?;
        let level = PlatformIdentity::try_from(FOUNDER)
            .map_err(|e| Fault::internal("the founder has no level", &e))?;
        let founder = RosterEntry::new(self.name.clone(), identity, level, asked.hardware.clone());
        let own = founder.id();
        let mut random = [0; RANDOM];
        aws_lc_rs::rand::fill(&mut random).map_err(|e| Fault::internal("there is no randomness", &e))?;
        let genesis = Entry {
            union: UnionId::from([0; 32]),
            number: 0,
            previous: Digest([0; 32]),
            author: own,
            time: now,
            act: Act::Genesis { name: asked.union.name.clone(), founder, settings, random },
        };
        let first = self.sign(&genesis)?;
        let (name, manifest) = reference::of_founder(&self.platform, in_tpm, &settings, now)?;
        let entry = Entry {
            union: UnionId::new(first.hash()),
            number: 1,
            previous: first.hash(),
            author: own,
            time: now,
            act: Act::ReferenceAccepted { name, manifest },
        };
        let second = self.sign(&entry)?;
        let at = gtvp_model::union::RecordHead { number: 1, hash: second.hash() };
        let head = Head { union: entry.union, at, time: now };
        let vote = Vote { voter: own, time: now, signature: self.sign_head(&head)? };
        let votes =
            vec![vote].try_into().map_err(|e: TooManyBytes| Fault::internal("its head is too large", &e))?;
        let items = [
            Committed { entry: first, head: None },
            Committed { entry: second, head: Some(CoSigned { head, votes }) },
        ];
        let refused = |e| Fault::internal("the union's first entries are refused", &e);
        let chain = items
            .iter()
            .try_fold(Chain::new(own, now, Recoveries::None), |chain, item| chain.with(item.clone()));
        let (whole, _) = chain.and_then(Chain::finish).map_err(refused)?;
        whole.book.set().map_err(|why| {
            Fault::new(FaultKind::Internal, "the first reference values are refused").because(why)
        })?;
        self.counted(entry.union, at.number)?;
        let written = (|| {
            let new = self.disk.begin(own)?;
            items.iter().zip(0..).try_for_each(|(item, number)| new.add(number, item))?;
            new.promise(at)?;
            new.sync()?;
            new.finish()
        })();
        written.map_err(|e| Fault::internal("the record cannot be written", &e))?;
        let keeper = Keeper::new(own, whole.follower.record().clone(), Some(at));
        let kept = Kept::new(keeper, whole.head, whole.book);
        let summary = summary(&kept.known);
        *held = Held::Record(Box::new(kept));
        drop(held);
        self.turns.bump();
        Ok(summary)
    }

    /// The founder's keys, and whose word its TPM is: a vendor's, or that of whoever begins the union and names the key.
    fn founder(
        &self,
        own: &Identity,
        tpm: &keys::Identity,
        asked: &UnionBegin,
        now: UnixTime,
    ) -> Result<Identity, Fault> {
        let mut identity = own.clone();
        let Identity::Tpm { kind, ek, .. } = &mut identity else { return Ok(identity) };
        let other = |why: String| {
            Fault::new(FaultKind::Invalid, "that is not the endorsement key of this server's TPM")
                .because(why)
                .hint("gtvp member show, on this server")
        };
        let pinned = match &asked.ek {
            None => false,
            Some(text) => {
                let named: EkDigest = text.parse().map_err(|e| other(causes(&e)))?;
                if named != *ek {
                    return Err(other(format!("this one's is {ek}")));
                }
                true
            }
        };
        if self.platform.class() == TpmClass::Software {
            *kind = TpmKind::Software;
            return Ok(identity);
        }
        let unreadable = |e| Fault::internal("the TPM's endorsement key cannot be read", &e);
        let public = Public::parse(&tpm.ek_public).map_err(unreadable)?;
        let certificate = tpm.ek_certificate.as_deref().unwrap_or_default();
        let roots = vendors::roots(&self.state);
        // Whoever names the key of a device means that it is hardware, also where software TPMs are let in.
        let software = asked.software_tpms && !pinned;
        let seconds = i64::try_from(now.0).unwrap_or(i64::MAX);
        let found = vendors::kind(&roots, certificate, &public, pinned, software, seconds);
        *kind = found.map_err(|e| {
            let fault = Fault::new(FaultKind::Denied, "whose word this server's TPM is, is not known").because(causes(&e));
            match e {
                NoClass::Nobody { ek, .. } => fault.hint(format!(
                    "put its vendor's root certificate into ek-roots in security's state directory; or vouch for it yourself: gtvp union init --name {} --ek {ek}",
                    asked.name
                )),
                NoClass::Certificate(_) => fault,
            }
        })?;
        Ok(identity)
    }

    /// Ends a union of which this server is the only member: one that was begun by mistake, or that all others have left. Says what was
    /// done; `None`, and nothing is, if there are others.
    ///
    /// # Errors
    /// Outside of a union; the disk's.
    pub fn end(&self) -> Result<Option<String>, Fault> {
        let mut held = self.held();
        let kept = match &*held {
            Held::Record(kept) if kept.known.has_us() => kept,
            Held::Damaged(why) => return Err(damaged(why)),
            Held::Nothing | Held::Record(_) => return Err(super::no_union()),
        };
        let view = kept.record().view();
        if view.members.len() > 1 {
            return Ok(None);
        }
        let aside = self.disk.aside();
        let aside = aside.map_err(|e| Fault::internal("the record cannot be moved aside", &e))?;
        let name = kept.record().name();
        let about = format!(
            "union {name} had no other member and has ended; its record is in {aside}, with security's state"
        );
        *held = Held::Nothing;
        drop(held);
        self.turns.bump();
        Ok(Some(about))
    }
}

fn not_admitted(class: TpmClass) -> Fault {
    let (why, flag) = match class {
        TpmClass::None => ("this server has no TPM", "--allow-no-tpm"),
        _ => (
            "this server's TPM is software, which root of the server can make say anything",
            "--allow-software-tpm",
        ),
    };
    Fault::new(FaultKind::Denied, "the union would not let its own first member in")
        .because(why)
        .hint(format!("use a server with a hardware TPM, or allow it for the whole union: {flag}"))
}
