//! What takes the stage's own powers away: ids, capabilities, limits, Landlock, the system-call filter. In this order,
//! after the root was changed.

use std::io;
use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope, path_beneath_rules,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use seccompiler::BpfProgram;

use crate::seccomp::{self, BadFilter, Mismatch};
use crate::spec::{Access, FilterPlan, JailSpec, NetPlan};
use crate::sys;

/// Why a process could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// A kernel call failed.
    #[error("{0}: {1}")]
    Step(&'static str, #[source] io::Error),
    /// Landlock refused the rules.
    #[error("Landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// The filter cannot be made.
    #[error(transparent)]
    Filter(#[from] BadFilter),
    /// The filter cannot be installed.
    #[error("installing the filter: {0}")]
    Install(#[from] seccompiler::Error),
}

/// Processes and threads that one uid may have: a domain has a thread for each connection.
const MAX_PROCESSES: u64 = 4096;
/// Capability numbers that the kernel could have.
const MAX_CAPABILITY: u32 = 63;

/// Takes the row's uid, drops every capability but the row's, sets limits.
pub fn drop_privileges(spec: &JailSpec) -> Result<(), ConfineError> {
    let step = |name| move |e: io::Error| ConfineError::Step(name, e);
    for capability in 0..=MAX_CAPABILITY {
        if !spec.capabilities.contains(&capability) {
            match sys::prctl(libc::PR_CAPBSET_DROP, capability.into(), 0) {
                // Past the kernel's last one.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break,
                other => other.map_err(step("dropping capabilities"))?,
            };
        }
    }
    limit(Resource::Nofile, spec.open_files)?;
    limit(Resource::Core, 0)?;
    if let Some(most) = spec.file_max {
        limit(Resource::Fsize, most)?;
    }
    limit(Resource::Nproc, MAX_PROCESSES)?;
    sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0).map_err(step("keeping capabilities"))?;
    sys::become_user(spec.uid, spec.uid).map_err(step("taking the row's uid"))?;
    let set = spec.capabilities.iter().fold(0u64, |set, c| set | (1 << c));
    sys::set_capabilities(set).map_err(step("setting capabilities"))?;
    for c in &spec.capabilities {
        sys::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong, (*c).into())
            .map_err(step("keeping capabilities over execve"))?;
    }
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map_err(step("forbidding new privileges"))?;
    Ok(())
}

/// Lowers a limit; a host whose own limit is below the row's keeps its own.
fn limit(resource: Resource, wanted: u64) -> Result<(), ConfineError> {
    let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let value = Some(wanted.min(most));
    setrlimit(resource, Rlimit { current: value, maximum: value })
        .map_err(|e| ConfineError::Step("setting limits", e.into()))
}

/// Restricts files to the row's by Landlock, as far as this kernel has it. Mounts say the same; this holds even for
/// a process that has found its way out of its mount namespace.
pub fn landlock(spec: &JailSpec) -> Result<(), ConfineError> {
    const KNOWN: ABI = ABI::V6;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let all_but_execute: BitFlags<AccessFs> = AccessFs::from_all(KNOWN) & !BitFlags::from(AccessFs::Execute);
    let rights = |access| match access {
        Access::R => read,
        Access::Rx => read | AccessFs::Execute,
        Access::Rw => all_but_execute,
    };
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?;
    if spec.network == NetPlan::Empty {
        ruleset = ruleset.handle_access(AccessNet::from_all(KNOWN))?;
    }
    let mut created = ruleset.scope(Scope::from_all(KNOWN))?.create()?;
    for bind in &spec.binds {
        created = created.add_rules(path_beneath_rules([&bind.at], rights(bind.access)))?;
    }
    for file in &spec.files {
        let access = if file.writable { Access::Rw } else { Access::R };
        created = created.add_rules(path_beneath_rules([&file.at], rights(access)))?;
    }
    created = created.add_rules(path_beneath_rules(spec.texts.iter().map(|(at, _)| at), read))?;
    if spec.tmp.is_some() {
        created = created.add_rules(path_beneath_rules(["/tmp"], all_but_execute))?;
    }
    if spec.pid_namespace {
        created = created.add_rules(path_beneath_rules(["/proc"], read | AccessFs::WriteFile))?;
    }
    created.restrict_self()?;
    Ok(())
}

/// Compiles the row's filter.
pub fn filters(spec: &JailSpec) -> Result<Vec<BpfProgram>, ConfineError> {
    let mismatch = if spec.tell_filter { Mismatch::Tell } else { Mismatch::Kill };
    Ok(seccomp::programs(&spec.filter, mismatch)?)
}

/// Installs filters. With `tell` the last one's listener is returned.
pub fn install(programs: &[BpfProgram], tell: bool) -> Result<Option<OwnedFd>, ConfineError> {
    let Some((last, before)) = programs.split_last() else { return Ok(None) };
    for program in before {
        seccompiler::apply_filter(program)?;
    }
    if tell {
        let listener = sys::install_told_filter(last);
        return Ok(Some(listener.map_err(|e| ConfineError::Step("installing the telling filter", e))?));
    }
    seccompiler::apply_filter(last)?;
    Ok(None)
}

/// Whether this plan has a list whose mismatches could be told.
pub fn can_tell(plan: &FilterPlan) -> bool {
    matches!(plan, FilterPlan::List { .. })
}
