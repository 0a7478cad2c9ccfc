//! What a boot log entry is: event types by their names (PFP §10.4.1 and what Linux boot loaders added), and the
//! structures inside the data as far as reference values and people need them.
//!
//! Decoding never fails: data that are not what their type promises are [`Kind::Other`]. They were measured all the same.

use gtvp_model::hex::hex;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Event;
use crate::reader::Reader;

/// Longest name or path that is decoded, in UTF-16 units: UEFI variable names and boot paths are below 512.
const MAX_TEXT: usize = 1024;

/// Device path nodes looked at: real paths have less than ten.
const MAX_NODES: usize = 64;

/// TCG_EVENTTYPE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventType(pub u32);

macro_rules! types {
    ($($name:ident = $value:literal;)*) => {
        #[allow(missing_docs)]
        impl EventType {
            $(pub const $name: Self = Self($value);)*

            /// The specification's name, without its EV_.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

types! {
    PREBOOT_CERT = 0x00; POST_CODE = 0x01; NO_ACTION = 0x03; SEPARATOR = 0x04; ACTION = 0x05; EVENT_TAG = 0x06;
    S_CRTM_CONTENTS = 0x07; S_CRTM_VERSION = 0x08; CPU_MICROCODE = 0x09; PLATFORM_CONFIG_FLAGS = 0x0a;
    TABLE_OF_DEVICES = 0x0b; COMPACT_HASH = 0x0c; IPL = 0x0d; IPL_PARTITION_DATA = 0x0e; NONHOST_CODE = 0x0f;
    NONHOST_CONFIG = 0x10; NONHOST_INFO = 0x11; OMIT_BOOT_DEVICE_EVENTS = 0x12; POST_CODE2 = 0x13;
    EFI_VARIABLE_DRIVER_CONFIG = 0x8000_0001; EFI_VARIABLE_BOOT = 0x8000_0002;
    EFI_BOOT_SERVICES_APPLICATION = 0x8000_0003; EFI_BOOT_SERVICES_DRIVER = 0x8000_0004;
    EFI_RUNTIME_SERVICES_DRIVER = 0x8000_0005; EFI_GPT_EVENT = 0x8000_0006; EFI_ACTION = 0x8000_0007;
    EFI_PLATFORM_FIRMWARE_BLOB = 0x8000_0008; EFI_HANDOFF_TABLES = 0x8000_0009;
    EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000_000a; EFI_HANDOFF_TABLES2 = 0x8000_000b; EFI_VARIABLE_BOOT2 = 0x8000_000c;
    EFI_GPT_EVENT2 = 0x8000_000d; EFI_HCRTM_EVENT = 0x8000_0010; EFI_VARIABLE_AUTHORITY = 0x8000_00e0;
    EFI_SPDM_FIRMWARE_BLOB = 0x8000_00e1; EFI_SPDM_FIRMWARE_CONFIG = 0x8000_00e2;
    EFI_SPDM_DEVICE_POLICY = 0x8000_00e3; EFI_SPDM_DEVICE_AUTHORITY = 0x8000_00e4;
}

impl EventType {
    /// Whether entries of this type measure programs: no reference value may leave these unchecked.
    pub fn is_code(self) -> bool {
        matches!(
            self,
            Self::POST_CODE
                | Self::POST_CODE2
                | Self::S_CRTM_CONTENTS
                | Self::S_CRTM_VERSION
                | Self::NONHOST_CODE
                | Self::EFI_BOOT_SERVICES_APPLICATION
                | Self::EFI_BOOT_SERVICES_DRIVER
                | Self::EFI_RUNTIME_SERVICES_DRIVER
                | Self::EFI_PLATFORM_FIRMWARE_BLOB
                | Self::EFI_PLATFORM_FIRMWARE_BLOB2
                | Self::EFI_HCRTM_EVENT
                | Self::EFI_SPDM_FIRMWARE_BLOB
        )
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "EV_{name}"),
            None => write!(f, "event type 0x{:08x}", self.0),
        }
    }
}

/// An entry, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind<'a> {
    /// The header of a crypto-agile log.
    Header,
    /// The locality of TPM2_Startup.
    StartupLocality(u8),
    /// Anything else that was not extended.
    NoAction,
    /// The end of the firmware's use of a PCR. `error` if firmware failed (PFP §10.4.1, value 1).
    Separator {
        /// Whether it says that firmware failed.
        error: bool,
    },
    /// Version of the code that measures first.
    CrtmVersion(String),
    /// A blob of firmware in memory.
    FirmwareBlob {
        /// Its description, if it has one.
        description: String,
        /// Physical address.
        base: u64,
        /// Length in bytes.
        length: u64,
    },
    /// An EFI variable.
    Variable {
        /// Vendor GUID.
        guid: String,
        /// Name.
        name: String,
        /// Contents.
        contents: &'a [u8],
    },
    /// A program that firmware loaded.
    Image {
        /// Its path on its device, as far as the device path says it.
        path: String,
    },
    /// A partition table.
    PartitionTable,
    /// Firmware says what it does.
    Action(String),
    /// A boot loader's text: GRUB's commands and files, shim's variables, systemd's strings.
    Text {
        /// The text, without prefix.
        text: String,
        /// What stood before it ("grub_cmd: ").
        prefix: &'static str,
        /// The bytes that boot loaders measure for it.
        measured: &'a [u8],
    },
    /// A tagged event (systemd-stub, Windows).
    Tagged {
        /// Its tag.
        id: u32,
        /// Its contents.
        contents: &'a [u8],
    },
    /// Anything else.
    Other,
}

