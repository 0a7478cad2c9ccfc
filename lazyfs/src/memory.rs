//! Memory shared with others: the guest's, as QEMU hands it over, and small areas of our own that outlive the process.
//!
//! Every address from outside is checked against the regions before it is touched; arithmetic on it does not overflow.
//! The guest can change its memory while we look at it, so nothing here gives out references: bytes are copied in and
//! out, or read from a file straight into place. All pointers of this crate live in this file.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering, fence};

use rustix::mm::{Advice, MapFlags, ProtFlags};
use serde::{Deserialize, Serialize};

/// vhost-user's own limit without CONFIGURE_MEM_SLOTS (VHOST_MEMORY_BASELINE_NREGIONS).
pub const MAX_REGIONS: usize = 8;
/// Pages of guest memory that we have touched count as ours; after this many bytes they are let go of. They stay the guest's.
const LET_GO_AFTER: usize = 1 << 20;
/// Most buffers of one request, Linux's IOV_MAX.
const MAX_IOVECS: usize = 1024;

/// An address that is not in the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at guest address {address:#x} are not in the guest's memory")]
pub struct OutOfRange {
    address: u64,
    len: u64,
}

/// Why memory cannot be mapped.
#[derive(Debug, thiserror::Error)]
pub enum BadRegion {
    /// Sizes or addresses that do not fit, overlap, or reach past the file's end.
    #[error("a memory region is not usable: {0}")]
    Layout(&'static str),
    /// The kernel refused.
    #[error("a memory region cannot be mapped")]
    Map(#[source] io::Error),
}

/// A shared mapping of a file, unmapped at its end.
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the pointer is to a shared mapping that lives as long as the value; access goes through copies and atomics only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd` from `offset`, which the file must hold.
    pub fn new(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<Self, BadRegion> {
        let end = offset.checked_add(len).ok_or(BadRegion::Layout("it overflows"))?;
        let size = rustix::fs::fstat(fd).map_err(|e| BadRegion::Map(e.into()))?.st_size;
        if len == 0 || u64::try_from(size).unwrap_or(0) < end {
            return Err(BadRegion::Layout("its file is shorter"));
        }
        let len = usize::try_from(len).map_err(|_| BadRegion::Layout("it is too large"))?;
        // SAFETY: a new mapping at an address that the kernel chooses; nothing else refers to it.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                fd,
                offset,
            )
        }
        .map_err(|e| BadRegion::Map(e.into()))?;
        let start = NonNull::new(start.cast()).ok_or(BadRegion::Layout("it was mapped at 0"))?;
        Ok(Self { start, len })
    }

    /// A pointer to `len` bytes at `offset`, if they are inside.
    fn at(&self, offset: u64, len: u64) -> Option<*mut u8> {
        if offset.checked_add(len)? > self.len as u64 {
            return None;
        }
        // SAFETY: inside the mapping, by the check above.
        Some(unsafe { self.start.as_ptr().add(usize::try_from(offset).ok()?) })
    }

    /// The 64-bit word at `offset`; none outside or unaligned.
    pub fn word(&self, offset: u64) -> Option<&AtomicU64> {
        let p = self.at(offset, 8)?;
        // SAFETY: in bounds, aligned (checked), lives as long as self, and every other access to it is atomic too.
        (p as usize % 8 == 0).then(|| unsafe { AtomicU64::from_ptr(p.cast()) })
    }

    /// Takes our hands off the pages: they are found again in the file when they are next touched.
    fn let_go(&self) {
        // SAFETY: dropping the page table entries of a shared file mapping loses no data, and no reference into it exists.
        let _ = unsafe { rustix::mm::madvise(self.start.as_ptr().cast(), self.len, Advice::LinuxDontNeed) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; self was the only way to it.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// One region of the guest's memory, in vhost-user's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Guest-physical address.
    pub guest: u64,
    /// Bytes.
    pub size: u64,
    /// Where QEMU has it; ring addresses come in these terms.
    pub user: u64,
    /// Where it begins in its file.
    pub offset: u64,
}

/// A buffer in the guest's memory. Not checked until it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
}

/// The guest's memory.
#[derive(Default)]
pub struct GuestMemory {
    regions: Vec<(Region, Mapping)>,
    touched: AtomicUsize,
}

impl GuestMemory {
    /// Maps `regions`, whose files are `fds`.
    pub fn map<F: AsFd>(regions: &[Region], fds: &[F]) -> Result<Self, BadRegion> {
        if regions.len() != fds.len() || regions.len() > MAX_REGIONS {
            return Err(BadRegion::Layout("there are too many, or descriptors are missing"));
        }
        let mut mapped: Vec<(Region, Mapping)> = Vec::with_capacity(regions.len());
        for (region, fd) in regions.iter().zip(fds) {
            let ends = (region.guest.checked_add(region.size), region.user.checked_add(region.size));
            let (Some(guest_end), Some(_)) = ends else { return Err(BadRegion::Layout("it overflows")) };
            let overlaps =
                |other: &Region| region.guest < other.guest + other.size && other.guest < guest_end;
            if mapped.iter().any(|(other, _)| overlaps(other)) {
                return Err(BadRegion::Layout("it overlaps another"));
            }
            mapped.push((*region, Mapping::new(fd.as_fd(), region.offset, region.size)?));
        }
        Ok(Self { regions: mapped, touched: AtomicUsize::new(0) })
    }

    /// The guest-physical address of something that QEMU has at `user`.
    pub fn guest_of_user(&self, user: u64, len: u64) -> Option<u64> {
        self.regions.iter().find_map(|(r, _)| {
            let offset = user.checked_sub(r.user)?;
            (offset.checked_add(len)? <= r.size).then(|| r.guest + offset)
        })
    }

    fn locate(&self, address: u64, len: u64) -> Result<*mut u8, OutOfRange> {
        let find = |(r, m): &(Region, Mapping)| m.at(address.checked_sub(r.guest)?, len);
        self.regions.iter().find_map(find).ok_or(OutOfRange { address, len })
    }

    /// Copies from the guest.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), OutOfRange> {
        let from = self.locate(address, buffer.len() as u64)?;
        // SAFETY: `locate` gives that many mapped bytes; the buffer is ours and apart from them. The guest may write at the same
        // time, then the copy holds any mixture, which is as good as any other bytes of the guest's.
        unsafe { std::ptr::copy_nonoverlapping(from.cast_const(), buffer.as_mut_ptr(), buffer.len()) };
        Ok(())
    }

    /// Copies to the guest.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), OutOfRange> {
        let to = self.locate(address, bytes.len() as u64)?;
        // SAFETY: as in `read`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    fn half(&self, address: u64) -> Result<&AtomicU16, OutOfRange> {
        let p = self.locate(address, 2)?;
        if p as usize % 2 != 0 {
            return Err(OutOfRange { address, len: 2 });
        }
        // SAFETY: in bounds and aligned by the checks above; the mapping lives as long as self; the guest's own accesses to
        // ring indices are single loads and stores.
        Ok(unsafe { AtomicU16::from_ptr(p.cast()) })
    }

    /// Reads a ring index; what the guest wrote before it is visible afterwards.
    pub fn load(&self, address: u64) -> Result<u16, OutOfRange> {
        Ok(u16::from_le(self.half(address)?.load(Ordering::Acquire)))
    }

    /// Writes a ring index; what was written before it is visible to who sees it.
    pub fn store(&self, address: u64, value: u16) -> Result<(), OutOfRange> {
        self.half(address)?.store(value.to_le(), Ordering::Release);
        Ok(())
    }

    /// Copies up to `buffer.len()` bytes out of `segments`, front to back. Gives how many there were.
    pub fn gather(&self, segments: &[Segment], buffer: &mut [u8]) -> Result<usize, OutOfRange> {
        let mut have = 0;
        for s in segments {
            let take = (s.len as usize).min(buffer.len() - have);
            self.read(s.address, &mut buffer[have..have + take])?;
            have += take;
        }
        Ok(have)
    }

    /// Copies `bytes` into `segments`, front to back; the caller has seen that they fit.
    pub fn scatter(&self, segments: &[Segment], mut bytes: &[u8]) -> Result<(), OutOfRange> {
        for s in segments {
            let (now, later) = bytes.split_at((s.len as usize).min(bytes.len()));
            self.write(s.address, now)?;
            bytes = later;
        }
        self.touch(4096);
        Ok(())
    }

    /// Reads `len` bytes of `file` at `offset` straight into `segments` behind their first `skip` bytes. Gives how many came;
    /// fewer only at the file's end. With `no_wait` it gives `WouldBlock` where the disk would have to be asked.
    pub fn read_file(
        &self,
        segments: &[Segment],
        mut skip: usize,
        file: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        no_wait: bool,
    ) -> io::Result<usize> {
        let mut iovecs: Vec<libc::iovec> = Vec::with_capacity(segments.len().min(MAX_IOVECS));
        let mut room = len;
        for s in segments {
            let from = skip.min(s.len as usize);
            skip -= from;
            let take = (s.len as usize - from).min(room);
            if take == 0 {
                continue;
            }
            if iovecs.len() == MAX_IOVECS {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let base =
                self.locate(s.address.wrapping_add(from as u64), take as u64).map_err(io::Error::other)?;
            iovecs.push(libc::iovec { iov_base: base.cast(), iov_len: take });
            room -= take;
        }
        if room > 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut done = 0;
        let mut first = 0;
        while first < iovecs.len() {
            let at = i64::try_from(offset + done as u64).map_err(|_| io::ErrorKind::InvalidInput)?;
            let count = i32::try_from(iovecs.len() - first).map_err(|_| io::ErrorKind::InvalidInput)?;
            let flags = if no_wait { libc::RWF_NOWAIT } else { 0 };
            // SAFETY: each iovec is inside a mapping of self (`locate`), and `first..` of them are passed.
            let n = unsafe { libc::preadv2(file.as_raw_fd(), iovecs.as_ptr().add(first), count, at, flags) };
            let n = match usize::try_from(n) {
                Ok(0) => break,
                Ok(n) => n,
                Err(_) => match io::Error::last_os_error() {
                    e if e.kind() == io::ErrorKind::Interrupted => continue,
                    e => return Err(e),
                },
            };
            done += n;
            let mut left = n;
            while first < iovecs.len() && left >= iovecs[first].iov_len {
                left -= iovecs[first].iov_len;
                first += 1;
            }
            if let Some(iovec) = iovecs.get_mut(first).filter(|_| left > 0) {
                // SAFETY: `left` is less than this iovec's length, so the pointer stays inside of it.
                iovec.iov_base = unsafe { iovec.iov_base.cast::<u8>().add(left) }.cast();
                iovec.iov_len -= left;
            }
        }
        self.touch(done);
        Ok(done)
    }

    fn touch(&self, bytes: usize) {
        if self.touched.fetch_add(bytes, Ordering::Relaxed) + bytes >= LET_GO_AFTER {
            self.touched.store(0, Ordering::Relaxed);
            self.regions.iter().for_each(|(_, m)| m.let_go());
        }
    }
}

/// Orders what we wrote before against what we read next (ring flags).
pub fn full_fence() {
    fence(Ordering::SeqCst);
}

/// Keeps the heap small: threads share two arenas instead of having one each.
pub fn limit_heap() {
    // SAFETY: sets a number in the C library; called before there are other threads.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
}

/// Gives back what a large manifest left behind in the heap.
pub fn trim_heap() {
    // SAFETY: takes no pointers; safe among threads.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    /// A file of zeros.
    pub fn file(len: u64) -> OwnedFd {
        let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, len).unwrap();
        fd
    }

    /// Guest memory of `len` bytes at guest address 0x10000.
    pub fn guest(len: u64) -> GuestMemory {
        let region = Region { guest: 0x10000, size: len, user: 0x7f00_0000_0000, offset: 0 };
        GuestMemory::map(&[region], &[file(len)]).unwrap()
    }

    #[test]
    fn addresses_outside_are_refused_without_overflow() {
        let m = guest(0x2000);
        assert!(m.write(0x10000, &[1; 0x2000]).is_ok());
        for (address, len) in
            [(0xffff, 1), (0x11fff, 2), (0x12000, 1), (u64::MAX, 2), (u64::MAX - 1, 1), (0, 1)]
        {
            assert!(m.read(address, &mut vec![0; len]).is_err(), "{address:#x}+{len}");
        }
        assert!(m.load(0x10001).is_err(), "unaligned index");
        assert_eq!(m.guest_of_user(0x7f00_0000_1000, 0x1000), Some(0x11000));
        assert_eq!(m.guest_of_user(0x7f00_0000_1000, 0x1001), None);
        assert_eq!(m.guest_of_user(u64::MAX, 8), None);
    }

    #[test]
    fn regions_that_lie_are_refused() {
        let region = |guest, size, offset| Region { guest, size, user: 0, offset };
        let refused =
            |r: &[Region]| GuestMemory::map(r, &r.iter().map(|_| file(0x2000)).collect::<Vec<_>>()).is_err();
        assert!(!refused(&[region(0, 0x1000, 0), region(0x1000, 0x2000, 0)]));
        assert!(refused(&[region(0, 0x2000, 0), region(0x1000, 0x1000, 0)]), "overlap");
        assert!(refused(&[region(0, 0x2001, 0)]), "longer than its file");
        assert!(refused(&[region(0, 0x1000, 0x1800)]), "past the end of its file");
        assert!(refused(&[region(u64::MAX, 0x1000, 0)]), "overflow");
        assert!(refused(&[region(0, 0, 0)]), "empty");
    }

    #[test]
    fn a_file_is_read_into_place_behind_the_header() {
        use std::io::Write;
        let m = guest(0x2000);
        let fd = file(0);
        let content: Vec<u8> = (0..3000u32).map(|i| (i % 251) as u8).collect();
        std::fs::File::from(fd.try_clone().unwrap()).write_all(&content).unwrap();
        let segments = [
            Segment { address: 0x10000, len: 10 },
            Segment { address: 0x10100, len: 1000 },
            Segment { address: 0x11000, len: 4096 },
        ];
        let n = m.read_file(&segments, 16, fd.as_fd(), 100, 4000, false).unwrap();
        assert_eq!(n, 2900);
        let mut got = vec![0; 16 + n];
        m.gather(&segments, &mut got).unwrap();
        assert_eq!(&got[16..], &content[100..]);
        assert!(
            m.read_file(&segments, 16, fd.as_fd(), 0, 6000, false).is_err(),
            "more than the buffers hold"
        );
        let outside = [Segment { address: 0x11f00, len: 0x101 }];
        assert!(m.read_file(&outside, 0, fd.as_fd(), 0, 0x101, false).is_err());
    }
}
