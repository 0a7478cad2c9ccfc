//! Boot logs by hand.

#![allow(dead_code, clippy::unwrap_used, reason = "each test uses some of it; a test that cannot go on ends")]

use gtvp_appraisal::bootlog::BootLog;

/// A crypto-agile log by hand.
pub struct Builder(pub Vec<u8>);

impl Builder {
    pub fn new(algs: &[(u16, u16)]) -> Self {
        let mut data = b"Spec ID Event03\0".to_vec();
        data.extend([0, 0, 0, 0, 0, 2, 0, 2]);
        data.extend((algs.len() as u32).to_le_bytes());
        for (alg, size) in algs {
            data.extend(alg.to_le_bytes());
            data.extend(size.to_le_bytes());
        }
        data.push(0);
        let mut all = vec![0; 4];
        all.extend(3u32.to_le_bytes());
        all.extend([0; 20]);
        all.extend((data.len() as u32).to_le_bytes());
        all.extend(data);
        Self(all)
    }

    /// An entry more.
    pub fn event(mut self, pcr: u32, kind: u32, digests: &[(u16, &[u8])], data: &[u8]) -> Self {
        self.0.extend(pcr.to_le_bytes());
        self.0.extend(kind.to_le_bytes());
        self.0.extend((digests.len() as u32).to_le_bytes());
        for (alg, digest) in digests {
            self.0.extend(alg.to_le_bytes());
            self.0.extend(*digest);
        }
        self.0.extend((data.len() as u32).to_le_bytes());
        self.0.extend(data);
        self
    }

    /// Which entry is refused, and by what name.
    pub fn fault(&self) -> (usize, &'static str) {
        let e = BootLog::parse(&self.0).unwrap_err();
        (e.entry, e.reason.name())
    }
}
