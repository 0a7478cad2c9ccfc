//! Parts that the tests play: components made of a directory tree, and the supervisor that holds and restarts.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

pub mod components;
pub mod guest;
pub mod supervisor;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// A folder of this test's own, gone at its end.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("gtvp-lazyfs-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Bytes that differ from place to place and from seed to seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = std::iter::repeat_with(move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()
    });
    next.flatten().take(len).collect()
}

pub fn write(root: &Path, path: &str, bytes: &[u8], mode: u32) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A tree with what a root has in it: files of many sizes, links of both kinds, odd names, a large directory, a pipe.
pub fn sample_tree(root: &Path) {
    for i in 0..200u64 {
        write(root, &format!("usr/share/many/file-{i:03}"), &noise(i, (i * i % 5000) as usize), 0o644);
    }
    for (i, size) in [0, 1, 4095, 4096, 4097, 131_072, 1_500_000, 3_000_001].into_iter().enumerate() {
        write(root, &format!("usr/lib/sizes/{size}"), &noise(1000 + i as u64, size), 0o640);
    }
    write(root, "usr/bin/tool", &noise(1, 70_000), 0o4755);
    write(root, "usr/bin/a-first", b"first by name", 0o755);
    fs::hard_link(root.join("usr/bin/a-first"), root.join("usr/bin/z-last")).unwrap();
    write(root, "etc/na me, mit Umlaut ä", b"odd", 0o600);
    write(root, "etc/a.d/x", b"x", 0o644);
    write(root, "etc/a-d/x", b"sorts before a.d", 0o644);
    symlink("../usr/bin/tool", root.join("etc/tool")).unwrap();
    symlink("/nowhere", root.join("etc/dangling")).unwrap();
    fs::create_dir_all(root.join("var/empty")).unwrap();
    fs::set_permissions(root.join("var/empty"), fs::Permissions::from_mode(0o1777)).unwrap();
}
