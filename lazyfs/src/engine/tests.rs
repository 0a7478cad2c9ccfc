use std::collections::BTreeMap;
use std::sync::Condvar;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gtvp_ipc::components::Layer;
use gtvp_model::component::{Entry, EntryKind, RootPath};
use gtvp_model::digest::Digest;

use super::*;
use crate::memory::GuestMemory;
use crate::ring::Layout;
use crate::ring::tests::Driver;
use crate::upstream::{Source, Unavailable};

/// Components whose answer to a missing path waits for the test.
#[derive(Default)]
struct Played {
    open: Mutex<bool>,
    changed: Condvar,
    asked: AtomicUsize,
}

impl Source for Arc<Played> {
    fn attach(&self) -> Result<Vec<Layer>, Unavailable> {
        Ok(vec![Layer { precedence: 1, manifest: Digest::of(b"base") }])
    }
    fn manifest(&self, digest: Digest) -> Result<Vec<Entry>, Unavailable> {
        let path = if digest == Digest::of(b"base") { "here" } else { "late" };
        let path = RootPath::new(path.as_bytes()).unwrap();
        let kind = EntryKind::Dir { opaque: false };
        Ok(vec![Entry { path, kind, mode: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: BTreeMap::new() }])
    }
    fn missing(&self, path: RootPath) -> Result<Vec<Layer>, Unavailable> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_all();
        let mut open = self.open.lock().unwrap();
        while !*open {
            open = self.changed.wait(open).unwrap();
        }
        let found = path.as_bytes() == b"late";
        Ok(found.then(|| Layer { precedence: 2, manifest: Digest::of(b"late") }).into_iter().collect())
    }
    fn names(&self, _: RootPath) -> Result<Vec<RootPath>, Unavailable> {
        Ok(Vec::new())
    }
    fn object(&self, _: Digest) -> Result<OwnedFd, Unavailable> {
        Err(Unavailable::NoDescriptor)
    }
    fn damaged(&self, _: Digest) -> Result<(), Unavailable> {
        Ok(())
    }
}

/// A guest whose driver is the test.
struct Guest {
    memory: Arc<GuestMemory>,
    layout: Layout,
    engine: Arc<Engine>,
    components: Arc<Played>,
    epoch: u64,
    call: Arc<OwnedFd>,
    offered: u16,
}

impl Guest {
    fn new() -> Self {
        let driver = Driver::new();
        let (memory, layout) = (Arc::new(driver.memory), driver.layout);
        let components = Arc::new(Played::default());
        let root = Arc::new(Root::default());
        let fetch = Fetch::new(root.clone(), Box::new(components.clone()), Vec::new(), Box::new(|_| ()));
        let engine = Engine::new(root, fetch, &Arc::new(Inflight::new().unwrap()));
        let call = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let call = Arc::new(call);
        let (epoch, _) = engine.queues[1].start(layout, memory.clone(), Some(call.clone()), false).unwrap();
        Self { memory, layout, engine, components, epoch, call, offered: 0 }
    }

    /// Puts a request into place `n` and has the engine begin with it.
    fn send(&mut self, n: u16, opcode: u32, node: u64, body: &[u8]) {
        let at = 0x11000 + u64::from(n) * 0x400;
        let mut bytes = vec![0; 40];
        bytes[4..8].copy_from_slice(&opcode.to_le_bytes());
        bytes[8..16].copy_from_slice(&u64::from(n).to_le_bytes());
        bytes[16..24].copy_from_slice(&node.to_le_bytes());
        bytes.extend(body);
        self.memory.write(at, &bytes).unwrap();
        self.memory.write(at + 0x200, &[0; 0x200]).unwrap();
        self.descriptor(2 * n, at, bytes.len() as u32, 1, 2 * n + 1);
        self.descriptor(2 * n + 1, at + 0x200, 0x200, 2, 0);
        self.offer(2 * n);
    }

    fn descriptor(&self, i: u16, address: u64, len: u32, flags: u16, next: u16) {
        let mut d = address.to_le_bytes().to_vec();
        d.extend(len.to_le_bytes());
        d.extend(flags.to_le_bytes());
        d.extend(next.to_le_bytes());
        self.memory.write(self.layout.descriptors + 16 * u64::from(i), &d).unwrap();
    }

    fn offer(&mut self, head: u16) {
        self.memory.store(self.layout.available + 4 + 2 * u64::from(self.offered % 8), head).unwrap();
        self.offered = self.offered.wrapping_add(1);
        self.memory.store(self.layout.available + 2, self.offered).unwrap();
        if let Ok(Ok(Some(head))) = self.engine.queues[1].take(self.epoch) {
            let _ = self.engine.begin(1, self.epoch, head);
        }
    }

