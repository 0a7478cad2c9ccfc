//! What administrators ask of the union. `security` decides and writes, `communication` has the voters take it; here the two are
//! brought together, and what happens to the union is told.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use gtvp_ipc::place::SOCKETS;
use gtvp_ipc::security::{OwnUnion, UnionNow, WatchUnion, Wish, WriteEntry, Written};
use gtvp_ipc::{Nothing, call_with, communication, security};
use gtvp_model::event::Severity;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::MemberName;
use gtvp_model::operation::{Operation, Progress};
use gtvp_model::token::JoinToken;
use gtvp_model::union::{Hardware, MemberId, RecordHead};
use gtvp_model::unionview::{
    Change, ChannelRow, Departure, Recovery, RecoveryFollow, RecoveryWish, ReferenceWish, TokenMade,
    TokenWish, UnionBegin, UnionJoin, UnionSummary,
};

use crate::current::once_current;
use crate::peers;
use crate::runtime::Runtime;
use crate::verdicts::{entry_about, held_before};

/// For how long a token is good if nobody says, seconds.
const TOKEN_EXPIRES: u64 = 3600;
/// Times that an entry is written anew because another one was faster.
const TRIES: u32 = 8;
/// Pause before security is asked again after it went away.
const PAUSE: Duration = Duration::from_millis(200);

/// Has a wish put into the record.
///
/// # Errors
/// What security refuses; no majority of voters; others that are faster again and again.
pub fn put(wish: &Wish, operator_uid: u32) -> Result<Written, Fault> {
    let mut tries = 0;
    loop {
        let write = || peers::ask(&WriteEntry { wish: wish.clone(), operator_uid });
        let written = once_current(write, |pause| {
            std::thread::sleep(pause);
            Ok(())
        })?;
        match peers::tell(&communication::Propose { entry: written.entry.clone() }) {
            Ok(Nothing {}) if written.more => {}
            Ok(Nothing {}) => return Ok(written),
            Err(f) if f.kind == FaultKind::Conflict && tries < TRIES => tries += 1,
            Err(f) => return Err(f),
        }
    }
}

/// Has this server leave its union; a union of nobody else ends.
///
/// # Errors
/// As [`put`].
pub fn leave(operator_uid: u32) -> Result<Change, Fault> {
    match peers::ask(&security::EndUnion { operator_uid })?.about {
        Some(about) => Ok(Change { about }),
        None => put(&Wish::Leave, operator_uid).map(|w| Change { about: w.about }).map_err(without_force),
    }
}

/// Whoever cannot leave for want of others hears that there is another way.
fn without_force(fault: Fault) -> Fault {
    if !matches!(fault.kind, FaultKind::Unavailable | FaultKind::WrongState) {
        return fault;
    }
    const FORCE: &str = "to leave without the others' word: gtvp union leave --force says what that gives up";
    let hint = fault.hint.as_ref().map_or_else(|| FORCE.to_owned(), |hint| format!("{hint}; {FORCE}"));
    fault.hint(hint)
}

fn want(token: &str, operator_uid: u32) -> Result<(), Fault> {
    let token: JoinToken = token.parse()?;
    peers::ask(&security::WantJoin { union: token.union, head: token.head, operator_uid }).map(|_| ())
}

impl Runtime {
    /// Begins a union.
    pub fn begin_union(&self, union: UnionBegin) -> Result<UnionSummary, Fault> {
        let union = peers::ask(&security::BeginUnion { union, hardware: self.hardware()? })?;
        let message = format!("this server is the first member of union {}", union.name);
        self.events.tell(Severity::Info, "union.begun", None, message);
        Ok(union)
    }

    fn hardware(&self) -> Result<Hardware, Fault> {
        let status = self.status()?;
        let memory_mib = u32::try_from(status.memory_bytes / (1024 * 1024)).unwrap_or(u32::MAX);
        Hardware::new(status.cpus, memory_mib, "")
            .map_err(|e| Fault::internal("the server cannot be described", &e))
    }

