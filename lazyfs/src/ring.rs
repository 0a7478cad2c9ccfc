//! A split virtqueue (VIRTIO 1.2 §2.7), the device's side. Everything in it is written by the guest and may lie: chains that
//! loop, tables outside of memory, heads past the end. A lie breaks this queue and nothing else.
//!
//! It knows nothing of what the buffers mean, and does not wait.

use crate::memory::{GuestMemory, OutOfRange, Segment, full_fence};

/// QEMU's own limit for a queue.
pub const MAX_SIZE: u16 = 1024;
/// Most buffers of one request: Linux sends at most 256 pages and a few headers, QEMU's limit is 1024.
const MAX_CHAIN: usize = 1024;
/// Most bytes of one request: 1 MiB of data and its headers, with room.
const MAX_BYTES: u64 = 4 << 20;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// How the guest broke a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// An address outside.
    #[error(transparent)]
    Memory(#[from] OutOfRange),
    /// A size or an address that a queue cannot have.
    #[error("its layout is not usable")]
    Layout,
    /// More new requests than the queue has places.
    #[error("its index jumps from {0} to {1}")]
    Index(u16, u16),
    /// A descriptor number past the end.
    #[error("descriptor {0} does not exist")]
    Head(u16),
    /// A head that is being worked on already.
    #[error("request {0} is made twice at once")]
    Twice(u16),
    /// A chain that is too long, or a loop.
    #[error("the chain from descriptor {0} does not end")]
    Endless(u16),
    /// A nested or odd-sized indirect table, or one that continues.
    #[error("the indirect table of descriptor {0} is malformed")]
    Indirect(u16),
    /// A buffer to be read behind one to be written.
    #[error("the chain from descriptor {0} mixes its directions")]
    Order(u16),
}

/// Where a queue is, in guest-physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Places: a power of two.
    pub size: u16,
    /// The descriptor table.
    pub descriptors: u64,
    /// The ring that the guest writes.
    pub available: u64,
    /// The ring that we write.
    pub used: u64,
}

/// The buffers of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// To be read by us.
    pub readable: Vec<Segment>,
    /// To be written by us.
    pub writable: Vec<Segment>,
}

/// A queue in use.
pub struct Ring {
    layout: Layout,
    event_index: bool,
    /// Requests taken so far.
    pub taken: u16,
    used: u16,
}

impl Layout {
    /// Bytes of the descriptor table.
    pub fn descriptor_bytes(size: u16) -> u64 {
        16 * u64::from(size)
    }

    /// Bytes of the available ring, with the event index.
    pub fn available_bytes(size: u16) -> u64 {
        6 + 2 * u64::from(size)
    }

    /// Bytes of the used ring, with the event index.
    pub fn used_bytes(size: u16) -> u64 {
        6 + 8 * u64::from(size)
    }

    /// The used index as the guest's memory has it.
    pub fn used_index(&self, memory: &GuestMemory) -> Result<u16, OutOfRange> {
        memory.load(self.used.wrapping_add(2))
    }

    /// The buffers of the request at `head`.
    pub fn chain(&self, memory: &GuestMemory, head: u16) -> Result<Chain, Broken> {
        let mut chain = Chain::default();
        let mut bytes = 0u64;
        let (mut table, mut count) = (self.descriptors, self.size);
        let mut next = head;
        let mut indirect = false;
        for _ in 0..MAX_CHAIN {
            if next >= count {
                return Err(Broken::Head(next));
            }
            let mut d = [0; 16];
            memory.read(table.wrapping_add(16 * u64::from(next)), &mut d)?;
            let address = u64::from_le_bytes([d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]);
            let len = u32::from_le_bytes([d[8], d[9], d[10], d[11]]);
            let flags = u16::from_le_bytes([d[12], d[13]]);
            if flags & INDIRECT != 0 {
                // The standard allows a chain whose last descriptor is indirect; Linux makes only chains that are one.
                if indirect || flags & NEXT != 0 || len % 16 != 0 || len == 0 {
                    return Err(Broken::Indirect(next));
                }
                count = u16::try_from(len / 16).map_err(|_| Broken::Indirect(next))?;
                (table, next, indirect) = (address, 0, true);
                continue;
            }
            bytes += u64::from(len);
            if bytes > MAX_BYTES {
                return Err(Broken::Endless(head));
            }
            if flags & WRITE != 0 {
                chain.writable.push(Segment { address, len });
            } else if chain.writable.is_empty() {
                chain.readable.push(Segment { address, len });
            } else {
                return Err(Broken::Order(head));
            }
            if flags & NEXT == 0 {
                return Ok(chain);
            }
            next = u16::from_le_bytes([d[14], d[15]]);
        }
        Err(Broken::Endless(head))
    }
}

impl Ring {
    /// A queue of which `taken` requests were taken and `used` were answered.
    pub fn new(layout: Layout, event_index: bool, taken: u16, used: u16) -> Result<Self, Broken> {
        if layout.size == 0 || layout.size > MAX_SIZE || !layout.size.is_power_of_two() {
            return Err(Broken::Layout);
        }
        Ok(Self { layout, event_index, taken, used })
    }

