//! What `components` answers: to `management` about components and compositions, to a box's file-system server about
//! what its box is made of.

use gtvp_model::boxspec::Need;
use gtvp_model::boxview::{ClosureUse, LinkedComponent};
use gtvp_model::component::{ComponentView, RootPath};
use gtvp_model::composition::Composition;
use gtvp_model::digest::Digest;
use gtvp_model::event::Severity;
use gtvp_model::ids::{BoxName, Slot};
use gtvp_model::operation::Progress;
use serde::{Deserialize, Serialize};

use crate::Nothing;

/// Resolve needs to a composition, without importing more than that takes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Compose {
    /// The needs.
    pub needs: Vec<Need>,
}

/// The answer to [`Compose`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Composed {
    /// The composition.
    pub composition: Composition,
    /// Its digest.
    pub digest: Digest,
    /// How many packages have maintainer scripts.
    pub scripts: u64,
    /// What a builder box must run first, if this composition's maintainer scripts have not run yet.
    pub configure: Option<Configure>,
    /// Bytes fetched for this call.
    pub fetched_bytes: u64,
}

/// Maintainer scripts that a builder box must run: open the root as [`View::Builder`], run `command`, hand the exported
/// writable layer to [`Derive`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configure {
    /// What to run in the builder box; it ends with 0 or prints which package failed.
    pub command: Vec<String>,
    /// Memory of the builder box, MiB.
    pub memory_mib: u64,
    /// The packages whose scripts run.
    pub packages: Vec<String>,
}

/// Which root to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// The composition with its derived component on top.
    Application,
    /// The composition before its maintainer scripts ran.
    Builder,
}

/// Start the file-system server of a box. Answers with three descriptors: a connected vhost-user socket for QEMU, the kernel
/// image, the initramfs.
#[derive(Debug, Serialize, Deserialize)]
pub struct OpenRoot {
    /// The box.
    pub box_name: BoxName,
    /// Its slot.
    pub slot: Slot,
    /// Composition digest, from [`Compose`].
    pub composition: Digest,
    /// Which root.
    pub view: View,
}

/// What a box boots, and the answer to [`OpenRoot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootParts {
    /// SHA-256 of the kernel image.
    pub kernel: Digest,
    /// SHA-256 of the initramfs.
    pub initramfs: Digest,
}

/// End a box's file-system server and forget what it linked.
#[derive(Debug, Serialize, Deserialize)]
pub struct CloseRoot {
    /// The box.
    pub slot: Slot,
}

/// Make the derived component of a composition from a builder box's writable layer, a tar archive on the descriptor.
#[derive(Debug, Serialize, Deserialize)]
pub struct Derive {
    /// Composition digest.
    pub composition: Digest,
}

/// The answer to [`Derive`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Derived {
    /// Manifest digest of the derived component.
    pub component: Digest,
}

/// What a box has linked.
#[derive(Debug, Serialize, Deserialize)]
pub struct Linked {
    /// The box.
    pub slot: Slot,
}

/// The answer to [`Linked`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkedReply {
    /// First linked first.
    pub linked: Vec<LinkedComponent>,
    /// Against the closure.
    pub closure: ClosureUse,
}

/// Import a component now.
#[derive(Debug, Serialize, Deserialize)]
pub struct Import {
    /// Which.
    pub need: Need,
}

/// Every component in the store.
#[derive(Debug, Serialize, Deserialize)]
pub struct List {}

/// One component in full.
#[derive(Debug, Serialize, Deserialize)]
pub struct Show {
    /// Its reference (`deb:nginx`, `deb:nginx=1.22.1-9:amd64`), or a unique beginning of its digest.
    pub reference: String,
}

/// The answer to [`Show`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ShowReply {
    /// The listing's fields.
    pub view: ComponentView,
    /// What it needs.
    pub needs: Vec<String>,
    /// What it offers.
    pub provides: Vec<String>,
    /// Its first paths.
    pub paths: Vec<String>,
}

