//! Models of the protocol's parts, small enough for every interleaving to its end.
//!
//! The models of whole operations are in `tests/loom_table`.

mod entry;
mod trees;

use super::{Config, Handle, Null, Stage2};
use crate::arch::Pa;
use crate::memory::model::ModelMemory;
use crate::sync::{Arc, thread};

type Memory = Arc<ModelMemory>;
type Tree = Stage2<Memory, Null>;
type View<'t> = Handle<'t, Memory>;

/// A table of `levels` levels whose memory has a frame for each table that is made in all.
fn tree(levels: u32, frames: u32) -> Arc<Tree> {
    let memory = Arc::new(ModelMemory::plenty(Pa::new(0x10_0000), frames, 2));
    Arc::new(Stage2::new(Config::new(crate::arch::Geometry::tiny(levels, 1)), memory, Null).unwrap())
}

/// Runs `body` on a thread with a handle of its own.
fn spawn<R: Send + 'static>(
    tree: &Arc<Tree>,
    body: impl FnOnce(&View<'_>) -> R + Send + 'static,
) -> thread::JoinHandle<R> {
    let tree = tree.clone();
    thread::spawn(move || body(&tree.handle()))
}
