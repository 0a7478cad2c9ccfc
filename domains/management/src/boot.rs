//! How a machine comes up: on a root that is opened for it, booted, or started from a template where this member has booted one for its
//! shape; and when a template is booted (docs/design/templates.md). Whether it is a good template `drivers` says.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use gtvp_ipc::components::{BootParts, Compose, OpenRoot, View};
use gtvp_ipc::drivers::{self, FindTemplate, Shape, Started, TEMPLATE_FAILED};
use gtvp_ipc::security::{MeasureBox, MeasureTemplate};
use gtvp_model::boxspec::{BoxSpec, Need};
use gtvp_model::digest::Digest;
use gtvp_model::event::Severity;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::BoxName;
use gtvp_model::operation::Operation;
use gtvp_model::template::{TemplateView, TemplateWish};
use gtvp_model::units::Bytes;

use crate::engine::check_size;
use crate::operations::Handle;
use crate::peers;
use crate::runtime::Runtime;

/// A template is booted by itself, after a box was, only for boxes of at most this memory: QEMU reads all of it to save the machine, and
/// for that moment all of it is taken.
const MOST_MEMORY: Bytes = Bytes::mib(4 * 1024);
/// What a template is booted of when no box says: any composition has the kernel, and this package.
const ANY: &str = "base-files";

/// For which shapes (memory and processors) a template is being booted, or could not be.
#[derive(Default)]
pub struct Booting(Mutex<BTreeMap<(u64, u16), Work>>);

#[derive(PartialEq, Eq)]
enum Work {
    UnderWay,
    Failed,
}

impl Booting {
    /// Whether one may be booted now. What failed is tried again only when a person asks.
    fn begin(&self, shape: (u64, u16), by_hand: bool) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may = all.get(&shape).is_none_or(|work| by_hand && *work == Work::Failed);
        if may {
            all.insert(shape, Work::UnderWay);
        }
        may
    }

    fn end(&self, shape: (u64, u16), well: bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if well {
            all.remove(&shape);
        } else {
            all.insert(shape, Work::Failed);
        }
    }
}

impl Runtime {
    /// Opens the root `open` and starts on it the machine that `machine` makes of what it boots and of the template that it starts from.
    /// With `templates`, that is one where there is one; if that fails it is booted after all, and an event says why.
    pub fn boot(
        self: &Arc<Self>,
        operation: &Arc<Handle>,
        open: &OpenRoot,
        mut templates: bool,
        machine: impl Fn(BootParts, Option<Digest>) -> drivers::Start,
    ) -> Result<Started, Fault> {
        loop {
            match self.boot_once(operation, open, templates, &machine) {
                Err(fault) if templates && is_templates(&fault) && !operation.is_cancelled() => {
                    let name = &open.box_name;
                    self.template_failed(
                        name,
                        format!("{name} is booted, and not started from a template: {fault}"),
                    );
                    templates = false;
                }
                other => return other,
            }
        }
    }

    fn template_failed(&self, name: &BoxName, message: String) {
        self.events.tell(Severity::Warning, "box.template_failed", Some(name.to_string()), message);
    }

    fn boot_once(
        &self,
        operation: &Arc<Handle>,
        open: &OpenRoot,
        templates: bool,
        machine: &impl Fn(BootParts, Option<Digest>) -> drivers::Start,
    ) -> Result<Started, Fault> {
        let OpenRoot { box_name: name, slot, composition, view } = open;
        let (slot, vtpm) = (*slot, *view == View::Application);
        peers::ask(&MeasureBox { slot, vtpm, name: name.clone(), composition: *composition })?;
        operation.phase("link", "linking its components")?;
        let (parts, fds) = peers::work(operation, open, &[])?;
        if fds.len() != 3 {
            return Err(Fault::new(FaultKind::Internal, "components gave no root"));
        }
        let mut machine = machine(parts, None);
        if templates {
            let drivers::Start { memory, cpus, network, boot, .. } = machine;
            let found = peers::ask(&FindTemplate { shape: Shape { memory, cpus, network, boot } })?;
            if let Some(problem) = found.problem {
                self.template_failed(
                    name,
                    format!("a template was removed, and {name} is booted: {problem}"),
                );
            }
            machine.template = found.template;
        }
        if let Some(template) = machine.template {
            peers::ask(&MeasureTemplate { slot, template })?;
        }
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        operation
            .phase("boot", if machine.template.is_some() { "starting from a template" } else { "booting" })?;
        peers::work(operation, &machine, &borrowed).map(|(started, _)| started)
    }

