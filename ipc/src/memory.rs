//! An idle process is small: few heaps, and what was only needed for a while goes back to the system.

/// Few heaps instead of one for each thread, and large buffers in mappings of their own. To be called before there are threads.
pub fn prepare() {
    const LARGE: libc::c_int = 128 * 1024;
    // SAFETY: mallopt takes two numbers and changes the allocator's own settings; no other thread exists yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        // Set once, it no longer grows by itself.
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Gives memory that nobody uses back.
pub fn settle() {
    // SAFETY: malloc_trim locks the allocator's heaps itself and touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}
