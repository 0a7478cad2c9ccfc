//! `gtvpd probe`: runs gtvp-probe in exactly a domain's or a template's jail in place of its own program, once for each
//! attempt, because an attempt outside the row may end the process.

use std::os::fd::AsFd;
use std::time::Duration;

use serde::Serialize;

use crate::cgroup::Cgroups;
use crate::domains::{self, StartError};
use crate::launch::Launcher;
use crate::member::Member;
use crate::network::{Networks, Published};
use crate::places;
use crate::plan::{self, Contents, Namespaces};
use crate::spec::{Descriptor, JailSpec};
use gtvp_model::ids::Slot;
use std::io::Read;

/// The program that tries.
const PROBE: &str = "gtvp-probe";
/// Longest time of one attempt.
const PATIENCE: Duration = Duration::from_secs(20);

/// One attempt and what came of it.
#[derive(Debug, Serialize)]
struct Outcome {
    attempt: String,
    allowed: bool,
    how: String,
}

/// Whose jail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// A domain's.
    Domain(String),
    /// A template's; of the first box, where it is a box's.
    Template(String),
}

impl Whose {
    fn name(&self) -> &str {
        match self {
            Self::Domain(name) | Self::Template(name) => name,
        }
    }

    fn spec(
        &self,
        member: &Member,
        argv: Vec<String>,
        descriptors: Vec<Descriptor>,
    ) -> Result<JailSpec, StartError> {
        let name = match self {
            Self::Domain(name) => return domains::spec(member, name, Some((PROBE, argv)), descriptors),
            Self::Template(name) => name,
        };
        let row = member.topology.template.get(name).ok_or_else(|| StartError::NoRow(name.to_owned()))?;
        let contents = Contents { program: member.lib.join(PROBE), argv, descriptors, ..Contents::default() };
        let uid = plan::template_uid(member, row, Slot::new(0))?;
        let namespaces = Namespaces { boxes_net: Some(0), boxes_user: Some(1), sources_net: Some(2) };
        Ok(plan::jail(member, name, &row.jail, uid, contents, namespaces)?)
    }
}

/// Prints a JSON list of attempts.
pub fn run(member: &Member, whose: &Whose) -> i32 {
    match attempts(member, whose) {
        Ok(outcomes) => {
            println!("{}", serde_json::to_string_pretty(&outcomes).unwrap_or_default());
            0
        }
        Err(e) => {
            say!("probe: {e}");
            1
        }
    }
}

fn attempts(member: &Member, whose: &Whose) -> Result<Vec<Outcome>, Box<dyn std::error::Error>> {
    // Folders and networks may be gtvpd's own, in use: then they are taken as they are.
    let networks = match places::lock_holder(member) {
        Some(gtvpd) => Networks::open(member, gtvpd.unsigned_abs())?,
        None => {
            places::folders(member)?;
            places::ways_folders(member)?;
            let networks = Networks::ensure(member)?;
            networks.publish(&Published::new())?;
            networks
        }
    };
    let list = std::process::Command::new(member.lib.join(PROBE)).arg("list").output()?;
    let launcher = Launcher {
        ids: (member.config.uid_base, gtvp_model::member::UIDS_PER_MEMBER),
        cgroups: Cgroups::none(),
        tell: false,
    };
    let mut outcomes = Vec::new();
    for attempt in String::from_utf8_lossy(&list.stdout).lines() {
        outcomes.push(one(member, &networks, &launcher, whose, attempt)?);
    }
    // Paths of this host that the list cannot know.
    let others = member.topology.domain.keys().filter(|name| *name != whose.name());
    for other in others {
        for attempt in [
            format!("open {}", member.state_of(other).display()),
            format!("open {}", member.run_of(other).display()),
            format!("connect {}", member.socket_of(other).display()),
            format!("connect /gtvp/ipc/{other}.sock"),
        ] {
            outcomes.push(one(member, &networks, &launcher, whose, &attempt)?);
        }
    }
    for attempt in [
        format!("connect {}", member.config.api_socket.display()),
        "connect /gtvp/ipc/supervisor.sock".into(),
    ] {
        outcomes.push(one(member, &networks, &launcher, whose, &attempt)?);
    }
    Ok(outcomes)
}

fn one(
    member: &Member,
    networks: &Networks,
    launcher: &Launcher,
    whose: &Whose,
    attempt: &str,
) -> Result<Outcome, Box<dyn std::error::Error>> {
    let (theirs, ours) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let null = std::fs::File::open("/dev/null")?;
    let descriptors = vec![Descriptor { from: 3, number: 0 }, Descriptor { from: 4, number: 1 }];
    let argv = attempt.split(' ').map(str::to_owned).collect();
    let spec = whose.spec(member, argv, descriptors)?;
    let fds = [
        networks.boxes.as_fd(),
        networks.boxes_user.as_fd(),
        networks.sources.as_fd(),
        null.as_fd(),
        ours.as_fd(),
    ];
    let process = launcher.start(spec, &fds, domains::stdio()?, "probe", None).map_err(StartError::from)?;
    drop(ours);
    if !process.wait(PATIENCE) {
        process.kill();
        process.wait(PATIENCE);
    }
    let mut how = String::new();
    std::fs::File::from(theirs).read_to_string(&mut how)?;
    let end = process.end();
    if how.is_empty() {
        how = end.how;
    }
    Ok(Outcome { attempt: attempt.to_owned(), allowed: end.code == Some(0), how: how.trim().to_owned() })
}
