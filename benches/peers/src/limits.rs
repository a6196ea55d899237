//! What the machine charges for the steps that table operations are made of, measured in the same run.
//!
//! Loads are a chase through a random cycle of cache lines, so that each needs the one before. Passes over entries go
//! over as many bytes as the leaf tables of one GiB have.

mod memory;
mod sync;

use std::time::Duration;

use crate::layout::{PAGE, Size};
use crate::machine::Caches;
use memory::{Buffer, Chase, Gather};

/// One limit: a name, and how to measure it once, in nanoseconds.
pub struct Limit {
    pub id: &'static str,
    pub title: String,
    pub run: Box<dyn FnMut() -> f64>,
}

/// How much work one run of a limit is.
#[derive(Clone, Copy)]
struct Effort {
    /// Steps of a loop.
    steps: u64,
    /// Most bytes of a buffer that is meant to be larger than the caches.
    memory: usize,
}

fn nanoseconds(time: Duration, steps: u64) -> f64 {
    crate::clock::per_operation(time, steps)
}

/// All of them. `tables` is the size of the leaf tables of what a row maps.
pub fn limits(caches: &Caches, size: Size, quick: bool) -> Vec<Limit> {
    let effort = if quick {
        Effort {
            steps: 1 << 12,
            memory: 4 << 20,
        }
    } else {
        Effort {
            steps: 1 << 20,
            memory: 512 << 20,
        }
    };
    let steps = effort.steps;
    let tables = (size.bytes / PAGE * 8) as usize;
    let memory = (8 * caches.l3).min(effort.memory);
    let mut all: Vec<Limit> = Vec::new();
    let mut add = |id, title: &str, run: Box<dyn FnMut() -> f64>| {
        let title = title.to_owned();
        all.push(Limit { id, title, run });
    };

    add(
        "compare_exchange",
        "compare-exchange, nobody else",
        Box::new(move || sync::compare_exchange(steps)),
    );
    add(
        "compare_exchange_contended",
        "compare-exchange that succeeds, two threads on one word",
        Box::new(move || sync::contended(steps / 4, 0)),
    );
    add(
        "compare_exchange_shared_line",
        "compare-exchange, two threads on two words of one line",
        Box::new(move || sync::contended(steps / 4, 1)),
    );
    add("epoch_pin", "epoch pin and unpin", Box::new(sync::pin(steps)));
    add("epoch_repin", "epoch repin", Box::new(sync::repin(steps)));
    add(
        "lock_parking_lot_read",
        "parking_lot RwLock, read and release",
        Box::new(sync::parking_lot_read(steps)),
    );
    add(
        "lock_parking_lot_write",
        "parking_lot RwLock, write and release",
        Box::new(sync::parking_lot_write(steps)),
    );
    add(
        "lock_std_read",
        "std RwLock, read and release",
        Box::new(sync::std_read(steps)),
    );
    add(
        "lock_std_write",
        "std RwLock, write and release",
        Box::new(sync::std_write(steps)),
    );
    for (id, title, bytes) in [
        ("load_l1", "dependent load, L1", caches.l1d / 2),
        ("load_l2", "dependent load, L2", caches.l2 / 2),
        ("load_l3", "dependent load, L3", (caches.l3 / 4).max(4 * caches.l2)),
        ("load_memory", "dependent load, memory", memory),
        ("load_tables", "dependent load, leaf tables of one GiB", tables),
    ] {
        let chase = Chase::new(bytes);
        let title = format!("{title} ({} KiB)", bytes >> 10);
        add(id, &title, Box::new(move || chase.run(steps)));
    }
    for (id, title, bytes) in [
        ("load_l1_independent", "load that needs no other, L1", caches.l1d / 2),
        (
            "load_tables_independent",
            "load that needs no other, leaf tables of one GiB",
            tables,
        ),
    ] {
        let gather = Gather::new(bytes);
        add(id, title, Box::new(move || gather.run(steps)));
    }
    for (id, title, bytes, pass) in [
        (
            "fill_tables",
            "store of one entry of eight bytes, leaf tables of one GiB",
            tables,
            Buffer::fill as fn(&mut Buffer) -> f64,
        ),
        ("fill_memory", "store of one entry, memory", memory, Buffer::fill),
        (
            "zero_tables",
            "store of zero to one entry, frame by frame, leaf tables of one GiB",
            tables,
            Buffer::zero,
        ),
        (
            "update_tables",
            "read, change and store of one entry, leaf tables of one GiB",
            tables,
            Buffer::update,
        ),
    ] {
        let mut buffer = Buffer::new(bytes);
        add(id, title, Box::new(move || pass(&mut buffer)));
    }
    all
}
