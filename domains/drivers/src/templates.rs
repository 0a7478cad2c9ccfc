//! The templates of this member: machines that this domain booted and saved (docs/design/templates.md), in a folder that only it can
//! enter. There is no way to bring one in from elsewhere: a memory image cannot be appraised.
//!
//! `templates/<key>.json` and `<key>.image`; the key is the digest of everything that has to be equal for a machine to be loaded.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gtvp_ipc::drivers::Shape;
use gtvp_model::digest::Digest;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::template::TemplateView;
use serde::{Deserialize, Serialize};

use crate::accelerator::Accelerator;
use crate::{image, record};

/// Most templates that are kept; the oldest goes for a new one. Each takes as much as a booted kernel does, some 90 MB.
const MOST: usize = 8;
/// Version of the record's format, and of what a machine of ours is made of.
const FORMAT: u32 = 1;

/// Everything that has to be equal for a machine to be loaded from an image. What QEMU it is, it says itself when it has started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    format: u32,
    /// Of GTVP: the machine's arguments are this version's.
    version: String,
    accelerator: String,
    /// The processor's model, as QEMU is told.
    cpu: String,
    /// Under KVM a guest has seen this processor's features and clock: its image is for one boot of the host.
    boot_id: Option<String>,
    shape: Shape,
}

impl Key {
    /// Of a machine of this shape on this accelerator.
    pub fn new(shape: Shape, accelerator: &Accelerator) -> Self {
        let kvm = *accelerator == Accelerator::Kvm;
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            accelerator: accelerator.word().into(),
            cpu: accelerator.cpu().into(),
            boot_id: kvm.then(|| crate::accelerator::boot_id().unwrap_or_default()),
            shape,
        }
    }

    fn name(&self) -> io::Result<String> {
        Ok(Digest::of(&serde_json::to_vec(self)?).to_string())
    }
}

/// What is kept of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    key: Key,
    /// What is in it.
    pub digest: Digest,
    /// The QEMU that saved it.
    pub qemu: String,
    /// Milliseconds since 1970-01-01 UTC.
    created_ms: u64,
    size: u64,
}

/// Why a template that is there cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Its files cannot be read.
    #[error("template {0} cannot be read: {1}")]
    Unreadable(String, #[source] io::Error),
    /// Its image is not what was saved.
    #[error("template {expected} is not what was saved: its image has digest {found}")]
    Changed {
        /// What was saved.
        expected: Digest,
        /// What is there.
        found: Digest,
    },
}

/// They.
pub struct Templates {
    folder: PathBuf,
    /// What an image's identity was when its digest was found right, and how often it was used.
    seen: Mutex<HashMap<Digest, Seen>>,
    /// Held while one is booted.
    building: Mutex<()>,
}

#[derive(Default, Clone, Copy)]
struct Seen {
    identity: [i64; 6],
    starts: u64,
}

impl Templates {
    /// Those in this folder of the domain's. What a build that was broken off left goes.
    pub fn open(state: &Path) -> io::Result<Self> {
        let folder = state.join("templates");
        record::private_dir(&folder)?;
        record::remove(&folder.join("new"))?;
        Ok(Self { folder, seen: Mutex::default(), building: Mutex::default() })
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<Digest, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, key: &Key, extension: &str) -> io::Result<PathBuf> {
        Ok(self.folder.join(key.name()?).with_extension(extension))
    }

    /// The template for `key` and its image, open for reading and checked. One that cannot be used is removed.
    pub fn find(&self, key: &Key) -> Result<Option<(Template, File)>, Unusable> {
        let unreadable = |e| Unusable::Unreadable("of this shape".into(), e);
        let path = self.path(key, "json").map_err(unreadable)?;
        let Some(template) = load(&path).filter(|t| t.key == *key) else { return Ok(None) };
        match self.check(key, &template) {
            Ok(image) => Ok(Some((template, image))),
            Err(e) => {
                self.discard(&template);
                Err(e)
            }
        }
    }

    fn check(&self, key: &Key, template: &Template) -> Result<File, Unusable> {
        let unreadable = |e| Unusable::Unreadable(template.digest.short(), e);
        let image = self.path(key, "image").and_then(File::open).map_err(unreadable)?;
        let identity = image::identity(&image).map_err(unreadable)?;
        if self.seen().get(&template.digest).is_some_and(|s| s.identity == identity) {
            return Ok(image);
        }
        let found = image::digest(&image).map_err(unreadable)?;
        if found != template.digest {
            return Err(Unusable::Changed { expected: template.digest, found });
        }
        self.seen().entry(found).or_default().identity = identity;
        Ok(image)
    }