/// What GRUB puts before the strings that it measures: releases and distributions differ.
const PREFIXES: [&str; 6] = [
    "grub_cmd: ",
    "kernel_cmdline: ",
    "module_cmdline: ",
    "grub_kernel_cmdline ",
    "grub_module_cmdline ",
    "grub_cmd ",
];

impl<'a> Kind<'a> {
    pub(super) fn of(event: &Event<'a>) -> Self {
        let data = event.data;
        match event.kind_id {
            EventType::NO_ACTION if data.starts_with(b"Spec ID Event") => Self::Header,
            EventType::NO_ACTION => event.startup_locality().map_or(Self::NoAction, Self::StartupLocality),
            EventType::SEPARATOR => Self::Separator { error: data == [1, 0, 0, 0] },
            EventType::S_CRTM_VERSION => Self::CrtmVersion(version(data)),
            EventType::EFI_PLATFORM_FIRMWARE_BLOB | EventType::EFI_PLATFORM_FIRMWARE_BLOB2 => {
                blob(event).unwrap_or(Self::Other)
            }
            EventType::EFI_VARIABLE_DRIVER_CONFIG
            | EventType::EFI_VARIABLE_BOOT
            | EventType::EFI_VARIABLE_BOOT2
            | EventType::EFI_VARIABLE_AUTHORITY => variable(data).unwrap_or(Self::Other),
            EventType::EFI_BOOT_SERVICES_APPLICATION
            | EventType::EFI_BOOT_SERVICES_DRIVER
            | EventType::EFI_RUNTIME_SERVICES_DRIVER => image(data).unwrap_or(Self::Other),
            EventType::EFI_GPT_EVENT | EventType::EFI_GPT_EVENT2 => Self::PartitionTable,
            EventType::ACTION | EventType::EFI_ACTION | EventType::OMIT_BOOT_DEVICE_EVENTS => {
                Self::Action(printable(data))
            }
            EventType::IPL => text(data),
            EventType::EVENT_TAG => tagged(data).unwrap_or(Self::Other),
            _ => Self::Other,
        }
    }

    /// What it is about, for rules and for people: a variable's name, a path, a text. `None` if the data name nothing.
    pub fn subject(&self) -> Option<&str> {
        let subject = match self {
            Self::CrtmVersion(s) | Self::Action(s) => s,
            Self::FirmwareBlob { description, .. } => description,
            Self::Variable { name, .. } => name,
            Self::Image { path } => path,
            Self::Text { text, .. } => text,
            _ => return None,
        };
        (!subject.is_empty()).then_some(subject)
    }

    /// The part of the data that some firmware and boot loaders hash in place of all of it.
    pub(super) fn measured_part(&self) -> Option<&'a [u8]> {
        match self {
            Self::Variable { contents, .. } => Some(contents),
            Self::Text { measured, .. } => Some(measured),
            _ => None,
        }
    }
}

/// ASCII or UTF-16LE without its end, for showing.
fn printable(data: &[u8]) -> String {
    if data.len() >= 2 && data.len() % 2 == 0 && data.iter().skip(1).step_by(2).all(|b| *b == 0) {
        return utf16(data);
    }
    let end = data.iter().position(|b| *b == 0).unwrap_or(data.len());
    String::from_utf8_lossy(data.get(..end.min(4 * MAX_TEXT)).unwrap_or_default()).into_owned()
}

