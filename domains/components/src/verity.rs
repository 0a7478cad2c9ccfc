//! `FS_IOC_ENABLE_VERITY`: where the file system has fs-verity, the kernel itself refuses changed contents from then on.

use std::fs::File;

use rustix::ioctl;

/// `struct fsverity_enable_arg` (include/uapi/linux/fsverity.h).
#[repr(C)]
#[derive(Default)]
struct EnableArg {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt_ptr: u64,
    sig_size: u32,
    reserved1: u32,
    sig_ptr: u64,
    reserved2: [u64; 11],
}

const FS_IOC_ENABLE_VERITY: ioctl::Opcode = ioctl::opcode::write::<EnableArg>(b'f', 133);

/// Enables it with SHA-256 and 4096-byte blocks, the digest that names contents here; false where there is none. A file
/// that has it already is fine.
pub fn enable(file: &File) -> bool {
    let arg = EnableArg { version: 1, hash_algorithm: 1, block_size: 4096, ..EnableArg::default() };
    // SAFETY: the opcode takes a pointer to this structure, which lives for the call and is only read by the kernel.
    let done = unsafe { ioctl::ioctl(file, ioctl::Setter::<{ FS_IOC_ENABLE_VERITY }, EnableArg>::new(arg)) };
    matches!(done, Ok(()) | Err(rustix::io::Errno::EXIST))
}