    /// Where it is.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Takes the next request's head, if there is one.
    pub fn take(&mut self, memory: &GuestMemory) -> Result<Option<u16>, Broken> {
        let l = &self.layout;
        let index = memory.load(l.available.wrapping_add(2))?;
        let new = index.wrapping_sub(self.taken);
        if new == 0 {
            return Ok(None);
        }
        if new > l.size {
            return Err(Broken::Index(self.taken, index));
        }
        let place = u64::from(self.taken % l.size);
        let head = memory.load(l.available.wrapping_add(4 + 2 * place))?;
        if head >= l.size {
            return Err(Broken::Head(head));
        }
        self.taken = self.taken.wrapping_add(1);
        Ok(Some(head))
    }

    /// Asks the guest not to kick while we look anyway.
    pub fn quiet(&self, memory: &GuestMemory) -> Result<(), Broken> {
        if !self.event_index {
            memory.store(self.layout.used, 1)?;
        }
        Ok(())
    }

    /// Asks the guest to kick for the next request. True when one has come meanwhile.
    pub fn listen(&self, memory: &GuestMemory) -> Result<bool, Broken> {
        let l = &self.layout;
        if self.event_index {
            memory.store(l.used.wrapping_add(4 + 8 * u64::from(l.size)), self.taken)?;
        } else {
            memory.store(l.used, 0)?;
        }
        full_fence();
        Ok(memory.load(l.available.wrapping_add(2))? != self.taken)
    }

    /// Writes the answer's place, not yet seen by the guest; [`Ring::publish`] shows it.
    pub fn stage(&self, memory: &GuestMemory, head: u16, written: u32) -> Result<(), Broken> {
        let l = &self.layout;
        let mut element = [0; 8];
        element[..4].copy_from_slice(&u32::from(head).to_le_bytes());
        element[4..].copy_from_slice(&written.to_le_bytes());
        memory.write(l.used.wrapping_add(4 + 8 * u64::from(self.used % l.size)), &element)?;
        Ok(())
    }

    /// Shows the staged answer to the guest. Gives the new used index.
    pub fn publish(&mut self, memory: &GuestMemory) -> Result<u16, Broken> {
        self.used = self.used.wrapping_add(1);
        memory.store(self.layout.used.wrapping_add(2), self.used)?;
        Ok(self.used)
    }

