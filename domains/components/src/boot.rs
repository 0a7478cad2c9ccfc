//! What a box boots: the kernel of its composition, and an initramfs with guest-init and the kernel's modules. Both are
//! made from the kernel's component and kept in the store.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::import::Importer;
use crate::store::{Record, Store};
use gtvp_ipc::components::BootParts;
use gtvp_model::component::{EntryKind, Manifest};
use gtvp_model::digest::Digest;
use gtvp_model::fault::{Fault, FaultKind};

/// The modules that guest-init inserts at once, in this order, as far as the kernel's package has them and does not have them built
/// in (guest-init's README names them).
const MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_console",
    "fuse",
    "virtiofs",
    "overlay",
    "failover",
    "net_failover",
];
/// Those that it inserts once it knows which box it is: the drivers of devices that are the box's own.
const LATE_MODULES: &[&str] = &["virtio_blk", "virtio_net", "virtio-rng", "virtio_balloon"];
/// Version of how they are made.
const FORMAT: &str = "gtvp-boot 2";
/// Most bytes of a compressed kernel, of one unpacked, and of a module.
const MAX_KERNEL: u64 = 64 * 1024 * 1024;
/// See [`MAX_KERNEL`].
const MAX_VMLINUX: u64 = 512 * 1024 * 1024;
/// See [`MAX_KERNEL`].
const MAX_MODULE: u64 = 32 * 1024 * 1024;

/// Kernel and initramfs, open for reading and checked, and their digests.
pub fn open(
    importer: &Importer,
    kernel: &Record,
    guest_init: &Path,
) -> Result<(File, File, BootParts), Fault> {
    let store = &importer.store;
    let init = std::fs::read(guest_init)
        .map_err(|e| Fault::internal("guest-init is not where gtvpd puts it", &e))?;
    let key = Digest::of(format!("{FORMAT} {} {}", kernel.manifest, Digest::of(&init)).as_bytes());
    if let Some(made) = store.noted::<BootParts>("boot", &key) {
        if let (Ok(k), Ok(i)) = (store.open_checked(&made.kernel), store.open_checked(&made.initramfs)) {
            return Ok((k, i, made));
        }
        store.set_aside(&made.kernel)?;
        store.set_aside(&made.initramfs)?;
    }
    let manifest = store.manifest(&kernel.manifest)?;
    let image =
        contents(store, &manifest, |p| p.starts_with("boot/vmlinuz-"), MAX_KERNEL)?.ok_or_else(|| {
            Fault::new(FaultKind::Integrity, format!("{} has no kernel in it", kernel.reference))
        })?;
    let mut staged = store.stage()?;
    // Uncompressed it starts seconds earlier where there is no hardware virtualization; what has no entry for that
    // (PVH) starts as it is.
    let kernel = match vmlinux(&image) {
        Some(unpacked) => staged.bytes(&unpacked)?,
        None => staged.bytes(&image)?,
    };
    let initramfs = staged.bytes(&initramfs(store, &manifest, &init)?)?;
    staged.commit_objects()?;
    let made = BootParts { kernel, initramfs };
    store.note("boot", &key, &made)?;
    Ok((store.open_checked(&kernel)?, store.open_checked(&initramfs)?, made))
}

/// The first file whose path is wanted.
fn contents(
    store: &Store,
    manifest: &Manifest,
    wanted: impl Fn(&str) -> bool,
    most: u64,
) -> Result<Option<Vec<u8>>, Fault> {
    for entry in &manifest.entries {
        if let EntryKind::File { digest, size, .. } = &entry.kind {
            if *size <= most && wanted(&entry.path.to_string()) {
                return Ok(Some(store.read_object(digest, most)?));
            }
        }
    }
    Ok(None)
}

fn initramfs(store: &Store, manifest: &Manifest, init: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut archive = Cpio::default();
    archive.folder("dev");
    archive.folder("modules");
    archive.file("init", 0o755, init);
    for (list, names) in [("order", MODULES), ("late", LATE_MODULES)] {
        let mut order = String::new();
        for name in names {
            let is_it = |p: &str| {
                let file = p.rsplit('/').next().unwrap_or_default();
                p.starts_with("usr/lib/modules/")
                    && file.strip_prefix(name).is_some_and(|r| r.starts_with(".ko"))
            };
            let Some(module) = contents(store, manifest, is_it, MAX_MODULE)? else { continue };
            let module = unpack(&module, MAX_MODULE).unwrap_or(module);
            archive.file(&format!("modules/{name}.ko"), 0o644, &module);
            order.push_str(&format!("{name}.ko\n"));
        }
        archive.file(&format!("modules/{list}"), 0o644, order.as_bytes());
    }
    Ok(archive.finish())
}

