//! Numbers of TPM 2.0 Part 2 that GTVP uses, and the TPM's refusals in words.

#![allow(missing_docs, reason = "the names are TCG's own; Part 2 explains them")]

/// TPM_ST (§6.9).
pub const ST_NO_SESSIONS: u16 = 0x8001;
pub const ST_SESSIONS: u16 = 0x8002;
pub const ST_ATTEST_CERTIFY: u16 = 0x8017;
pub const ST_ATTEST_QUOTE: u16 = 0x8018;
pub const ST_HASHCHECK: u16 = 0x8024;
/// TPM_GENERATED_VALUE (§6.2).
pub const GENERATED: u32 = 0xff54_4347;

/// TPM_CC (§6.5.2).
pub mod cc {
    pub const NV_DEFINE_SPACE: u32 = 0x12a;
    pub const CREATE_PRIMARY: u32 = 0x131;
    pub const SEQUENCE_COMPLETE: u32 = 0x13e;
    pub const NV_WRITE: u32 = 0x137;
    pub const PCR_EXTEND: u32 = 0x182;
    pub const STARTUP: u32 = 0x144;
    pub const ACTIVATE_CREDENTIAL: u32 = 0x147;
    pub const CERTIFY: u32 = 0x148;
    pub const NV_READ: u32 = 0x14e;
    pub const POLICY_SECRET: u32 = 0x151;
    pub const CREATE: u32 = 0x153;
    pub const LOAD: u32 = 0x157;
    pub const QUOTE: u32 = 0x158;
    pub const SEQUENCE_UPDATE: u32 = 0x15c;
    pub const SIGN: u32 = 0x15d;
    pub const FLUSH_CONTEXT: u32 = 0x165;
    pub const NV_READ_PUBLIC: u32 = 0x169;
    pub const START_AUTH_SESSION: u32 = 0x176;
    pub const GET_CAPABILITY: u32 = 0x17a;
    pub const PCR_READ: u32 = 0x17e;
    pub const READ_CLOCK: u32 = 0x181;
    pub const HASH_SEQUENCE_START: u32 = 0x186;
}

/// TPM_RH (§7.4) and fixed handles.
pub mod handle {
    pub const OWNER: u32 = 0x4000_0001;
    pub const NULL: u32 = 0x4000_0007;
    pub const ENDORSEMENT: u32 = 0x4000_000b;
    /// EK certificates (TCG EK Credential Profile, §2.2.1.4): RSA 2048 and ECC P-256 of the low range.
    pub const EK_CERTIFICATE_RSA: u32 = 0x01c0_0002;
    pub const EK_CERTIFICATE_ECC: u32 = 0x01c0_000a;
    /// The chain above them (§2.2.1.5.2), of as many indices as it needs: Intel's needs four. Sixteen are 64 KiB.
    pub const EK_CHAIN: std::ops::Range<u32> = 0x01c0_0100..0x01c0_0110;
    /// What this member has promised (`promises.rs`): of the range that the TPM's owner gives out (Registry of Reserved TPM 2.0 Handles, §2.2.2).
    pub const PROMISES: u32 = 0x0180_4754;
    /// First handle of transient objects, of loaded and of saved sessions (TPM_HT, §7.2).
    pub const TRANSIENT: u32 = 0x8000_0000;
    pub const LOADED_SESSIONS: u32 = 0x0200_0000;
    pub const SAVED_SESSIONS: u32 = 0x0300_0000;
}

/// TPM_ALG (§6.3).
pub mod alg {
    pub const RSA: u16 = 0x0001;
    pub const AES: u16 = 0x0006;
    pub const SHA256: u16 = 0x000b;
    pub const SHA384: u16 = 0x000c;
    pub const NULL: u16 = 0x0010;
    pub const ECDSA: u16 = 0x0018;
    pub const ECC: u16 = 0x0023;
    pub const CFB: u16 = 0x0043;
}

/// TPM_ECC_NIST_P256 (§6.4).
pub const NIST_P256: u16 = 0x0003;

