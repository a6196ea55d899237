//! The VM layer: one file a subject. What is tested under every lock policy says so.

mod cancel;
mod dirty;
mod dirty_log;
mod fault;
mod memslots;
mod migrate;
mod neighbours;
mod replay;
mod slots;
mod stress;
mod support;
mod take_back;
mod tracking;
mod workload;