/// Hear of what happens to boxes' roots. Does not end.
#[derive(Debug, Serialize, Deserialize)]
pub struct Watch {}

/// Something that happened to a box's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootEvent {
    /// The box; none for what concerns the store.
    pub slot: Option<Slot>,
    /// How much it matters.
    pub severity: Severity,
    /// `component.linked`, `component.damaged`, `root.reattached`, `source.unreachable`, …
    pub kind: String,
    /// What happened, one sentence.
    pub message: String,
}

/// By a box's file-system server, when it starts: the layers that the box has now, highest precedence first.
#[derive(Debug, Serialize, Deserialize)]
pub struct Attach {}

/// One linked component, as its box's file-system server sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Its place: lower numbers hide higher ones.
    pub precedence: u32,
    /// Manifest digest.
    pub manifest: Digest,
}

/// The answer to [`Attach`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The linked layers; their manifests are asked for with [`ReadManifest`].
    pub layers: Vec<Layer>,
}

/// By a box's file-system server: the manifest of a linked component, as a descriptor of its canonical bytes.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReadManifest {
    /// Its digest.
    pub manifest: Digest,
}

/// By a box's file-system server: a LOOKUP that no linked component answers (the paper's dependency-missing fault). Every unlinked component of
/// the closure that has this path is fetched, appraised and linked.
#[derive(Debug, Serialize, Deserialize)]
pub struct Missing {
    /// The path, or a directory that leads to it.
    pub path: RootPath,
}

/// The answer to [`Missing`]: what was linked because of it, nothing when nobody provides the path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The layers.
    pub layers: Vec<Layer>,
}

/// By a box's file-system server: names in this directory that components of the closure provide which are not linked.
#[derive(Debug, Serialize, Deserialize)]
pub struct Names {
    /// The directory.
    pub dir: RootPath,
}

/// The answer to [`Names`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamesReply {
    /// Names, escaped as [`RootPath`] is.
    pub names: Vec<RootPath>,
}

/// By a box's file-system server: a file's contents, as a descriptor open for reading. Only files of linked components.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReadObject {
    /// fs-verity digest.
    pub digest: Digest,
}

/// By a box's file-system server: contents that are not what their digest says. `components` sets the object aside and fetches it again.
#[derive(Debug, Serialize, Deserialize)]
pub struct Damaged {
    /// fs-verity digest that was expected.
    pub digest: Digest,
}

/// A composition in full.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShowComposition {
    /// Its digest.
    pub composition: Digest,
}

crate::interface!("components" {
    /// See [`Compose`].
    Compose = "compose" -> Composed, progress Progress;
    /// See [`OpenRoot`].
    OpenRoot = "open_root" -> BootParts, progress Progress;
    /// See [`CloseRoot`].
    CloseRoot = "close_root" -> Nothing;
    /// See [`ShowComposition`].
    ShowComposition = "composition" -> gtvp_model::composition::Composition;
    /// See [`Derive`].
    Derive = "derive" -> Derived, progress Progress;
    /// See [`Linked`].
    Linked = "linked" -> LinkedReply;
    /// See [`Import`].
    Import = "import" -> ComponentView, progress Progress;
    /// See [`List`].
    List = "list" -> Vec<ComponentView>;
    /// See [`Show`].
    Show = "show" -> ShowReply;
    /// See [`Watch`].
    Watch = "watch" -> Nothing, progress RootEvent;
    /// See [`Attach`].
    Attach = "attach" -> Attached;
    /// See [`ReadManifest`].
    ReadManifest = "read_manifest" -> Nothing;
    /// See [`Missing`].
    Missing = "missing" -> Found;
    /// See [`Names`].
    Names = "names" -> NamesReply;
    /// See [`ReadObject`].
    ReadObject = "read_object" -> Nothing;
    /// See [`Damaged`].
    Damaged = "damaged" -> Nothing;
});
