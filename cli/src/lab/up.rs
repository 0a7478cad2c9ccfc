//! `gtvp lab up`.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::member::MemberView;

use super::plan::{DEFAULT_DIR, Lab, MAX_LABS, Member, NETWORKS};
use super::{net, state};
use crate::args::LabUp;
use crate::client::{Api, runtime};
use crate::failure::io;
use crate::output::print;
use crate::target::run_root;

/// How long a member may take to answer: its domains are started and jailed first.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
/// Members that find each other with the limits that every Linux has.
const FEW: usize = 16;
/// A log that is longer begins anew with the next keeper; the one before is kept.
const MAX_LOG: u64 = 8 * 1024 * 1024;
/// Lines of the log that are told when a member does not answer.
const LAST_WORDS: usize = 5;

/// Makes what is missing of a lab.
pub fn up(words: &LabUp) -> Result<(), Fault> {
    super::need_root("gtvp lab up")?;
    let root = run_root();
    let gtvpd = find_gtvpd()?;
    let _lock = state::lock(&root)?;
    let run_dir = root.join("lab").join(words.name.as_str());
    let was_there = state::read_lab(&run_dir)?;
    let lab = match &was_there {
        Some(lab) => {
            same_dir(lab, words)?;
            lab.clone()
        }
        None => choose(words, &root)?,
    };
    let existing = state::members_of(&root, words.name.as_str()).len();
    let count = usize::from(words.members).max(existing);
    let mut made = Vec::new();
    prepare(&lab, &root, &mut made)?;
    if count > FEW && net::neighbours(2 * count * count)? {
        made.push("limits of the neighbour table".into());
    }
    let mut members = Vec::new();
    for n in 1..=u8::try_from(count).unwrap_or(u8::MAX) {
        let member = lab.member(n, &root)?;
        start(&lab, &member, &gtvpd, &mut made)?;
        members.push(member);
    }
    runtime()?.block_on(async {
        for member in &members {
            answers(member).await?;
        }
        Ok::<(), Fault>(())
    })?;
    let name = &lab.name;
    print(&match (was_there.is_some(), made.is_empty()) {
        (true, true) => format!("lab {name} is already up\n"),
        (true, false) => format!("lab {name} was up; made again: {}\n", made.join(", ")),
        (false, _) => format!("lab {name} is up\n"),
    });
    print(&how_to_talk(&members));
    Ok(())
}

fn same_dir(lab: &Lab, words: &LabUp) -> Result<(), Fault> {
    match &words.dir {
        Some(dir) if absolute(dir)? != lab.dir => Err(Fault::new(
            FaultKind::WrongState,
            format!("lab {} is up and keeps its things in {}", lab.name, lab.dir.display()),
        )
        .hint(format!("gtvp lab down --name {}", lab.name))),
        _ => Ok(()),
    }
}

/// Numbers for a new lab: the ones that it had before, else the first that no lab has which is up.
fn choose(words: &LabUp, root: &Path) -> Result<Lab, Fault> {
    let dir = dir_of(words.name.as_str(), words.dir.as_deref())?;
    let kept = state::read_lab(&dir)?;
    let mut up = Vec::new();
    for other in state::labs(root) {
        up.extend(state::read_lab(&root.join("lab").join(other))?);
    }
    let first_choice = kept.as_ref().map(|k| k.index);
    let free = first_choice.into_iter().chain(0..MAX_LABS).filter(|i| up.iter().all(|o| o.index != *i));
    let mut last = None;
    for index in free {
        let lab = Lab { name: words.name.clone(), index, network: NETWORKS[0], dir: dir.clone() };
        lab.check()?;
        // A lab that this file system does not know of: one of a container that shares this network.
        if net::has_ports(&lab.bridge()) {
            continue;
        }
        match in_free_network(lab) {
            Ok(lab) => {
                if let Some(kept) = kept.filter(|k| k.index != lab.index) {
                    state::give_to(&dir, &kept.uids(), &lab.uids())?;
                }
                return Ok(lab);
            }
            Err(fault) => last = Some(fault),
        }
    }
    Err(last.unwrap_or_else(|| {
        Fault::new(FaultKind::NoRoom, format!("{MAX_LABS} labs are up already"))
            .hint("gtvp lab down --name NAME ends one")
    }))
}

/// The directory in which a lab keeps what it keeps.
pub fn dir_of(name: &str, said: Option<&Path>) -> Result<PathBuf, Fault> {
    match said {
        Some(dir) => absolute(dir),
        None => Ok(Path::new(DEFAULT_DIR).join(name)),
    }
}

fn in_free_network(lab: Lab) -> Result<Lab, Fault> {
    NETWORKS
        .iter()
        .map(|network| Lab { network: *network, ..lab.clone() })
        .find(|l| !net::taken(l.subnet(), &l.bridge()))
        .ok_or_else(|| {
            let tried: Vec<String> = NETWORKS.iter().map(|n| format!("10.{n}.{}.0/24", lab.index)).collect();
            Fault::new(FaultKind::InUse, "no network is free for the lab")
                .because(format!("{} overlap with networks of this machine", tried.join(", ")))
                .hint("ip route shows them")
        })
}