    /// Waits until so many requests were answered.
    fn wait(&self, used: u16) {
        while self.layout.used_index(&self.memory).unwrap() != used {
            let mut fds = [PollFd::new(&self.call, PollFlags::IN)];
            let patience = rustix::event::Timespec { tv_sec: 30, tv_nsec: 0 };
            assert!(poll(&mut fds, Some(&patience)).unwrap() > 0, "no answer");
            rustix::io::read(&self.call, &mut [0; 8]).unwrap();
        }
    }

    /// Error and node number in the answer at place `n`.
    fn answer(&self, n: u16) -> (i32, u64) {
        let mut bytes = [0; 24];
        self.memory.read(0x11000 + u64::from(n) * 0x400 + 0x200, &mut bytes).unwrap();
        let word = |i: usize| i32::from_le_bytes(bytes[i..i + 4].try_into().unwrap());
        (word(4), u64::from_le_bytes(bytes[16..24].try_into().unwrap()))
    }

    fn wait_until_asked(&self, times: usize) {
        let open = self.components.open.lock().unwrap();
        let asked = |_: &mut bool| self.components.asked.load(Ordering::SeqCst) < times;
        let (_open, timeout) =
            self.components.changed.wait_timeout_while(open, Duration::from_secs(30), asked).unwrap();
        assert!(!timeout.timed_out());
    }

    fn let_components_answer(&self) {
        *self.components.open.lock().unwrap() = true;
        self.components.changed.notify_all();
    }
}

#[test]
fn lookups_of_one_path_ask_once_and_hold_nobody_up() {
    let mut guest = Guest::new();
    guest.send(0, 1, 1, b"late\0");
    guest.send(1, 1, 1, b"late\0");
    guest.wait_until_asked(1);
    guest.send(2, 1, 1, b"here\0");
    guest.wait(1);
    assert_eq!(guest.answer(2).0, 0, "what is here is answered meanwhile");
    guest.let_components_answer();
    guest.wait(3);
    assert!(guest.answer(0).1 > 1);
    assert_eq!(guest.answer(0), guest.answer(1));
    assert_eq!(guest.components.asked.load(Ordering::SeqCst), 1);
}

#[test]
fn what_nobody_has_is_said_once_it_is_known() {
    let mut guest = Guest::new();
    guest.let_components_answer();
    guest.send(0, 1, 1, b"nowhere\0");
    guest.wait(1);
    assert_eq!(guest.answer(0), (0, 0), "a negative entry, which the guest may keep");
    guest.send(1, 1, 1, b"nowhere\0");
    guest.wait(2);
    assert_eq!(guest.components.asked.load(Ordering::SeqCst), 1);
}

#[test]
fn an_answer_that_comes_when_the_queue_has_stopped_waits_for_its_return() {
    let mut guest = Guest::new();
    guest.send(0, 1, 1, b"late\0");
    guest.wait_until_asked(1);
    assert_eq!(guest.engine.queues[1].stop(), Some(1));
    guest.let_components_answer();
    let (memory, call) = (guest.memory.clone(), Some(guest.call.clone()));
    let (epoch, again) = guest.engine.queues[1].start(guest.layout, memory, call, false).unwrap();
    assert_eq!(again, [0]);
    assert_eq!(guest.layout.used_index(&guest.memory), Ok(0), "nothing was written while it stood");
    guest.engine.begin(1, epoch, 0).unwrap_or_else(|_| panic!("it does not run"));
    guest.wait(1);
    assert!(guest.answer(0).1 > 1);
}

#[test]
fn random_requests_from_a_hostile_guest_do_no_harm() {
    let mut x = 0x1234_5678_9abc_def1u64;
    let mut random = move |n: u64| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x % n
    };
    let mut guest = Guest::new();
    guest.let_components_answer();
    for _ in 0..3000 {
        for i in 0..8 {
            let address = [0x10000, 0x11000, 0x1fff0, 0x20000, u64::MAX - 3][random(5) as usize]
                .wrapping_add(random(64));
            let len = [0, 16, 40, 100, 4096, u32::MAX][random(6) as usize];
            guest.descriptor(i, address, len, random(8) as u16, random(10) as u16);
        }
        let body: Vec<u8> = (0..random(200)).map(|_| random(256) as u8).collect();
        guest.memory.write(0x11000, &[&(random(60) as u32).to_le_bytes()[..], &body].concat()).unwrap();
        guest.memory.write(0x11004, &(random(60) as u32).to_le_bytes()).unwrap();
        guest.memory.write(0x11010, &[1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        guest.offer(random(9) as u16);
        // Set up again, as after each harm that a guest does itself.
        guest.engine.queues[1].stop();
        guest.memory.write(0x10000, &[0; 0x300]).unwrap();
        guest.engine.queues[1].inflight_reset();
        guest.offered = 0;
        let (memory, call) = (guest.memory.clone(), Some(guest.call.clone()));
        guest.epoch = guest.engine.queues[1].start(guest.layout, memory, call, random(2) == 0).unwrap().0;
    }
    guest.send(0, 1, 1, b"here\0");
    guest.wait(1);
    assert_eq!(guest.answer(0).0, 0, "and is answered when it asks properly");
}
