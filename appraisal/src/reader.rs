//! A cursor over bytes from outside: every read is checked, nothing is allocated, the position is always known.
//!
//! TPM structures are big-endian, boot and IMA logs little-endian; both kinds of reads are here, named.

/// The bytes ended before what was to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Short {
    /// What was being read.
    pub what: &'static str,
    /// Where it starts.
    pub at: usize,
    /// How many bytes it needs.
    pub need: usize,
    /// How many there are.
    pub have: usize,
}

#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(all: &'a [u8]) -> Self {
        Self { all, at: 0 }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn rest(&self) -> &'a [u8] {
        self.all.get(self.at..).unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    #[inline]
    pub fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], Short> {
        let end = self.at.checked_add(n);
        match end.and_then(|end| self.all.get(self.at..end)) {
            Some(bytes) => {
                self.at += n;
                Ok(bytes)
            }
            None => Err(Short { what, at: self.at, need: n, have: self.rest().len() }),
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Short> {
        let have = self.rest().len();
        let short = Short { what, at: self.at, need: N, have };
        self.take(N, what)?.try_into().map_err(|_| short)
    }

    pub fn u8(&mut self, what: &'static str) -> Result<u8, Short> {
        self.array::<1>(what).map(|[b]| b)
    }

    pub fn u16_be(&mut self, what: &'static str) -> Result<u16, Short> {
        self.array(what).map(u16::from_be_bytes)
    }

    pub fn u32_be(&mut self, what: &'static str) -> Result<u32, Short> {
        self.array(what).map(u32::from_be_bytes)
    }

    pub fn u64_be(&mut self, what: &'static str) -> Result<u64, Short> {
        self.array(what).map(u64::from_be_bytes)
    }

    #[inline]
    pub fn u16_le(&mut self, what: &'static str) -> Result<u16, Short> {
        self.array(what).map(u16::from_le_bytes)
    }

    #[inline]
    pub fn u32_le(&mut self, what: &'static str) -> Result<u32, Short> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub fn u64_le(&mut self, what: &'static str) -> Result<u64, Short> {
        self.array(what).map(u64::from_le_bytes)
    }
}