fn absolute(dir: &Path) -> Result<PathBuf, Fault> {
    std::path::absolute(dir).map_err(|e| io(format!("{} is no directory", dir.display()), &e))
}

/// The lab's own part: what is kept of it, bridge, firewall table, forwarding.
fn prepare(lab: &Lab, root: &Path, made: &mut Vec<String>) -> Result<(), Fault> {
    let run_dir = lab.run_dir(root);
    state::make_dir(&run_dir)?;
    state::make_dir(&lab.dir)?;
    let text = toml::to_string(lab).map_err(|e| Fault::internal("lab.toml cannot be written", &e))?;
    state::write(&run_dir.join("lab.toml"), &text)?;
    state::write(&lab.dir.join("lab.toml"), &text)?;
    if net::make_bridge(lab)? {
        made.push("bridge".into());
    }
    if net::make_table(lab)? {
        made.push("masquerade".into());
    }
    if net::forward()? {
        made.push("forwarding".into());
    }
    Ok(())
}

/// One member: its files, its network, its keeper.
fn start(lab: &Lab, member: &Member, gtvpd: &Path, made: &mut Vec<String>) -> Result<(), Fault> {
    let config = &member.config;
    state::make_dir(&config.run_dir)?;
    state::make_dir(&config.state_dir)?;
    let text = toml::to_string(config).map_err(|e| Fault::internal("member.toml cannot be written", &e))?;
    state::write(&config.run_dir.join("member.toml"), &text)?;
    let new_network = net::make_member(lab, member)?;
    if new_network {
        made.push(format!("network of {}", member.name));
    }
    if let Some(keeper) = state::keeper(&config.run_dir) {
        if !new_network {
            return Ok(());
        }
        // It lives in a namespace that has no name any more.
        super::processes::end(keeper, super::keep::GRACE + Duration::from_secs(5));
    }
    keeper(member, gtvpd)?;
    made.push(format!("member {}", member.name));
    Ok(())
}

/// Starts a member's keeper, apart from this terminal.
fn keeper(member: &Member, gtvpd: &Path) -> Result<(), Fault> {
    let run_dir = &member.config.run_dir;
    let log = run_dir.join(state::LOG);
    if std::fs::metadata(&log).is_ok_and(|m| m.len() > MAX_LOG) {
        let _ = std::fs::rename(&log, log.with_extension("log.1"));
    }
    let cannot = |e: std::io::Error| io(format!("{} cannot be written", log.display()), &e);
    let out = OpenOptions::new().create(true).append(true).open(&log).map_err(cannot)?;
    let err = out.try_clone().map_err(cannot)?;
    let gtvp = std::env::current_exe().map_err(|e| io("gtvp does not know where it is", &e))?;
    // `setsid --fork` makes it nobody's child and gives it a session of its own.
    let status = Command::new("setsid")
        .arg("--fork")
        .arg(gtvp)
        .args(["lab", "keep", "--run"])
        .arg(run_dir)
        .arg("--gtvpd")
        .arg(gtvpd)
        .args(["--netns", &member.netns])
        .env_remove("GTVP_MEMBER")
        .env_remove("GTVP_SOCKET")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .status()
        .map_err(|e| io("setsid cannot be run", &e).hint("apt-get install util-linux"))?;
    if !status.success() {
        return Err(Fault::new(
            FaultKind::Internal,
            format!("the keeper of {} cannot be started: {status}", member.name),
        ));
    }
    Ok(())
}

async fn answers(member: &Member) -> Result<(), Fault> {
    let begun = Instant::now();
    let api = Api::new(member.config.api_socket.clone());
    loop {
        let left = ANSWERS_WITHIN.saturating_sub(begun.elapsed());
        let fault = match tokio::time::timeout(left, api.get::<MemberView>("/v1/member")).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(fault)) => fault,
            Err(_) => Fault::new(FaultKind::Unavailable, "one of its parts does not come up"),
        };
        if begun.elapsed() >= ANSWERS_WITHIN {
            let log = member.config.run_dir.join(state::LOG);
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n");
            return Err(Fault::new(
                FaultKind::Unavailable,
                format!("member {} does not answer", member.name),
            )
            .because(fault.to_string())
            .because(format!("gtvpd's last words are\n{last}"))
            .hint(format!("see {}; gtvp lab down takes the lab away", log.display())));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn how_to_talk(members: &[Member]) -> String {
    let mut text: String = members
        .iter()
        .map(|m| format!("  {:<4} {:<12} {}\n", m.name, m.address.to_string(), m.config.api_socket.display()))
        .collect();
    let choose = if members.len() > 1 { " --member m1" } else { "" };
    text += &format!(
        "talk to {}: gtvp{choose} member show\n",
        if members.len() > 1 { "one of them" } else { "it" }
    );
    text
}

/// gtvpd: beside this program, else in PATH.
pub fn find_gtvpd() -> Result<PathBuf, Fault> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("gtvpd")));
    let in_path =
        std::env::var_os("PATH").into_iter().flat_map(|p| std::env::split_paths(&p).collect::<Vec<_>>());
    beside.into_iter().chain(in_path.map(|dir| dir.join("gtvpd"))).find(|file| file.is_file()).ok_or_else(
        || Fault::new(FaultKind::NotFound, "gtvpd is not here").hint("it belongs beside gtvp, or in PATH"),
    )
}