fn utf16(data: &[u8]) -> String {
    let units = data.chunks_exact(2).map(|c| match c {
        [low, high] => u16::from_le_bytes([*low, *high]),
        _ => 0,
    });
    char::decode_utf16(units.take_while(|u| *u != 0).take(MAX_TEXT))
        .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

/// A version is text, or a GUID, or bytes of the vendor's own.
fn version(data: &[u8]) -> String {
    let text = printable(data);
    if !text.is_empty() && text.chars().all(|c| !c.is_control() && c != char::REPLACEMENT_CHARACTER) {
        return text;
    }
    match <[u8; 16]>::try_from(data) {
        Ok(bytes) => guid(bytes),
        Err(_) => hex(data.get(..MAX_TEXT).unwrap_or(data)),
    }
}

fn guid(b: [u8; 16]) -> String {
    let [a0, a1, a2, a3, b0, b1, c0, c1, rest @ ..] = b;
    let tail = hex(&rest);
    let (d, e) = tail.split_at(4);
    format!(
        "{:08x}-{:04x}-{:04x}-{d}-{e}",
        u32::from_le_bytes([a0, a1, a2, a3]),
        u16::from_le_bytes([b0, b1]),
        u16::from_le_bytes([c0, c1])
    )
}

/// UEFI_PLATFORM_FIRMWARE_BLOB and UEFI_PLATFORM_FIRMWARE_BLOB2 (PFP §10.2.2, §10.2.5).
fn blob<'a>(event: &Event<'a>) -> Option<Kind<'a>> {
    let mut r = Reader::new(event.data);
    let mut description = String::new();
    if event.kind_id == EventType::EFI_PLATFORM_FIRMWARE_BLOB2 {
        let size = r.u8("description size").ok()?;
        description = printable(r.take(size.into(), "description").ok()?);
    }
    Some(Kind::FirmwareBlob { description, base: r.u64_le("base").ok()?, length: r.u64_le("length").ok()? })
}

/// UEFI_VARIABLE_DATA (PFP §10.2.6). Some firmware writes a wrong length for the name's end or the data's; such an entry
/// is not decoded.
fn variable(data: &[u8]) -> Option<Kind<'_>> {
    let mut r = Reader::new(data);
    let id: [u8; 16] = r.take(16, "VariableName").ok()?.try_into().ok()?;
    let name_units = usize::try_from(r.u64_le("UnicodeNameLength").ok()?).ok()?;
    let length = usize::try_from(r.u64_le("VariableDataLength").ok()?).ok()?;
    let name = r.take(name_units.checked_mul(2)?, "UnicodeName").ok()?;
    let contents = r.take(length, "VariableData").ok()?;
    Some(Kind::Variable { guid: guid(id), name: utf16(name), contents })
}

/// UEFI_IMAGE_LOAD_EVENT (PFP §10.2.3): the file of a device path (UEFI §10.3.5.4), or of a firmware volume.
fn image(data: &[u8]) -> Option<Kind<'_>> {
    let mut r = Reader::new(data);
    r.take(24, "image location").ok()?;
    let length = usize::try_from(r.u64_le("LengthOfDevicePath").ok()?).ok()?;
    let mut nodes = Reader::new(r.take(length, "DevicePath").ok()?);
    let mut path = String::new();
    for _ in 0..MAX_NODES {
        let (Ok(kind), Ok(sub), Ok(size)) = (nodes.u8("type"), nodes.u8("sub"), nodes.u16_le("size")) else {
            break;
        };
        let Some(size) = usize::from(size).checked_sub(4) else { break };
        let Ok(body) = nodes.take(size, "node") else { break };
        match (kind, sub) {
            (4, 4) => path.push_str(&utf16(body)),
            // Firmware volume, firmware file.
            (4, 6 | 7) => {
                if let Ok(id) = <[u8; 16]>::try_from(body) {
                    path.push_str("fv/");
                    path.push_str(&guid(id));
                }
            }
            (0x7f, _) => break,
            _ => {}
        }
    }
    Some(Kind::Image { path })
}

fn text(data: &[u8]) -> Kind<'_> {
    // GRUB measures strings without their terminating zero; systemd's UTF-16 ones are measured whole.
    let measured = data.strip_suffix(&[0]).unwrap_or(data);
    for prefix in PREFIXES {
        if let Some(rest) = measured.strip_prefix(prefix.as_bytes()) {
            return Kind::Text { text: printable(rest), prefix, measured: rest };
        }
    }
    Kind::Text { text: printable(data), prefix: "", measured }
}

/// TCG_PCClientTaggedEvent (PFP §10.4.2.1).
fn tagged(data: &[u8]) -> Option<Kind<'_>> {
    let mut r = Reader::new(data);
    let id = r.u32_le("tag").ok()?;
    let size = usize::try_from(r.u32_le("tagged size").ok()?).ok()?;
    Some(Kind::Tagged { id, contents: r.take(size, "tagged data").ok()? })
}
