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

unsafe extern "C" {
    /// Where the program begins and where its code ends, as the linker has it (ld(1)).
    static __executable_start: u8;
    static etext: u8;
}

/// [`settle`], and lets go of the program's own pages: of what has been read, most was needed once and is not soon again. A page
/// that is used comes back from the system's cache of files. To be called when what comes next is waiting.
pub fn let_go() {
    const PAGE: usize = 4096;
    settle();
    let (from, to) = ((&raw const __executable_start).addr(), (&raw const etext).addr());
    // SAFETY: from the first page of the program's file to the last of its code everything is mapped for reading from that
    // file and has never been written: what is dropped is read again, the same, when it is used.
    unsafe {
        libc::madvise(
            std::ptr::with_exposed_provenance_mut(from),
            (to - from) / PAGE * PAGE,
            libc::MADV_DONTNEED,
        );
    }
}