    /// Notes that a box was started from it.
    pub fn used(&self, digest: &Digest) {
        self.seen().entry(*digest).or_default().starts += 1;
    }

    /// Waits until no template is booted, and keeps others from it meanwhile.
    pub fn build(&self) -> MutexGuard<'_, ()> {
        self.building.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder of the one that is being booted, empty.
    pub fn workshop(&self) -> io::Result<PathBuf> {
        let folder = self.folder.join("new");
        record::remove(&folder)?;
        record::private_dir(&folder)?;
        Ok(folder)
    }

    /// An image in the workshop, to be written by QEMU.
    pub fn new_image(workshop: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(workshop.join("image"))
    }

    /// Takes in the image that was written in the workshop.
    pub fn add(&self, key: Key, workshop: &Path, qemu: &str, now_ms: u64) -> io::Result<Template> {
        let written = workshop.join("image");
        let image = File::open(&written)?;
        let (digest, size) = (image::digest(&image)?, image::taken(&image)?);
        let template = Template { key, digest, qemu: qemu.to_owned(), created_ms: now_ms, size };
        std::fs::rename(&written, self.path(&template.key, "image")?)?;
        // After the rename, which changes it.
        self.seen().insert(digest, Seen { identity: image::identity(&image)?, starts: 0 });
        record::replace(&self.path(&template.key, "json")?, &serde_json::to_vec_pretty(&template)?)?;
        record::remove(workshop)?;
        let mut all = self.all();
        all.sort_by_key(|t| std::cmp::Reverse(t.created_ms));
        all.iter().skip(MOST).for_each(|t| self.discard(t));
        Ok(template)
    }

    fn all(&self) -> Vec<Template> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let records = entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json"));
        records.filter_map(|p| load(&p)).collect()
    }

    /// Removes a template.
    pub fn discard(&self, template: &Template) {
        self.seen().remove(&template.digest);
        for extension in ["json", "image"] {
            let removed = self.path(&template.key, extension).and_then(|path| record::remove(&path));
            if let Err(e) = removed {
                eprintln!("drivers: template {} cannot be removed: {e}", template.digest.short());
            }
        }
    }

    /// As people see it.
    pub fn view(&self, t: &Template) -> TemplateView {
        TemplateView {
            digest: t.digest.to_string(),
            created_ms: t.created_ms,
            memory_bytes: t.key.shape.memory.0,
            cpus: t.key.shape.cpus,
            size_bytes: t.size,
            accelerator: t.key.accelerator.clone(),
            qemu: t.qemu.clone(),
            kernel: t.key.shape.boot.kernel.to_string(),
            initramfs: t.key.shape.boot.initramfs.to_string(),
            starts: self.seen().get(&t.digest).map_or(0, |s| s.starts),
        }
    }

    /// All of them, oldest first.
    pub fn list(&self) -> Vec<TemplateView> {
        let mut all = self.all();
        all.sort_by_key(|t| t.created_ms);
        all.iter().map(|t| self.view(t)).collect()
    }

    /// Removes the one whose digest begins so.
    pub fn remove(&self, beginning: &str) -> Result<TemplateView, Fault> {
        let all = self.all();
        let fits = |t: &&Template| !beginning.is_empty() && t.digest.to_string().starts_with(beginning);
        let mut found = all.iter().filter(fits);
        let wanted: String = beginning.chars().take(64).collect();
        match (found.next(), found.next()) {
            (Some(template), None) => {
                let view = self.view(template);
                self.discard(template);
                Ok(view)
            }
            (Some(_), Some(_)) => {
                let fault =
                    Fault::new(FaultKind::Conflict, format!("more than one template begins with {wanted}"));
                Err(Fault { retryable: false, ..fault }
                    .hint("give more of its digest: gtvp template ls -o wide"))
            }
            (None, _) => Err(Fault::new(FaultKind::NotFound, format!("no template begins with {wanted:?}"))
                .hint("gtvp template ls lists them")),
        }
    }
}

