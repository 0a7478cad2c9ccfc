//! The keeper of one member: starts gtvpd in the member's network namespace, starts it again when it ends, ends it when asked. What
//! systemd does on a server.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use gtvp_model::fault::Fault;
use rustix::fs::{FlockOperation, flock};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::process::Command;

use super::net::NETNS_DIR;
use super::processes::{end, gtvpd_of};
use super::state::KEEPER_LOCK;
use crate::client::runtime;
use crate::failure::io;
use crate::follow::Interrupts;

/// gtvpd that ran this long was well: it is started again at once.
const WELL: Duration = Duration::from_secs(5);
/// Longest pause before one that keeps ending is started again.
const LONGEST: Duration = Duration::from_secs(2);
const SHORTEST: Duration = Duration::from_millis(50);
/// What gtvpd gets to end in order.
pub const GRACE: Duration = Duration::from_secs(10);

/// Keeps until it is asked to end.
pub fn keep(run_dir: &Path, gtvpd: &Path, netns: &str) -> Result<(), Fault> {
    super::need_root("gtvp lab keep")?;
    let Some(_lock) = lock(run_dir)? else {
        println!("another keeper keeps {}", run_dir.display());
        return Ok(());
    };
    let file = Path::new(NETNS_DIR).join(netns);
    let namespace = File::open(&file).map_err(|e| io(format!("{} cannot be opened", file.display()), &e))?;
    // Before any thread is started: all of them, and gtvpd, live in it.
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|e| io(format!("{} cannot be entered", file.display()), &e.into()))?;
    let config = run_dir.join("member.toml");
    if let Some(orphan) = gtvpd_of(&config) {
        println!("ending gtvpd {} of a keeper that is gone", orphan.as_raw_nonzero());
        end(orphan, GRACE);
    }
    runtime()?.block_on(keep_running(gtvpd, &config))
}

/// The lock that says that this member is kept; `None` when another has it.
fn lock(run_dir: &Path) -> Result<Option<File>, Fault> {
    let path = run_dir.join(KEEPER_LOCK);
    let cannot = |e: std::io::Error| io(format!("{} cannot be locked", path.display()), &e);
    let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(cannot)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(None);
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(cannot)?;
    Ok(Some(file))
}

async fn keep_running(gtvpd: &Path, config: &Path) -> Result<(), Fault> {
    let mut interrupts = Interrupts::take()?;
    let mut pause = SHORTEST;
    loop {
        let begun = Instant::now();
        match Command::new(gtvpd).arg("--config").arg(config).stdin(Stdio::null()).spawn() {
            Ok(mut child) => tokio::select! {
                status = child.wait() => match status {
                    Ok(status) => println!("gtvpd ended: {status}"),
                    Err(e) => println!("gtvpd cannot be waited for: {e}"),
                },
                _ = interrupts.next() => {
                    let pid = child.id().and_then(|id| rustix::process::Pid::from_raw(id.try_into().ok()?));
                    if let Some(pid) = pid {
                        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                    }
                    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
                        println!("gtvpd does not end: killed");
                        let _ = child.kill().await;
                    }
                    return Ok(());
                }
            },
            Err(e) => println!("{} cannot be started: {e}", gtvpd.display()),
        }
        pause = if begun.elapsed() > WELL { SHORTEST } else { (pause * 2).min(LONGEST) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = interrupts.next() => return Ok(()),
        }
    }
}
