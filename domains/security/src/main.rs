//! SSD (GTVP §2.2): keys, signatures, appraisal, policy verdicts.

use std::process::ExitCode;
use std::sync::Arc;

use gtvp_ipc::security::Request;
use gtvp_ipc::{Answer, Caller, Place, Service, Session};
use gtvp_model::fault::Fault;
use gtvp_model::ids::Domain;
use gtvp_model::union::UnixTime;
use gtvp_security::platform::{self, Platform};
use gtvp_security::union::Union;
use gtvp_security::vtpm::Vtpms;
use gtvp_security::{attest, engine, key};

struct Security {
    engine: engine::Engine,
    union: Union,
    platform: Arc<Platform>,
    vtpms: Arc<Vtpms>,
}

impl Service for Security {
    type Request = Request;

    fn handle(
        &self,
        _caller: &Caller,
        request: Request,
        _fds: Vec<std::os::fd::OwnedFd>,
        _session: &mut Session,
    ) -> Result<Answer, Fault> {
        match request {
            Request::SignManifest(m) => Ok(Answer::of(&self.engine.sign_manifest(m.digest))),
            Request::AppraiseComponent(c) => {
                let appraisal = self.engine.appraise(&c)?;
                if let Some(link) = c.link {
                    self.vtpms.linked(link.slot, &c.reference, link.source);
                }
                Ok(Answer::of(&appraisal))
            }
            Request::PermitRun(p) => self.engine.permit_run(&p).map(|p| Answer::of(&p)),
            Request::Verdict(_) => Ok(Answer::of(&self.engine.verdict())),
            Request::MeasureBox(b) => {
                self.platform.measure_box(&b.name, b.composition)?;
                if b.vtpm {
                    self.vtpms.begin(b.slot, &b.name)?;
                }
                Ok(Answer::nothing())
            }
            Request::EndBox(b) => self.vtpms.end(b.slot).map(|()| Answer::nothing()),
            Request::AttestBox(a) => {
                let state = gtvp_ipc::place::STATE.as_ref();
                attest::answer_box(&self.platform, &self.vtpms, state, &a)
                    .map(|fd| Answer::nothing().with_fds(vec![fd]))
            }
            Request::Tpm(_) => Ok(Answer::of(&self.platform.view())),
            Request::TpmIdentity(_) => self.platform.identity().map(|i| Answer::of(&i)),
            Request::BeginUnion(b) => self.union.begin(&b, now()).map(|u| Answer::of(&u)),
            Request::ShowUnion(_) => self.union.show().map(|u| Answer::of(&u)),
            Request::ListMembers(_) => self.union.members().map(|m| Answer::of(&m)),
            Request::Attest(a) => {
                let state = gtvp_ipc::place::STATE.as_ref();
                attest::answer(&self.platform, state, &a.nonce).map(|fd| Answer::nothing().with_fds(vec![fd]))
            }
            Request::SignTls(s) => self.platform.sign_tls(&s).map(|s| Answer::of(&s)),
        }
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
    let union = Union::open(state, place.config.name.clone(), platform.clone());
    Err(gtvp_ipc::serve(&listener, place.acl(), Arc::new(Security { engine, union, platform, vtpms })).into())
}

fn now() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixTime(since.map_or(0, |d| d.as_secs()))
}

fn main() -> ExitCode {
    match run() {
        Err(e) => gtvp_ipc::place::ended(Domain::Security, e.as_ref()),
    }
}
