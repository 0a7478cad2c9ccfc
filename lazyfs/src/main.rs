//! A box's file-system server: the union of its composition over virtio-fs.

fn main() {}
