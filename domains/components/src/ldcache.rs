//! `/etc/ld.so.cache` from names alone, so that the dynamic loader finds libraries of packages that are not linked yet
//! and nobody has to open every one of them (glibc's sysdeps/generic/dl-cache.h, the format "glibc-ld.so.cache1.1").

use std::collections::BTreeMap;

/// Folders that ldconfig looks into on Debian amd64, first first.
const FOLDERS: &[&str] =
    &["usr/local/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "usr/local/lib", "usr/lib"];
/// `FLAG_ELF_LIBC6 | FLAG_X8664_LIB64`.
const FLAGS: u32 = 0x0303;
const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;

/// The cache's bytes; none when there is no library.
pub fn build<'a>(paths: impl Iterator<Item = &'a str>) -> Option<Vec<u8>> {
    let mut best: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    for path in paths {
        let Some((folder, name)) = path.rsplit_once('/') else { continue };
        let Some(rank) = FOLDERS.iter().position(|f| *f == folder) else { continue };
        let is_library = (name.starts_with("lib") || name.starts_with("ld-")) && name.contains(".so.");
        if is_library && !path.contains('%') && best.get(name).is_none_or(|(r, _)| rank < *r) {
            best.insert(name, (rank, path));
        }
    }
    if best.is_empty() {
        return None;
    }
    let mut entries: Vec<(&str, &str)> = best.into_iter().map(|(name, (_, path))| (name, path)).collect();
    // The loader searches by halves, in this order, greatest first.
    entries.sort_by(|a, b| compare(b.0, a.0));
    let mut strings = Vec::new();
    let table = HEADER + entries.len() * ENTRY;
    let mut records = Vec::new();
    for (name, path) in &entries {
        let at = |strings: &Vec<u8>| u32::try_from(table + strings.len()).unwrap_or(u32::MAX);
        let key = at(&strings);
        strings.extend_from_slice(name.as_bytes());
        strings.push(0);
        let value = at(&strings);
        // Where Debian's own files are: /lib is a link to /usr/lib.
        let shown = path
            .strip_prefix("usr/lib/x86_64-linux-gnu/")
            .map_or_else(|| format!("/{path}"), |n| format!("/lib/x86_64-linux-gnu/{n}"));
        strings.extend_from_slice(shown.as_bytes());
        strings.push(0);
        records.extend_from_slice(&FLAGS.to_le_bytes());
        records.extend_from_slice(&key.to_le_bytes());
        records.extend_from_slice(&value.to_le_bytes());
        records.extend_from_slice(&[0; 12]);
    }
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&u32::try_from(entries.len()).ok()?.to_le_bytes());
    out.extend_from_slice(&u32::try_from(strings.len()).ok()?.to_le_bytes());
    // Little endian, padding, no extension, three unused words.
    out.extend_from_slice(&[2, 0, 0, 0]);
    out.extend_from_slice(&[0; 16]);
    out.extend_from_slice(&records);
    out.extend_from_slice(&strings);
    Some(out)
}

/// glibc's `_dl_cache_libcmp`: runs of digits count as numbers and stand after letters.
fn compare(a: &str, b: &str) -> std::cmp::Ordering {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while let Some(&x) = a.first() {
        let y = b.first().copied().unwrap_or(0);
        match (x.is_ascii_digit(), y.is_ascii_digit()) {
            (true, true) => {
                let number = |s: &mut &[u8]| {
                    let n = s.iter().take_while(|c| c.is_ascii_digit()).count();
                    let value =
                        s[..n].iter().fold(0u64, |v, c| v.wrapping_mul(10).wrapping_add(u64::from(c - b'0')));
                    *s = &s[n..];
                    value
                };
                match number(&mut a).cmp(&number(&mut b)) {
                    Equal => {}
                    other => return other,
                }
            }
            (true, false) => return Greater,
            (false, true) => return Less,
            (false, false) if x != y => return x.cmp(&y),
            (false, false) => (a, b) = (&a[1..], &b[1..]),
        }
    }
    if b.is_empty() { Equal } else { Less }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The host's own ldconfig reads what is written here.
    #[test]
    fn ldconfig_reads_the_cache() {
        let names = [
            "usr/lib/x86_64-linux-gnu/libc.so.6",
            "usr/lib/libz.so.1",
            "usr/lib/x86_64-linux-gnu/libz.so.1",
            "usr/bin/x",
            "usr/lib/x86_64-linux-gnu/libssl.so.3",
        ];
        let cache = build(names.into_iter()).unwrap();
        let dir = std::env::temp_dir().join(format!("gtvp-ldcache-{}", std::process::id()));
        std::fs::write(&dir, cache).unwrap();
        let shown =
            std::process::Command::new("/sbin/ldconfig").args(["-p", "-C"]).arg(&dir).output().unwrap();
        std::fs::remove_file(&dir).unwrap();
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        for line in [
            "libc.so.6 (libc6,x86-64) => /lib/x86_64-linux-gnu/libc.so.6",
            "libz.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libz.so.1",
            "libssl.so.3",
        ] {
            assert!(text.contains(line), "{text} {:?}", shown.stderr);
        }
        assert!(text.starts_with("3 libs"), "{text}");
    }

    #[test]
    fn names_are_ordered_as_the_loader_searches() {
        assert!(compare("libz.so.10", "libz.so.9").is_gt());
        assert!(compare("libz.so.1", "libz.so").is_gt());
        assert!(compare("lib1.so.1", "liba.so.1").is_gt());
        assert!(compare("libz.so.1", "libz.so.1").is_eq());
    }
}