/// TPMA_OBJECT (§8.3).
pub mod attribute {
    pub const FIXED_TPM: u32 = 1 << 1;
    pub const FIXED_PARENT: u32 = 1 << 4;
    pub const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
    pub const USER_WITH_AUTH: u32 = 1 << 6;
    pub const ADMIN_WITH_POLICY: u32 = 1 << 7;
    pub const NO_DA: u32 = 1 << 10;
    pub const RESTRICTED: u32 = 1 << 16;
    pub const DECRYPT: u32 = 1 << 17;
    pub const SIGN: u32 = 1 << 18;
}

/// TPMA_NV (§13.4).
pub mod nv {
    pub const AUTH_WRITE: u32 = 1 << 2;
    /// Written as a whole or not at all.
    pub const WRITE_ALL: u32 = 1 << 12;
    pub const AUTH_READ: u32 = 1 << 18;
    pub const NO_DA: u32 = 1 << 25;
    pub const WRITTEN: u32 = 1 << 29;
}

/// TPM_RC (§6.6.3): why the TPM refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rc(pub u32);

impl Rc {
    pub const SUCCESS: Self = Self(0);
    pub const INITIALIZE: Self = Self(0x100);
    pub const FAILURE: Self = Self(0x101);
    pub const REBOOT: Self = Self(0x130);
    pub const NV_UNINITIALIZED: Self = Self(0x14a);
    pub const NV_SPACE: Self = Self(0x14b);
    pub const NV_DEFINED: Self = Self(0x14c);
    pub const CONTEXT_GAP: Self = Self(0x901);
    pub const OBJECT_MEMORY: Self = Self(0x902);
    pub const SESSION_MEMORY: Self = Self(0x903);
    pub const YIELDED: Self = Self(0x908);
    pub const TESTING: Self = Self(0x90a);
    pub const NV_RATE: Self = Self(0x920);
    pub const LOCKOUT: Self = Self(0x921);
    pub const RETRY: Self = Self(0x922);
    /// Format-one codes, without the parameter, handle or session that they name.
    pub const VALUE: Self = Self(0x084);
    pub const HANDLE: Self = Self(0x08b);
    pub const AUTH_FAIL: Self = Self(0x08e);
    pub const INTEGRITY: Self = Self(0x09f);
    pub const BAD_AUTH: Self = Self(0x0a2);

    /// Without the number of the parameter, handle or session (Part 2 §6.6.2).
    pub fn base(self) -> Self {
        if self.0 & 0x080 == 0 { self } else { Self(self.0 & 0x0bf) }
    }

    /// The same command can succeed a moment later, and has not been carried out.
    pub fn again(self) -> bool {
        [Self::RETRY, Self::YIELDED, Self::TESTING, Self::NV_RATE].contains(&self)
    }

    /// An object that was loaded is not there any more. TPM_RC_REFERENCE_H0 to _S6 are 0x910 to 0x91e.
    pub fn is_lost_object(self) -> bool {
        self.base() == Self::HANDLE || (0x910..=0x91e).contains(&self.0)
    }

    fn name(self) -> Option<&'static str> {
        Some(match self.base() {
            Self::INITIALIZE => "the TPM has not been started since it was reset",
            Self::FAILURE => "the TPM is in failure mode until it is reset",
            Self::REBOOT => "the TPM needs a reboot",
            Self::NV_SPACE => "there is no room in its lasting memory",
            Self::CONTEXT_GAP => "a saved session of another program is too old",
            Self::OBJECT_MEMORY => "there is no room for another key",
            Self::SESSION_MEMORY => "there is no room for another session",
            Self::YIELDED | Self::RETRY => "the TPM is busy",
            Self::TESTING => "the TPM is testing itself",
            Self::NV_RATE => "its memory is written too often",
            Self::LOCKOUT => "it is locked out after wrong passwords",
            Self::VALUE => "a value is out of range",
            Self::HANDLE => "there is nothing of that handle",
            Self::AUTH_FAIL | Self::BAD_AUTH => "a password is set, and GTVP does not have it",
            Self::INTEGRITY => "the key was made by another TPM, or before its owner was cleared",
            _ => return None,
        })
    }
}

impl std::fmt::Display for Rc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} (TPM_RC {:#05x})", self.0),
            None => write!(f, "TPM_RC {:#05x}", self.0),
        }
    }
}
