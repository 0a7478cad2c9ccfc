//! System-call filters from topology.toml's rows. Pure: makes programs, installs none.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use crate::spec::FilterPlan;
use crate::syscalls;

/// Why a filter could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BadFilter {
    /// topology.toml names a call that Linux does not have.
    #[error("{0} is no system call of x86_64")]
    Unknown(String),
    /// The compiler refused it.
    #[error("the filter cannot be compiled")]
    Compile(#[from] seccompiler::BackendError),
}

/// What happens at a call that is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// The process ends (SIGSYS).
    Kill,
    /// It is told to gtvpd and allowed: `gtvpd trace`.
    Tell,
}

/// Every kind of namespace that clone could make.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// What programs that are not ours may not do (`seccomp = "deny"`): refused with EPERM.
const DENIED: &[&str] = &[
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "move_mount",
    "open_tree",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "mount_setattr",
    "init_module",
    "finit_module",
    "delete_module",
    "kexec_load",
    "kexec_file_load",
    "reboot",
    "swapon",
    "swapoff",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "kcmp",
    "pidfd_getfd",
    "unshare",
    "setns",
    "keyctl",
    "add_key",
    "request_key",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "acct",
    "settimeofday",
    "clock_settime",
    "adjtimex",
    "clock_adjtime",
    "sethostname",
    "setdomainname",
    "syslog",
    "quotactl",
    "quotactl_fd",
    "iopl",
    "ioperm",
    "vhangup",
    "open_by_handle_at",
    "name_to_handle_at",
    "lookup_dcookie",
    "fanotify_init",
];

/// The filters to install, in this order.
pub fn programs(plan: &FilterPlan, mismatch: Mismatch) -> Result<Vec<BpfProgram>, BadFilter> {
    match plan {
        FilterPlan::Own => Ok(Vec::new()),
        FilterPlan::Deny => {
            let mut rules = BTreeMap::new();
            for name in DENIED {
                rules.insert(number(name)?, Vec::new());
            }
            rules.insert(libc::SYS_clone, any_bit_of(0, NAMESPACES)?);
            let eperm = SeccompAction::Errno(libc::EPERM as u32);
            Ok(vec![without_x32(), without_clone3()?, compile(rules, SeccompAction::Allow, eperm)?])
        }
        FilterPlan::List { names, internet, may_fork } => {
            let mut rules = BTreeMap::new();
            for name in names {
                rules.insert(number(name)?, Vec::new());
            }
            if let Some(clone) = rules.get_mut(&libc::SYS_clone) {
                // Threads always; processes where the row says so; namespaces never.
                let thread = if *may_fork { 0 } else { libc::CLONE_THREAD as u64 };
                *clone = vec![SeccompRule::new(vec![masked(0, NAMESPACES | thread, thread)?])?];
            }
            if let Some(socket) = rules.get_mut(&libc::SYS_socket) {
                let mut families = vec![libc::AF_UNIX as u64];
                if *internet {
                    families.extend([libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK].map(|f| f as u64));
                }
                *socket = equal_to_one_of(0, &families)?;
            }
            // How std makes a descriptor non-blocking or close-on-exec; any other request only where the row has ioctl.
            if let std::collections::btree_map::Entry::Vacant(ioctl) = rules.entry(libc::SYS_ioctl) {
                ioctl.insert(equal_to_one_of(1, &[libc::FIONBIO, libc::FIOCLEX])?);
            }
            let otherwise = match mismatch {
                Mismatch::Kill => SeccompAction::KillProcess,
                Mismatch::Tell => SeccompAction::Trap,
            };
            let mut list = compile(rules, otherwise, SeccompAction::Allow)?;
            if mismatch == Mismatch::Tell {
                tell_instead_of_trap(&mut list);
            }
            Ok(vec![without_clone3()?, list])
        }
    }
}

/// clone3 passes its flags in memory, where a filter cannot see them: it does not exist, and libc falls back to clone.
fn without_clone3() -> Result<BpfProgram, BadFilter> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    compile(rules, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))
}

/// The x32 calls have numbers of their own, which a list of what is denied does not name: none of them.
fn without_x32() -> BpfProgram {
    /// `__X32_SYSCALL_BIT`.
    const X32: u32 = 0x4000_0000;
    let statement = |code, jt, jf, k| seccompiler::sock_filter { code, jt, jf, k };
    vec![
        // BPF_LD | BPF_W | BPF_ABS: the call's number is the first word.
        statement(0x20, 0, 0, 0),
        // BPF_JMP | BPF_JGE | BPF_K.
        statement(0x35, 0, 1, X32),
        statement(RET_K, 0, 0, SeccompAction::KillProcess.into()),
        statement(RET_K, 0, 0, SeccompAction::Allow.into()),
    ]
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, BadFilter> {
    Ok(SeccompFilter::new(rules, otherwise, matched, TargetArch::x86_64)?.try_into()?)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, BadFilter> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value)?)
}

/// Rules that match when the 32 bits of `argument` are one of `values`: one for each.
fn equal_to_one_of(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, BadFilter> {
    let rule = |value: &u64| {
        let equal = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *value)?;
        Ok(SeccompRule::new(vec![equal])?)
    };
    values.iter().map(rule).collect()
}

/// Rules that match when `argument` has any bit of `mask`: one for each.
fn any_bit_of(argument: u8, mask: u64) -> Result<Vec<SeccompRule>, BadFilter> {
    let bits = (0..64).map(|n| 1u64 << n).filter(|bit| mask & bit != 0);
    bits.map(|bit| Ok(SeccompRule::new(vec![masked(argument, bit, bit)?])?)).collect()
}

/// The compiler has no name for `SECCOMP_RET_USER_NOTIF`.
fn tell_instead_of_trap(program: &mut BpfProgram) {
    for statement in program {
        if statement.code == RET_K && statement.k == libc::SECCOMP_RET_TRAP {
            statement.k = libc::SECCOMP_RET_USER_NOTIF;
        }
    }
}

/// `BPF_RET | BPF_K`.
const RET_K: u16 = 0x06;

fn number(name: &str) -> Result<i64, BadFilter> {
    syscalls::number(name).ok_or_else(|| BadFilter::Unknown(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_call_is_refused_and_the_fixed_list_is_known() {
        let plan = FilterPlan::List { names: vec!["opendoor".into()], internet: false, may_fork: false };
        assert!(matches!(programs(&plan, Mismatch::Kill), Err(BadFilter::Unknown(n)) if n == "opendoor"));
        assert_eq!(programs(&FilterPlan::Deny, Mismatch::Kill).unwrap().len(), 3);
    }

    #[test]
    fn a_told_filter_has_no_kill_for_a_mismatch() {
        let plan = FilterPlan::List { names: vec!["read".into()], internet: false, may_fork: false };
        let told = programs(&plan, Mismatch::Tell).unwrap();
        assert!(told[1].iter().any(|s| s.code == RET_K && s.k == libc::SECCOMP_RET_USER_NOTIF));
    }
}
