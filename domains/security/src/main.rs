//! SSD (GTVP §2.2): keys, signatures, appraisal, policy verdicts.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use gtvp_ipc::security::{Ended, Request};
use gtvp_ipc::{Answer, Caller, Place, Service, Session};
use gtvp_model::fault::Fault;
use gtvp_model::ids::Domain;
use gtvp_security::attest::Asked;
use gtvp_security::others::Others;
use gtvp_security::peers::{Now, Peers};
use gtvp_security::platform::{self, Platform};
use gtvp_security::union::Union;
use gtvp_security::vtpm::Vtpms;
use gtvp_security::{attest, engine, key};

/// How long somebody who watches may have gone before it is noticed.
const LOOK_UP: Duration = Duration::from_secs(10);

struct Security {
    engine: engine::Engine,
    union: Arc<Union>,
    peers: Peers,
    platform: Arc<Platform>,
    vtpms: Arc<Vtpms>,
    others: Others,
}

impl Service for Security {
    type Request = Request;

    fn handle(
        &self,
        _caller: &Caller,
        request: Request,
        fds: Vec<OwnedFd>,
        session: &mut Session,
    ) -> Result<Answer, Fault> {
        let now = now();
        match request {
            Request::SignManifest(m) => Ok(Answer::of(&self.engine.sign_manifest(m.digest))),
            Request::AppraiseComponent(c) => {
                let appraisal = self.engine.appraise(&c)?;
                if let Some(link) = c.link {
                    self.vtpms.linked(link.slot, &c.reference, link.source);
                }
                Ok(Answer::of(&appraisal))
            }
            Request::PermitRun(p) => {
                let permit = self.engine.permit_run(&p)?;
                self.peers.may_grant(&format!("starting box {}", p.spec.name), now)?;
                Ok(Answer::of(&permit))
            }
            Request::Verdict(_) => Ok(Answer::of(&self.engine.verdict())),
            Request::MeasureBox(b) => {
                self.platform.measure_box(&b.name, b.composition)?;
                if b.vtpm {
                    self.vtpms.begin(b.slot, &b.name)?;
                }
                Ok(Answer::nothing())
            }
            Request::MeasureTemplate(m) => {
                self.vtpms.started_from(m.slot, m.template);
                Ok(Answer::nothing())
            }
            Request::EndBox(b) => self.vtpms.end(b.slot).map(|()| Answer::nothing()),
            Request::AttestBox(a) => {
                if a.for_member {
                    self.peers.may_grant("answering another member", now)?;
                }
                self.file(&a.nonce, a.for_member, |asked| attest::answer_box(asked, &self.vtpms, &a))
            }
            Request::ChallengePeer(c) => self.peers.challenge_peer(&c, now).map(|c| Answer::of(&c)),
            Request::VouchForPeer(v) => self.peers.vouch_for_peer(&v, fds, now).map(|v| Answer::of(&v)),
            Request::Tpm(_) => Ok(Answer::of(&self.platform.view())),
            Request::Attest(a) => self.file(&a.nonce, a.for_member, attest::answer),
            Request::SignTls(s) => self.platform.sign_tls(&s).map(|s| Answer::of(&s)),

            Request::BeginUnion(b) => self.union.begin(&b, now.unix()).map(|u| Answer::of(&u)),
            Request::ShowUnion(_) => self.peers.show_union(now).map(|u| Answer::of(&u)),
            Request::WriteEntry(w) => {
                self.engine.permit_union(w.operator_uid)?;
                self.peers.write_entry(&w, now).map(|w| Answer::of(&w))
            }
            Request::Recover(r) => {
                self.engine.permit_union(r.operator_uid)?;
                self.union.recover(&r, now.unix()).map(|r| Answer::of(&r))
            }
            Request::FollowRecovery(f) => {
                self.engine.permit_union(f.operator_uid)?;
                self.union.follow(&f).map(|c| Answer::of(&c))
            }
            Request::LeaveByForce(l) => {
                self.engine.permit_union(l.operator_uid)?;
                self.union.leave_by_force(&l, now.unix()).map(|d| Answer::of(&d))
            }
            Request::EndUnion(e) => {
                self.engine.permit_union(e.operator_uid)?;
                self.union.end().map(|about| Answer::of(&Ended { about }))
            }
            Request::ListReferences(_) => self.union.references().map(|r| Answer::of(&r)),
            Request::ShowReference(r) => self.union.reference(&r.name).map(|r| Answer::of(&r)),
            Request::History(h) => self.union.history(h.member.as_ref()).map(|h| Answer::of(&h)),
            Request::ListMembers(_) => self.peers.members(now).map(|m| Answer::of(&m)),
            Request::ShowPeer(p) => self.peers.show(&p.name, now).map(|p| Answer::of(&p)),

            Request::WatchUnion(_) => Ok(self.watch(session)),
            Request::ReadRecord(r) => {
                self.union.page(r.from, r.most).map(|fd| Answer::nothing().with_fds(vec![fd]))
            }
            Request::LearnRecord(l) => self.union.learn(&l, fds, now.unix()).map(|l| Answer::of(&l)),
            Request::WantJoin(w) => {
                self.engine.permit_union(w.operator_uid)?;
                self.union.want(w.union, w.head);
                Ok(Answer::nothing())
            }
            Request::KeepMembership(k) => self.union.keep(&k.what, now.unix()).map(|()| Answer::nothing()),
            Request::VoteFor(v) => self.union.vote_for(&v.entry, now.unix()).map(|v| Answer::of(&v)),
            Request::VoteAgain(_) => self.union.vote_again(now.unix()).map(|v| Answer::of(&v)),
            Request::TakeOffer(t) => {
                let taken = self.union.take(t.from, fds, now.unix());
                self.peers.head_taken(now);
                if taken.as_ref().is_ok_and(|t| t.new > 0) {
                    self.peers.entries_taken();
                }
                taken.map(|t| Answer::of(&t))
            }
            Request::WriteAdmission(a) => self.peers.write_admission(&a, now).map(|e| Answer::of(&e)),
            Request::WriteHousekeeping(h) => self.peers.write_housekeeping(&h, now).map(|h| Answer::of(&h)),

            Request::OwnKeys(_) => self.peers.own_keys().map(|k| Answer::of(&k)),
            Request::Quote(q) => self.peers.quote(&q).map(|(q, fd)| Answer::of(&q).with_fds(vec![fd])),
            Request::AppraiseKeys(k) => Ok(Answer::of(&self.peers.appraise_keys(&k, now))),
            Request::MakeCredential(m) => self.peers.make_credential(&m, now).map(|c| Answer::of(&c)),
            Request::ActivateCredential(a) => self.peers.activate_credential(&a).map(|s| Answer::of(&s)),
            Request::Certify(c) => self.peers.certify(&c).map(|c| Answer::of(&c)),
            Request::AppraiseCertification(c) => Ok(Answer::of(&self.peers.appraise_certification(&c, now))),
            Request::AppraiseEvidence(e) => {
                self.peers.appraise_evidence(&e, fds, now).map(|a| Answer::of(&a))
            }
            Request::AskOf(a) => self.peers.ask_of(&a, now).map(|a| Answer::of(&a)),
            Request::Due(d) => self.peers.due(&d, now).map(|d| Answer::of(&d)),
            Request::HearResult(h) => Ok(Answer::of(&self.peers.hear(&h, now))),
            Request::WatchVerdicts(_) => Ok(self.watch_verdicts(session)),
            Request::HeldBy(h) => self.peers.held_by(&h, now).map(|h| Answer::of(&h)),
            Request::ListTokens(_) => self.union.tokens(now.unix()).map(|t| Answer::of(&t)),
            Request::HearStanding(h) => {
                self.peers.hear_standing(&h, now);
                Ok(Answer::nothing())
            }
            Request::SignStatus(s) => self.peers.sign_status(s, now).map(|s| Answer::of(&s)),
            Request::HearStatus(h) => Ok(Answer::of(&self.peers.hear_status(&h.entry, now))),
            Request::WatchResults(_) => Ok(self.watch_results(session)),
        }
    }
}