fn load(path: &Path) -> Option<Template> {
    serde_json::from_slice::<Template>(&std::fs::read(path).ok()?).ok().filter(|t| t.key.format == FORMAT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Folder;
    use gtvp_ipc::components::BootParts;
    use gtvp_model::units::Bytes;
    use std::os::unix::fs::FileExt;

    fn key(memory: u64) -> Key {
        let boot = BootParts { kernel: Digest::of(b"k"), initramfs: Digest::of(b"i") };
        let shape = Shape { memory: Bytes::mib(memory), cpus: 1, network: true, boot };
        Key::new(shape, &Accelerator::Tcg("test".into()))
    }

    fn add(templates: &Templates, memory: u64, now: u64) -> Template {
        let workshop = templates.workshop().unwrap();
        let image = Templates::new_image(&workshop).unwrap();
        image.write_all_at(format!("memory {memory}").as_bytes(), 0).unwrap();
        templates.add(key(memory), &workshop, "10.0.2 (x)", now).unwrap()
    }

    #[test]
    fn a_template_is_found_by_all_that_it_depends_on() {
        let folder = Folder::new();
        let templates = Templates::open(folder.path()).unwrap();
        let made = add(&templates, 512, 1);
        assert_eq!(templates.find(&key(512)).unwrap().unwrap().0, made);
        let boot = BootParts { kernel: Digest::of(b"other"), ..key(512).shape.boot };
        let others = [
            key(513),
            Key { shape: Shape { cpus: 2, ..key(512).shape }, ..key(512) },
            Key { shape: Shape { network: false, ..key(512).shape }, ..key(512) },
            Key { shape: Shape { boot, ..key(512).shape }, ..key(512) },
            Key { version: "0".into(), ..key(512) },
            Key { boot_id: Some("x".into()), ..key(512) },
            Key::new(key(512).shape, &Accelerator::Kvm),
        ];
        for other in others {
            assert!(templates.find(&other).unwrap().is_none(), "{other:?}");
        }
        // It outlives the process that booted it.
        assert_eq!(Templates::open(folder.path()).unwrap().find(&key(512)).unwrap().unwrap().0, made);
    }

    #[test]
    fn an_image_that_was_changed_is_never_used() {
        let folder = Folder::new();
        let templates = Templates::open(folder.path()).unwrap();
        let made = add(&templates, 512, 1);
        let path = templates.path(&key(512), "image").unwrap();
        assert!(templates.find(&key(512)).unwrap().is_some(), "the control");
        let image = OpenOptions::new().write(true).open(&path).unwrap();
        image.write_all_at(b"M", 0).unwrap();
        let refused = templates.find(&key(512)).unwrap_err();
        assert!(
            matches!(refused, Unusable::Changed { expected, .. } if expected == made.digest),
            "{refused}"
        );
        assert!(templates.find(&key(512)).unwrap().is_none() && !path.exists(), "and it is gone");
    }

    #[test]
    fn a_template_of_elsewhere_is_not_one_of_ours() {
        let folder = Folder::new();
        let templates = Templates::open(folder.path()).unwrap();
        let made = add(&templates, 512, 1);
        // Put in under another shape's name, it is none of that shape.
        for extension in ["json", "image"] {
            let (from, to) = (
                templates.path(&key(512), extension).unwrap(),
                templates.path(&key(1024), extension).unwrap(),
            );
            std::fs::copy(from, to).unwrap();
        }
        assert!(templates.find(&key(1024)).unwrap().is_none());
        assert_eq!(templates.find(&key(512)).unwrap().unwrap().0, made, "the control");
    }

    #[test]
    fn the_oldest_goes_and_one_is_removed_by_its_beginning() {
        let folder = Folder::new();
        let templates = Templates::open(folder.path()).unwrap();
        let all: Vec<_> = (0..=MOST as u64).map(|n| add(&templates, 128 + n, n)).collect();
        let listed = templates.list();
        assert_eq!(listed.len(), MOST);
        assert_eq!(listed[0].digest, all[1].digest.to_string());
        let removed = templates.remove(&all[3].digest.short()).unwrap();
        assert_eq!(removed.memory_bytes, Bytes::mib(131).0);
        assert!(templates.remove(&all[3].digest.short()).is_err() && templates.remove("").is_err());
        assert_eq!(templates.list().len(), MOST - 1);
    }
}
