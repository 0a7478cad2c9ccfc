//! Reference values: what counts as healthy (docs/spec/evidence.md, "Reference values").
//!
//! A [`Manifest`] is a named, versioned list of [`Rule`]s, signed by whoever may say so. Several compose to a
//! [`ReferenceSet`], which is what evidence is compared with. Rules are about events, never about PCR values: an update
//! is accepted by adding the rules of its events, before it is made, and the old ones stay until they are retired.
//!
//! There is no rule that accepts everything. [`BootMatch::Unchecked`] exists only for events that hold no code and no
//! command, and each use of it is told in the verdict as not checked.

mod learn;
mod manifest;
mod pattern;
mod rule;
mod set;
mod signer;

pub use learn::{rule_accepting, rules_for_boot, rules_for_own};
pub use manifest::{
    Demand, Demands, MAX_MANIFEST, MAX_RULES, Manifest, ManifestRefusal, SignedManifest, TrustedManifest,
};
pub use pattern::Pattern;
pub use rule::{BootMatch, BootRule, FileRule, OwnMatch, OwnRule, Rule, RuleRefusal, Status};
use set::Separators;
pub(crate) use set::{BootVerdict, FileVerdict, OwnVerdict, Separated};
pub use set::{ComposeRefusal, ReferenceSet};
pub use signer::{SignerKey, SignerRule};