    /// A box was booted: the next one of its shape need not be. Once for each shape; one that fails is not tried again by itself.
    pub fn template_after(self: &Arc<Self>, composition: Digest, spec: &BoxSpec) {
        let room = self.status().is_ok_and(|s| s.memory_available_bytes / 2 > spec.memory.0);
        if spec.memory > MOST_MEMORY || !room || !self.booting.begin((spec.memory.0, spec.cpus), false) {
            return;
        }
        self.template_operation(Some(composition), spec.memory, spec.cpus);
    }

    /// Begins the boot of a template that a person wants.
    pub fn build_template(self: &Arc<Self>, wish: &TemplateWish) -> Result<Operation, Fault> {
        let name = "template".parse().map_err(|e| Fault::internal("a template has no name", &e))?;
        let defaults = BoxSpec::new(name, Vec::new(), Vec::new());
        let (memory, cpus) = (wish.memory.unwrap_or(defaults.memory), wish.cpus.unwrap_or(defaults.cpus));
        let status = self.status()?;
        check_size(memory, cpus, Bytes(status.memory_bytes), status.cpus)?;
        if !self.booting.begin((memory.0, cpus), true) {
            let what = format!("a template for {memory} and {cpus} processors is being booted");
            return Err(Fault::new(FaultKind::WrongState, what).hint("gtvp operation ls shows it"));
        }
        Ok(self.template_operation(None, memory, cpus))
    }

    fn template_operation(
        self: &Arc<Self>,
        composition: Option<Digest>,
        memory: Bytes,
        cpus: u16,
    ) -> Operation {
        let operation = self.operations.begin("template", &format!("{memory}-{cpus}"));
        let (runtime, handle) = (self.clone(), operation.clone());
        std::thread::spawn(move || {
            let outcome = runtime.template(&handle, composition, memory, cpus);
            match &outcome {
                Ok(view) => {
                    let digest: String = view.digest.chars().take(12).collect();
                    let message = format!(
                        "template {digest} was booted, for boxes with {memory} and {cpus} processors"
                    );
                    runtime.events.tell(Severity::Info, "template.booted", None, message);
                }
                Err(fault) => {
                    let message =
                        format!("no template for boxes with {memory} and {cpus} processors: {fault}");
                    runtime.events.tell(Severity::Warning, "template.failed", None, message);
                }
            }
            runtime.booting.end((memory.0, cpus), outcome.is_ok());
            runtime.operations.end(&handle, outcome.map(|view| serde_json::json!(view)));
        });
        operation.snapshot()
    }

    /// Boots a template in the place of a box that nobody sees.
    fn template(
        self: &Arc<Self>,
        operation: &Arc<Handle>,
        composition: Option<Digest>,
        memory: Bytes,
        cpus: u16,
    ) -> Result<TemplateView, Fault> {
        let (composition, view) = match composition {
            Some(composition) => (composition, View::Application),
            None => {
                operation.phase("resolve", "finding the kernel")?;
                let need: Need = ANY.parse().map_err(|e| Fault::internal("no need", &e))?;
                let composed = peers::work_again(operation, &Compose { needs: vec![need] })?;
                // Nothing of the root is looked at: whether maintainer scripts have run makes no difference.
                let view = if composed.configure.is_some() { View::Builder } else { View::Application };
                (composed.digest, view)
            }
        };
        let name: BoxName = format!("template-{}", operation.snapshot().id)
            .parse()
            .map_err(|e| Fault::internal("a template has no name", &e))?;
        let mut spec = BoxSpec::new(name.clone(), Vec::new(), Vec::new());
        (spec.memory, spec.cpus) = (memory, cpus);
        let slot = {
            let member = Bytes(self.status()?.memory_bytes);
            let mut engine = self.engine();
            engine.check_room(memory, member)?;
            engine.admit(spec, true, crate::now_ms())?
        };
        self.keep(&name);
        let built = (|| {
            operation.phase("link", "opening a root that nothing looks at")?;
            let open = OpenRoot { box_name: name.clone(), slot, composition, view };
            let (boot, fds) = peers::work(operation, &open, &[])?;
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            let shape = Shape { memory, cpus, network: true, boot };
            peers::work(operation, &drivers::BuildTemplate { slot, shape }, &borrowed).map(|(view, _)| view)
        })();
        self.discard(&name);
        built
    }
}

/// Whether a start failed because of its template.
fn is_templates(fault: &Fault) -> bool {
    fault.causes.iter().any(|cause| cause == TEMPLATE_FAILED)
}