    /// Makes a join token.
    pub fn create_token(&self, wish: &TokenWish, operator_uid: u32) -> Result<TokenMade, Fault> {
        let invalid = |e: String| Fault::new(FaultKind::Invalid, e);
        let ek = wish.ek.as_deref().map(str::parse).transpose();
        let ek = ek.map_err(|e| {
            invalid(format!("the endorsement key is no fingerprint: {e}"))
                .hint("gtvp member show, on the server that shall join, shows it")
        })?;
        let platform_identity = wish.platform_identity.map(TryFrom::try_from).transpose();
        let token = Wish::Token {
            expires_s: wish.expires_s.unwrap_or(TOKEN_EXPIRES),
            ek,
            platform_identity: platform_identity
                .map_err(|e: gtvp_model::union::BadPlatformIdentity| invalid(e.to_string()))?,
        };
        // Outside of a union that is the answer, and not that nobody reaches this server.
        peers::ask(&security::ShowUnion {})?;
        let endpoint = peers::ask(&communication::OwnEndpoint {})?.endpoint;
        let made = put(&token, operator_uid)?
            .token
            .ok_or_else(|| Fault::new(FaultKind::Internal, "security wrote no token"))?;
        let union = peers::ask(&security::ShowUnion {})?;
        let unreadable =
            |e: &dyn std::error::Error| Fault::internal("security answered something unreadable", e);
        let token = JoinToken {
            union: union.id.parse().map_err(|e: gtvp_model::digest::BadDigest| unreadable(&e))?,
            head: RecordHead {
                number: union.entries.saturating_sub(1),
                hash: union.head.parse().map_err(|e: gtvp_model::digest::BadDigest| unreadable(&e))?,
            },
            endpoint: endpoint.clone(),
            expires: made.expires,
            ek,
            secret: made.secret,
        };
        Ok(TokenMade {
            token: token.to_string(),
            id: made.id.to_string(),
            expires: made.expires.0,
            endpoint: endpoint.to_string(),
        })
    }

    /// Begins to join a union.
    pub fn join_union(self: &Arc<Self>, join: UnionJoin, operator_uid: u32) -> Result<Operation, Fault> {
        let request = communication::Join { token: join.token, hardware: self.hardware()? };
        let operation = self.operations.begin("join", self.config.name.as_str());
        let (runtime, handle) = (self.clone(), operation.clone());
        std::thread::spawn(move || {
            // Security hears of it from here: communication alone makes this server no member.
            let joined = want(&request.token, operator_uid).and_then(|()| {
                peers::work_with(&handle, &request, &[], |s: communication::JoinStep| Progress {
                    phase: "join".into(),
                    message: s.step,
                    ..Progress::default()
                })
            });
            let outcome = joined.and_then(|_| peers::ask(&security::ShowUnion {}));
            runtime.operations.end(&handle, outcome.map(|union| serde_json::json!(union)));
        });
        Ok(operation.snapshot())
    }

    /// Has more count as healthy.
    pub fn accept_reference(&self, wish: ReferenceWish, operator_uid: u32) -> Result<Change, Fault> {
        let invalid = |why: &str| Fault::new(FaultKind::Invalid, why);
        let wish = match (wish.member, wish.manifest) {
            (Some(member), None) => Wish::AcceptReference {
                member: member
                    .parse()
                    .map_err(|e: gtvp_model::ids::BadName| Fault::new(FaultKind::Invalid, e.to_string()))?,
                next: wish.next,
            },
            (None, Some(manifest)) => Wish::Reference { manifest: manifest.to_string() },
            _ => return Err(invalid("reference values come from a member or from a manifest")),
        };
        put(&wish, operator_uid).map(|w| Change { about: w.about })
    }

    /// Recovers a union whose voters are lost, or says what that would give up.
    pub fn recover_union(&self, wish: RecoveryWish, operator_uid: u32) -> Result<Recovery, Fault> {
        let open = |c: &ChannelRow| (c.state == "open").then(|| c.id.parse().ok()).flatten();
        let channels = peers::ask(&communication::Channels {})?;
        let lost = wish.lost.iter().map(|n| n.parse()).collect::<Result<_, gtvp_model::ids::BadName>>();
        let recover = security::Recover {
            lost: lost.map_err(|e| Fault::new(FaultKind::Invalid, e.to_string()))?,
            reason: wish.reason,
            confirmed: wish.confirmed,
            reachable: channels.iter().filter_map(open).collect(),
            stands_still: wish.stands_still,
            operator_uid,
        };
        let recovery = peers::ask(&recover)?;
        if recovery.hash.is_some() {
            let message =
                format!("this member is the union's only voter now; lost: {}", recovery.lost.join(", "));
            self.events.tell(Severity::Warning, "union.recovered", None, message);
        }
        Ok(recovery)
    }

