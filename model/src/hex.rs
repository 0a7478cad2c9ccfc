//! Bytes as hexadecimal digits.

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

/// Two lower-case digits a byte.
pub fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// From either case; `None` for anything else.
pub fn unhex(text: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    HEXLOWER_PERMISSIVE.decode(text.as_ref()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_read_strictly() {
        assert_eq!(unhex("00fFa1"), Some(vec![0, 255, 0xa1]));
        for bad in ["0", "0g", "+1", "0x", "é"] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
    }
}
