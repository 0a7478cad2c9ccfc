//! The file-system server under a real guest: what the guest sees is what is in the tree, components are linked when it looks
//! for them, and neither the server's death nor a pause of the machine loses a request.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod played;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;

use played::components::Components;
use played::guest::Guest;
use played::supervisor::Supervisor;
use played::{Scratch, noise, sample_tree, write};

fn sha256sum(root: &std::path::Path) -> String {
    let out = Command::new("sh")
        .args(["-c", "cd $0 && find . -type f | LC_ALL=C sort | tr '\\n' '\\0' | xargs -0 sha256sum"])
        .arg(root)
        .output()
        .unwrap();
    String::from_utf8(out.stdout).unwrap()
}

/// One boot for all: booting is what takes the time.
#[test]
fn a_guest_sees_its_root_through_deaths_and_pauses() {
    let scratch = Scratch::new("guest");
    let base = scratch.path("base");
    sample_tree(&base);
    let late = scratch.path("late");
    write(&late, "usr/lib/late/library.so", &noise(7, 500_000), 0o644);
    write(&late, "usr/lib/late/data", b"late data", 0o644);
    let slow = scratch.path("slow");
    write(&slow, "usr/lib/slow", b"slow but right", 0o644);

    let components = Arc::new(Components::default());
    components.add_tree(10, &base, true);
    components.add_tree(20, &late, false);
    components.add_tree(30, &slow, false);
    let socket = scratch.path("components.sock");
    components.clone().serve(&socket);
    let (ours, qemus) = UnixStream::pair().unwrap();
    let mut supervisor = Supervisor::new(&scratch.0, &socket);
    let ours = OwnedFd::from(ours);
    supervisor.start(Some(&ours));
    drop(ours);
    let mut guest = Guest::boot(&scratch.0, qemus.into());

    // Every byte and every attribute.
    let seen = guest.ok("cd /mnt && find . -type f | sort | grep -v late | grep -v slow | tr '\\n' '\\0' | xargs -0 sha256sum");
    assert_eq!(seen, sha256sum(&base));
}