    /// Has this server leave its union without the others' word, or says what that would give up.
    pub fn leave_by_force(&self, confirmed: bool, operator_uid: u32) -> Result<Departure, Fault> {
        // What others say of it is for people, and the way out does not depend on it.
        let channels = peers::ask(&communication::Channels {}).unwrap_or_default();
        let mut departure = peers::ask(&security::LeaveByForce { confirmed, operator_uid })?;
        departure.heard = channels
            .into_iter()
            .filter_map(|c| c.problem.filter(|_| c.state != "open").map(|why| format!("{}: {why}", c.member)))
            .collect();
        if departure.aside.is_some() {
            let message = format!("this server has left union {} by force", departure.union);
            self.events.tell(Severity::Warning, "union.left", None, message);
        }
        Ok(departure)
    }

    /// Has this member follow a recovery.
    pub fn follow_recovery(&self, follow: &RecoveryFollow, operator_uid: u32) -> Result<Change, Fault> {
        let hash = follow.hash.parse().map_err(|e: gtvp_model::digest::BadDigest| {
            Fault::new(FaultKind::Invalid, e.to_string()).hint("gtvp union recover has printed it")
        })?;
        peers::ask(&security::FollowRecovery { hash, operator_uid })
    }

    /// Tells what happens to the union, for as long as this domain lives.
    pub fn watch_union(self: &Arc<Self>) {
        let socket = format!("{SOCKETS}/security.sock");
        let mut before: Option<OwnUnion> = None;
        loop {
            // Its end, whatever the reason, is answered by connecting anew.
            let _ = call_with(socket.as_ref(), &WatchUnion {}, &[], |now: UnionNow| {
                let now = now.union.map(|u| *u);
                for (severity, kind, message) in
                    changes(before.as_ref(), now.as_ref(), entry_about, held_before)
                {
                    self.events.tell(severity, kind, None, message);
                }
                before = now;
                ControlFlow::Continue(())
            });
            std::thread::sleep(PAUSE);
        }
    }
}

/// What is different, in words; with what the record says `about` a member, and what one that has gone `held`, as a voter or not.
fn changes(
    before: Option<&OwnUnion>,
    now: Option<&OwnUnion>,
    about: impl Fn(&MemberName) -> String,
    held: impl Fn(&MemberId, bool) -> String,
) -> Vec<(Severity, &'static str, String)> {
    let mut told = Vec::new();
    let (Some(before), Some(now)) = (before, now) else { return told };
    if before.state.view.union != now.state.view.union {
        return told;
    }
    let (old, new) = (&before.state.view, &now.state.view);
    for (id, m) in new.members.iter().filter(|(id, _)| !old.members.contains_key(id)) {
        let class = m.identity.class();
        told.push((
            Severity::Info,
            "member.joined",
            format!("{} joined, TPM {class}, {}{}", m.name, id.short(), about(&m.name)),
        ));
    }
    let forced = new.epoch != old.epoch;
    for (id, m) in old.members.iter().filter(|(id, _)| !new.members.contains_key(id)) {
        let (severity, kind, how) = match forced {
            true => (Severity::Warning, "member.evicted", "was removed from the union"),
            false => (Severity::Info, "member.left", "left the union"),
        };
        let held = held(id, before.state.voters.contains(id));
        told.push((severity, kind, format!("{} {how}{}. What it held: {held}", m.name, about(&m.name))));
    }
    if before.state.voters != now.state.voters {
        let name = |id| new.members.get(id).map_or_else(|| format!("{id:?}"), |m| m.name.to_string());
        let names: Vec<String> = now.state.voters.iter().map(name).collect();
        told.push((Severity::Info, "union.voters", format!("{} vote now", names.join(", "))));
    }
    told
}
