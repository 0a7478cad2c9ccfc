//! Compositions: the ordered set of components that a box's root is the union of.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// One package of a composition, as its signed index names it. Whether it has been imported is not part of its identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Reference, for example `deb:nginx=1.22.1-9:amd64`.
    pub reference: String,
    /// SHA-256 of the package, from the signed index.
    pub source: Digest,
    /// Bytes of the package, from the signed index.
    pub size: u64,
}

/// What a box's root is made of. The same needs on the same sources give the same composition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Composition {
    /// Format version: 1. It also stands for how maintainer scripts are run and what the base skeleton holds.
    pub format: u32,
    /// The kernel.
    pub kernel: Item,
    /// Components, highest precedence first: where two have a path, the earlier one's is seen.
    pub items: Vec<Item>,
}

impl Composition {
    /// The composition digest: SHA-256 of the canonical JSON.
    pub fn digest(&self) -> Digest {
        // Strings and numbers always serialize.
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// Package bytes of the whole closure, without the kernel.
    pub fn closure_bytes(&self) -> u64 {
        self.items.iter().map(|i| i.size).sum()
    }
}
