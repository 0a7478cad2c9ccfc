//! What processes hold and how often they wake, by the kernel's own counts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A process's proportional share of memory, in bytes.
pub fn pss(pid: i32) -> u64 {
    held(pid, "Pss:")
}

/// All memory that a process has resident, in bytes: its share, were no other member of a lab running the same programs here.
pub fn rss(pid: i32) -> u64 {
    held(pid, "Rss:")
}

fn held(pid: i32, line: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a running process");
    let value = text.lines().find_map(|l| l.strip_prefix(line)).expect("a line of smaps_rollup");
    value.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
}

/// What a process did in a while.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Did {
    /// Context switches of all its threads.
    pub switches: u64,
    /// Clock ticks on a processor (a hundredth of a second).
    pub ticks: u64,
}

/// Counts by thread, so that a thread that ends does not take its count away.
#[derive(Default)]
struct Count {
    first: BTreeMap<i32, Did>,
    last: BTreeMap<i32, Did>,
}

/// Watches processes for a while; gives for each what it did in that time.
pub fn watch(pids: &[i32], during: Duration) -> Vec<Did> {
    let mut counts: Vec<Count> = pids.iter().map(|_| Count::default()).collect();
    let begun = Instant::now();
    let mut first = true;
    loop {
        for (pid, count) in pids.iter().zip(&mut counts) {
            for (thread, did) in threads(*pid) {
                // A thread that came later began at nothing.
                count.first.entry(thread).or_insert(if first { did } else { Did::default() });
                count.last.insert(thread, did);
            }
        }
        first = false;
        let left = during.saturating_sub(begun.elapsed());
        if left.is_zero() {
            break;
        }
        std::thread::sleep(left.min(Duration::from_secs(1)));
    }
    counts.iter().map(Count::difference).collect()
}

impl Count {
    fn difference(&self) -> Did {
        self.last.iter().fold(Did::default(), |sum, (thread, last)| {
            let first = self.first.get(thread).copied().unwrap_or_default();
            Did {
                switches: sum.switches + last.switches.saturating_sub(first.switches),
                ticks: sum.ticks + last.ticks.saturating_sub(first.ticks),
            }
        })
    }
}

fn threads(pid: i32) -> Vec<(i32, Did)> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks.flatten().filter_map(|t| Some((t.file_name().to_str()?.parse().ok()?, thread(t.path())?))).collect()
}

fn thread(dir: PathBuf) -> Option<Did> {
    let status = std::fs::read_to_string(dir.join("status")).ok()?;
    let switches = status
        .lines()
        .filter_map(|l| l.split_once("ctxt_switches:").and_then(|(_, n)| n.trim().parse::<u64>().ok()))
        .sum();
    let stat = std::fs::read_to_string(dir.join("stat")).ok()?;
    // After the name, which may have spaces in it: utime and stime are fields 14 and 15 of proc(5).
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks = rest.split_ascii_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    Some(Did { switches, ticks })
}
