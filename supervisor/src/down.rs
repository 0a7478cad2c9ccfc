//! `gtvpd down`: ends everything of this member on this host, except its state. May be repeated.

use std::fs;
use std::time::Duration;

use crate::cgroup::Cgroups;
use crate::member::{Member, instance};
use crate::network::Networks;
use crate::places;
use crate::process::{Process, start_time};
use crate::records::Records;

/// Longest time that gtvpd gets to end its domains.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ends gtvpd, boxes, networks and the run directory.
pub fn run(member: &Member) -> i32 {
    if let Some(gtvpd) = places::lock_holder(member).and_then(|pid| Process::adopt(pid, start_time(pid)?)) {
        gtvpd.terminate();
        if !gtvpd.wait(PATIENCE) {
            gtvpd.kill();
            gtvpd.wait(PATIENCE);
        }
    }
    let _lock = match places::lock(member) {
        Ok(lock) => lock,
        Err(e) => {
            say!("{e}: stop its service first");
            return 1;
        }
    };
    let records = Records::new(member.run("procs")).read();
    let running: Vec<_> =
        records.iter().filter_map(|r| Some((r, Process::adopt(r.pid, r.start_time)?))).collect();
    for (_, process) in &running {
        process.kill();
    }
    let mut status = 0;
    for (record, process) in &running {
        if !process.wait(PATIENCE) {
            say!("{} (pid {}) does not end", instance(&record.template, record.slot), record.pid);
            status = 1;
        }
    }
    Networks::remove(member);
    Cgroups::open(&member.server_wide_name()).remove_all();
    // The API's socket may be elsewhere.
    let _ = fs::remove_file(&member.config.api_socket);
    if let Err(e) = fs::remove_dir_all(&member.config.run_dir) {
        say!("{}: {e}", member.config.run_dir.display());
        status = 1;
    }
    status
}