/// Unpacks by what the bytes begin with; none when they are not known or broken.
fn unpack(bytes: &[u8], most: u64) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let limited = |r: &mut dyn Read, out: &mut Vec<u8>| r.take(most).read_to_end(out);
    // The kernel puts its length behind the compressed data, so that what follows the end is not an error.
    let done = match bytes {
        [0xfd, b'7', b'z', b'X', ..] => limited(&mut liblzma::read::XzDecoder::new(bytes), &mut out),
        [0x1f, 0x8b, ..] => limited(&mut flate2::read::GzDecoder::new(bytes), &mut out),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = ruzstd::decoding::StreamingDecoder::new(bytes).ok()?;
            limited(&mut decoder, &mut out)
        }
        _ => return None,
    };
    done.ok().filter(|_| !out.is_empty()).map(|_| out)
}

/// The ELF image inside a bzImage (Linux Documentation/arch/x86/boot.rst), if it can be started by itself.
fn vmlinux(image: &[u8]) -> Option<Vec<u8>> {
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let setup = match *image.get(0x1f1)? {
        0 => 4,
        n => usize::from(n),
    };
    let start = (setup + 1) * 512 + word(0x248)?;
    let payload = image.get(start..start.checked_add(word(0x24c)?)?)?;
    let unpacked = unpack(payload, MAX_VMLINUX)?;
    (unpacked.starts_with(b"\x7fELF") && has_pvh_entry(&unpacked)).then_some(unpacked)
}

/// Whether it has the note that tells its PVH entry: name "Xen", type 18.
fn has_pvh_entry(elf: &[u8]) -> bool {
    let notes = [[4u8, 0, 0, 0, 4, 0, 0, 0], [4, 0, 0, 0, 8, 0, 0, 0]];
    notes.iter().any(|head| {
        let note = [&head[..], &[18, 0, 0, 0], b"Xen\0"].concat();
        elf.chunks(1 << 20).enumerate().any(|(i, _)| {
            let from = i << 20;
            let to = elf.len().min(from + (1 << 20) + note.len());
            find(&elf[from..to], &note)
        })
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).step_by(4).any(|w| w == needle)
}

/// An archive as the kernel reads it (Linux Documentation/driver-api/early-userspace/buffer-format.rst, newc).
#[derive(Default)]
struct Cpio {
    out: Vec<u8>,
    inode: u32,
}

impl Cpio {
    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.inode += 1;
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.out.extend_from_slice(b"070701");
        for field in fields {
            self.out.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(0);
        self.pad();
        self.out.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.out.resize(self.out.len().next_multiple_of(4), 0);
    }

    fn folder(&mut self, name: &str) {
        self.entry(name, 0o040_755, b"");
    }

    fn file(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.entry(name, 0o100_000 | mode, data);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, b"");
        self.out.resize(self.out.len().next_multiple_of(512), 0);
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_what_the_kernel_reads() {
        let mut c = Cpio::default();
        c.file("init", 0o755, b"hello");
        let bytes = c.finish();
        let head = "070701000000010000".to_owned()
            + "81ed"
            + &"0".repeat(16)
            + "00000001"
            + "00000000"
            + "00000005"
            + &"0".repeat(32)
            + "00000005"
            + "00000000";
        assert_eq!(head.len(), 110);
        assert_eq!(std::str::from_utf8(&bytes[..110]).unwrap(), head);
        // Name and data each end on a multiple of four.
        assert!(bytes[110..].starts_with(b"init\0\0hello\0\0\x00070701"));
        assert!(bytes.windows(10).any(|w| w == b"TRAILER!!!") && bytes.len() % 512 == 0);
    }

    #[test]
    fn what_is_no_kernel_is_left_alone() {
        assert_eq!(vmlinux(b""), None);
        assert_eq!(vmlinux(&[0; 4096]), None);
        let mut lies = vec![0xff; 4096];
        lies[0x202..0x206].copy_from_slice(b"HdrS");
        assert_eq!(vmlinux(&lies), None);
    }
}
