//! DDD: QEMU, disks, taps, consoles, the boxes' switch.

fn main() {}
