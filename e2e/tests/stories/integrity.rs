//! Contents that are not what their digest says.

use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};

use gtvp_e2e::Lab;
use gtvp_model::digest::FsVerity;

use crate::running::nginx;

pub fn a_flipped_byte_is_never_served(lab: &Lab) {
    nginx(lab, "web", 8080);
    // A file of a linked component that nobody has read yet.
    let path = "/usr/share/nginx/html/index.html";
    let clean = lab.ok(&["exec", "web", "--", "cat", path]);
    lab.remove("web");

    let digest = FsVerity::of(clean.as_bytes()).to_string();
    let object = find(&lab.state(), &digest).expect("the store has the page");
    let mut permissions = object.metadata().unwrap().permissions();
    permissions.set_mode(0o640);
    std::fs::set_permissions(&object, permissions).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&object).unwrap();
    file.write_all_at(b"X", 5).unwrap();
    (&file).flush().unwrap();

    nginx_with_damage(lab, &clean);
}

/// The page is the right one (fetched again) or none; never the damaged one.
fn nginx_with_damage(lab: &Lab, clean: &str) {
    lab.ok(&[
        "run",
        "--detach",
        "--name",
        "web",
        "--needs",
        "nginx",
        "--publish",
        "8080:80",
        "--",
        "nginx",
        "-g",
        "daemon off;",
    ]);
    let (status, body) = lab.get(8080, "/").expect("nginx answers");
    if status.contains("200") {
        assert_eq!(body, clean, "a damaged page was served");
    }
    let events = lab.ok(&["events"]);
    assert!(events.contains("component.damaged"), "nobody was told: {events}");
    lab.remove("web");
}

fn find(dir: &std::path::Path, digest: &str) -> Option<std::path::PathBuf> {
    for entry in std::fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find(&path, digest) {
                return Some(found);
            }
        } else if path.to_string_lossy().replace('/', "").ends_with(digest) {
            return Some(path);
        }
    }
    None
}
