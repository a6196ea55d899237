//! Builds a table, changes it, takes it down: without std.
//!
//! If anything that is linked in needed std, there would be two panic handlers and no program. The C library stands
//! for the firmware: it gives memory for the epoch collector and a way to say how it went.

#![no_std]
#![no_main]

mod memory;

use core::alloc::{GlobalAlloc, Layout};
use core::ffi::{c_char, c_int, c_void};
use core::panic::PanicInfo;

use memory::Pool;
use s2pt::arch::{AccessKind, Attrs, Geometry, GeometryOptions, Ipa, Pa, Prot};
use s2pt::memory::TableMemory;
use s2pt::table::{Config, MapOptions, Null, Stage2};

static POOL: Pool = Pool::new();

#[link(name = "c")]
unsafe extern "C" {
    fn aligned_alloc(align: usize, size: usize) -> *mut c_void;
    fn free(block: *mut c_void);
    fn puts(text: *const c_char) -> c_int;
    fn abort() -> !;
}

struct Firmware;

#[global_allocator]
static ALLOCATOR: Firmware = Firmware;

// SAFETY: `aligned_alloc` gives blocks of at least the size asked for (rounded up to the alignment, as it demands), so
// aligned, and each is freed once by `free`.
unsafe impl GlobalAlloc for Firmware {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let align = layout.align().max(size_of::<usize>());
        // SAFETY: the alignment is a power of two and the size a multiple of it.
        unsafe { aligned_alloc(align, layout.size().next_multiple_of(align)).cast() }
    }

    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: `block` came from `alloc`, by the contract of the trait.
        unsafe { free(block.cast()) }
    }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    say(c"no_std: panicked");
    // SAFETY: ends the process; asks for nothing.
    unsafe { abort() }
}

/// `core` as it ships is built for unwinding and names this; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

fn say(text: &core::ffi::CStr) {
    // SAFETY: a C string that lives as long as the program.
    unsafe { puts(text.as_ptr()) };
}

#[unsafe(no_mangle)]
extern "C" fn main(_: c_int, _: *const *const c_char) -> c_int {
    match live() {
        Ok(()) => {
            say(c"no_std: 1 passed, 0 failed");
            0
        }
        Err(_) => 1,
    }
}

/// One block, one page of it write-protected beside the others, and everything given back.
fn live() -> Result<(), s2pt::table::Error> {
    let geometry = Geometry::new(GeometryOptions::default()).expect("4K granule, 40-bit IPA");
    let root_frames = geometry.root_frames() as usize;
    let mut table = Stage2::new(Config::new(geometry), &POOL, Null)?;
    let (block, output) = (Ipa::new(0x8000_0000), Pa::new(0x4000_0000));
    {
        let vcpu = table.handle();
        vcpu.map(block, 2 << 20, output, &Attrs::new(Prot::RW), MapOptions::FAULT)?;
        let protected = Ipa::new(block.get() + 0x5000);
        assert_eq!(vcpu.write_protect(protected, 0x1000)?.leaves, 1);
        assert!(vcpu.translate(protected, AccessKind::Write).is_err());
        let beside = vcpu
            .translate(Ipa::new(block.get() + 0x6123), AccessKind::Write)
            .expect("still writable");
        assert_eq!(beside.pa, Pa::new(output.get() + 0x6123));
        assert_eq!(vcpu.unmap(block, 2 << 20)?, 2 << 20);
        vcpu.drain();
    }
    assert_eq!(POOL.frames_in_use(), root_frames);
    table
        .exclusive()
        .map(block, 4096, output, &Attrs::new(Prot::R), MapOptions::default())?;
    drop(table);
    assert_eq!(POOL.frames_in_use(), 0);
    Ok(())
}