impl Security {
    /// A file of evidence, for a person here or for another member.
    fn file(
        &self,
        nonce: &str,
        for_member: bool,
        make: impl FnOnce(&Asked<'_>) -> Result<OwnedFd, Fault>,
    ) -> Result<Answer, Fault> {
        let asked = Asked {
            platform: &self.platform,
            manifests: &|| self.union.manifests(),
            state: gtvp_ipc::place::STATE.as_ref(),
            nonce,
            others: for_member.then_some(&self.others),
        };
        make(&asked).map(|fd| Answer::nothing().with_fds(vec![fd]))
    }

    /// Tells this member's attestation results, until the caller has gone.
    fn watch_results(&self, session: &mut Session) -> Answer {
        let mut told = 0;
        while !session.cancelled() {
            let (new, upto) = self.peers.results_after(told, LOOK_UP);
            if new.iter().any(|result| session.progress(result.as_ref()).is_err()) {
                break;
            }
            told = upto;
        }
        Answer::nothing()
    }

    /// Tells what members are, and each change of that, until the caller has gone.
    fn watch_verdicts(&self, session: &mut Session) -> Answer {
        let (mut told, mut seen) = (BTreeMap::new(), 0);
        while !session.cancelled() {
            // Of a damaged record nothing is told.
            let new = self.peers.verdicts(&mut told, now()).unwrap_or_default();
            if new.iter().any(|verdict| session.progress(verdict).is_err()) {
                break;
            }
            seen = self.peers.wait_verdicts(seen, now(), LOOK_UP);
        }
        Answer::nothing()
    }

    /// Tells the union, and each change of it, until the caller has gone.
    fn watch(&self, session: &mut Session) -> Answer {
        let mut told = None;
        while !session.cancelled() {
            let (now, changes) = self.union.now();
            if told != Some(changes) && session.progress(&now).is_err() {
                break;
            }
            told = Some(changes);
            self.union.wait(changes, LOOK_UP);
        }
        Answer::nothing()
    }
}

fn run() -> Result<std::convert::Infallible, Box<dyn std::error::Error>> {
    let place = Place::open(Domain::Security)?;
    let listener = place.listener()?;
    let state = gtvp_ipc::place::STATE.as_ref();
    let key = key::load_or_make(state)?;
    let engine = engine::Engine::new(key, place.config.api_group.clone());
    let platform = Arc::new(Platform::open(&place.config, platform::software_uid(&place), state)?);
    platform.begin(&place.socket(Domain::Supervisor))?;
    let vtpms =
        Arc::new(Vtpms::new(platform.clone(), place.config.clone(), place.socket(Domain::Supervisor), state));
    vtpms.recover();
    let union = Arc::new(Union::open(state, place.config.name.clone(), platform.clone()));
    let peers = Peers::new(union.clone(), platform.clone(), state);
    let security = Arc::new(Security { engine, union, peers, platform, vtpms, others: Others::default() });
    Err(gtvp_ipc::serve(&listener, place.acl(), security).into())
}

fn now() -> Now {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let wall_ms = since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    // Goes on while the machine sleeps: a verdict does not keep.
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let ms = u64::try_from(boot.tv_sec).unwrap_or(0).saturating_mul(1000)
        + u64::try_from(boot.tv_nsec).unwrap_or(0) / 1_000_000;
    Now { wall_ms, ms }
}

fn main() -> ExitCode {
    match run() {
        Err(e) => gtvp_ipc::place::ended(Domain::Security, e.as_ref()),
    }
}
