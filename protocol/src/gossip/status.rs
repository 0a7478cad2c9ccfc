//! How a member is, in its own words: for people, and for choosing among members that are good enough anyway. Nothing that is about
//! safety looks at it.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::entry::MAX_BODY;
use crate::frame::wire::{self, BodyFault, Bytes};

/// Longest name of a version of GTVP.
const MAX_VERSION: usize = 32;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Load of its processors, in hundredths of one: the mean of a minute.
    pub load: u32,
    /// Its processors.
    pub cpus: u16,
    /// Memory that could be used, MiB.
    pub memory_free_mib: u32,
    /// All its memory, MiB.
    pub memory_mib: u32,
    /// Boxes that run on it.
    pub boxes: u32,
    /// Its GTVP's version: printable ASCII, at most 32.
    pub version: String,
    /// Number of the last entry of the record that it has.
    pub record: u64,
    /// Components that it has, MiB.
    pub components_mib: u64,
}

#[derive(Encode, Decode)]
struct Form(
    #[n(0)] u32,
    #[n(1)] u16,
    #[n(2)] u32,
    #[n(3)] u32,
    #[n(4)] u32,
    #[n(5)] String,
    #[n(6)] u64,
    #[n(7)] u64,
);

/// Why a body is no status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadStatus {
    /// Not of the form.
    #[error("it is no status: {0}")]
    Form(#[from] BodyFault),
    /// Its version would not be shown as it is.
    #[error("its version is not at most {MAX_VERSION} printable characters")]
    Version,
}

impl Status {
    /// Its one form.
    pub fn encode(&self) -> Bytes<MAX_BODY> {
        let Self { load, cpus, memory_free_mib, memory_mib, boxes, version, record, components_mib } = self;
        let version = version.chars().filter(char::is_ascii_graphic).take(MAX_VERSION).collect();
        let form =
            Form(*load, *cpus, *memory_free_mib, *memory_mib, *boxes, version, *record, *components_mib);
        wire::encode(&form).try_into().unwrap_or_default()
    }

    /// The status that these bytes are.
    ///
    /// # Errors
    /// [`BadStatus`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BadStatus> {
        let Form(load, cpus, memory_free_mib, memory_mib, boxes, version, record, components_mib) =
            wire::decode(bytes)?;
        if version.len() > MAX_VERSION || !version.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(BadStatus::Version);
        }
        Ok(Self { load, cpus, memory_free_mib, memory_mib, boxes, version, record, components_mib })
    }

    /// Whether somebody who knows `before` should hear of this: something other than load and memory changed, or one of these by a
    /// tenth of what there is.
    pub fn differs(&self, before: &Self) -> bool {
        let far = |now: u64, then: u64, all: u64| now.abs_diff(then).saturating_mul(10) >= all.max(1);
        let exact = |s: &Self| (s.cpus, s.memory_mib, s.boxes, s.version.clone(), s.record);
        exact(self) != exact(before)
            || far(self.load.into(), before.load.into(), u64::from(self.cpus) * 100)
            || far(self.memory_free_mib.into(), before.memory_free_mib.into(), self.memory_mib.into())
            || far(self.components_mib, before.components_mib, before.components_mib.max(1_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            load: 150,
            cpus: 4,
            memory_free_mib: 1_000,
            memory_mib: 8_000,
            boxes: 2,
            version: "0.1.0".into(),
            record: 12,
            components_mib: 300,
        }
    }

    #[test]
    fn a_status_has_one_form_and_nothing_in_it_can_mislead_a_terminal() {
        let body = status().encode();
        assert_eq!(Status::decode(body.as_slice()), Ok(status()));
        for version in ["\u{1b}[2J", "1 2", &"x".repeat(33)] {
            let form = Form(0, 1, 1, 1, 0, version.to_owned(), 0, 0);
            assert_eq!(Status::decode(&wire::encode(&form)), Err(BadStatus::Version), "{version:?}");
        }
        assert!(Status::decode(&[body.as_slice(), &[0]].concat()).is_err());
        assert!(Status::decode(&[]).is_err());
    }

    #[test]
    fn noise_is_not_told_and_a_change_is() {
        let noise = Status { load: 170, memory_free_mib: 1_500, components_mib: 350, ..status() };
        assert!(!noise.differs(&status()));
        for change in [
            Status { load: 190, ..status() },
            Status { memory_free_mib: 1_800, ..status() },
            Status { boxes: 3, ..status() },
            Status { record: 13, ..status() },
            Status { components_mib: 400, ..status() },
        ] {
            assert!(change.differs(&status()), "{change:?}");
        }
    }
}