    /// Whether the guest wants to be called for the answer published last.
    pub fn wants_call(&self, memory: &GuestMemory) -> Result<bool, Broken> {
        full_fence();
        let l = &self.layout;
        if self.event_index {
            let event = memory.load(l.available.wrapping_add(4 + 2 * u64::from(l.size)))?;
            // VIRTIO 1.2 §2.7.10: one answer was added since the last look.
            return Ok(self.used.wrapping_sub(event).wrapping_sub(1) < 1);
        }
        Ok(memory.load(l.available)? & 1 == 0)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::memory::tests::guest;

    /// A queue of 8 places at the beginning of [`guest`] memory, as a driver writes it.
    pub struct Driver {
        /// The memory.
        pub memory: GuestMemory,
        /// Where the queue is.
        pub layout: Layout,
        next: u16,
    }

    impl Driver {
        /// An empty queue.
        pub fn new() -> Self {
            let layout = Layout { size: 8, descriptors: 0x10000, available: 0x10100, used: 0x10200 };
            Self { memory: guest(0x10000), layout, next: 0 }
        }

        /// Writes descriptor `i` of `table`.
        pub fn descriptor(&self, table: u64, i: u16, address: u64, len: u32, flags: u16, next: u16) {
            let mut d = address.to_le_bytes().to_vec();
            d.extend(len.to_le_bytes());
            d.extend(flags.to_le_bytes());
            d.extend(next.to_le_bytes());
            self.memory.write(table + 16 * u64::from(i), &d).unwrap();
        }

        /// Makes `head` available.
        pub fn offer(&mut self, head: u16) {
            self.memory.store(0x10104 + 2 * u64::from(self.next % 8), head).unwrap();
            self.next = self.next.wrapping_add(1);
            self.memory.store(0x10102, self.next).unwrap();
        }
    }

    #[test]
    fn a_request_is_taken_and_answered() {
        let mut d = Driver::new();
        d.descriptor(0x10000, 2, 0x11000, 40, NEXT, 5);
        d.descriptor(0x10000, 5, 0x12000, 80, WRITE, 0);
        d.offer(2);
        let mut ring = Ring::new(d.layout, false, 0, 0).unwrap();
        assert_eq!(ring.take(&d.memory), Ok(Some(2)));
        assert_eq!(ring.take(&d.memory), Ok(None));
        let chain = d.layout.chain(&d.memory, 2).unwrap();
        assert_eq!(chain.readable, [Segment { address: 0x11000, len: 40 }]);
        assert_eq!(chain.writable, [Segment { address: 0x12000, len: 80 }]);
        ring.stage(&d.memory, 2, 80).unwrap();
        assert_eq!(d.layout.used_index(&d.memory), Ok(0), "staged is not published");
        assert_eq!(ring.publish(&d.memory), Ok(1));
        assert_eq!(ring.wants_call(&d.memory), Ok(true));
        d.memory.store(0x10100, 1).unwrap();
        assert_eq!(ring.wants_call(&d.memory), Ok(false));
    }

    #[test]
    fn event_indices_say_when_to_kick_and_to_call() {
        let mut d = Driver::new();
        let mut ring = Ring::new(d.layout, true, 0, 0).unwrap();
        assert_eq!(ring.listen(&d.memory), Ok(false));
        d.offer(0);
        assert_eq!(ring.listen(&d.memory), Ok(true));
        d.memory.store(0x10104 + 16, 1).unwrap(); // call me for the second answer
        ring.publish(&d.memory).unwrap();
        assert_eq!(ring.wants_call(&d.memory), Ok(false));
        ring.publish(&d.memory).unwrap();
        assert_eq!(ring.wants_call(&d.memory), Ok(true));
    }

    #[test]
    fn an_indirect_table_is_followed() {
        let d = Driver::new();
        d.descriptor(0x10000, 0, 0x13000, 32, INDIRECT, 0);
        d.descriptor(0x13000, 0, 0x11000, 40, NEXT, 1);
        d.descriptor(0x13000, 1, 0x12000, 80, WRITE, 0);
        let chain = d.layout.chain(&d.memory, 0).unwrap();
        assert_eq!((chain.readable.len(), chain.writable.len()), (1, 1));
    }

    #[test]
    fn hostile_chains_break_the_queue_and_nothing_else() {
        let d = Driver::new();
        let t = 0x10000;
        let chain = |head| d.layout.chain(&d.memory, head);
        d.descriptor(t, 0, 0x11000, 16, NEXT, 0);
        assert_eq!(chain(0), Err(Broken::Endless(0)), "a loop of one");
        d.descriptor(t, 0, 0x11000, 0, NEXT, 1);
        d.descriptor(t, 1, 0x11000, 0, NEXT, 0);
        assert_eq!(chain(0), Err(Broken::Endless(0)), "an empty loop of two");
        d.descriptor(t, 0, 0x11000, 16, NEXT, 8);
        assert_eq!(chain(0), Err(Broken::Head(8)), "past the table");
        assert_eq!(chain(9), Err(Broken::Head(9)));
        d.descriptor(t, 0, 0x11000, 16, NEXT | WRITE, 1);
        d.descriptor(t, 1, 0x11000, 16, 0, 0);
        assert_eq!(chain(0), Err(Broken::Order(0)), "read behind write");
        d.descriptor(t, 0, 0x11000, u32::MAX, 0, 0);
        assert_eq!(chain(0), Err(Broken::Endless(0)), "4 GiB");
        for (len, flags) in [(0, INDIRECT), (24, INDIRECT), (16, INDIRECT | NEXT), (0xffff_fff0, INDIRECT)] {
            d.descriptor(t, 0, 0x13000, len, flags, 1);
            assert_eq!(chain(0), Err(Broken::Indirect(0)), "{len} {flags}");
        }
        d.descriptor(t, 0, 0x13000, 16, INDIRECT, 0);
        d.descriptor(0x13000, 0, 0x13000, 16, INDIRECT, 0);
        assert_eq!(chain(0), Err(Broken::Indirect(0)), "nested");
        d.descriptor(t, 0, u64::MAX - 8, 1600, INDIRECT, 0);
        assert!(matches!(chain(0), Err(Broken::Memory(_))), "a table outside");
        let lost = Layout { descriptors: u64::MAX - 4, ..d.layout };
        assert!(matches!(lost.chain(&d.memory, 1), Err(Broken::Memory(_))), "a wrapping table");
    }

    #[test]
    fn hostile_rings_break() {
        let mut d = Driver::new();
        let mut ring = Ring::new(d.layout, false, 0, 0).unwrap();
        d.memory.store(0x10102, 9).unwrap();
        assert_eq!(ring.take(&d.memory), Err(Broken::Index(0, 9)), "more requests than places");
        d.offer(8);
        assert_eq!(ring.take(&d.memory), Err(Broken::Head(8)));
        for size in [0, 3, 2048] {
            assert!(Ring::new(Layout { size, ..d.layout }, false, 0, 0).is_err(), "{size} places");
        }
        let outside = Layout { available: u64::MAX - 1, used: u64::MAX - 1, ..d.layout };
        let mut ring = Ring::new(outside, true, 0, 0).unwrap();
        assert!(
            ring.take(&d.memory).is_err()
                && ring.listen(&d.memory).is_err()
                && ring.publish(&d.memory).is_err()
        );
    }
}
