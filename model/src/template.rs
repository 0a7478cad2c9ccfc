//! A booted template as the API shows it (docs/design/templates.md).

use serde::{Deserialize, Serialize};

use crate::units::Bytes;

/// A machine that this member booted, up to the point where it would hear which box it is, and saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TemplateView {
    /// SHA-256 of what is in it: its name.
    pub digest: String,
    /// When it was booted: milliseconds since 1970-01-01 UTC.
    pub created_ms: u64,
    /// Memory of a box that can start from it, bytes.
    pub memory_bytes: u64,
    /// Virtual processors of such a box.
    pub cpus: u16,
    /// What it takes on disk, bytes.
    pub size_bytes: u64,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// QEMU's version, with its package's.
    pub qemu: String,
    /// SHA-256 of the kernel image.
    pub kernel: String,
    /// SHA-256 of the initramfs.
    pub initramfs: String,
    /// Boxes that were started from it since this member's `drivers` began.
    pub starts: u64,
}

/// Which template to boot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TemplateWish {
    /// Memory of the boxes that are to start from it. Default: 512M, as a box's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Virtual processors of those boxes. Default: 1, as a box's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u16>,
}
