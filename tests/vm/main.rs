//! The VM layer: one file a subject. What is tested under every lock policy says so.

mod cancel;
mod dirty;
mod dirty_log;
mod fault;
mod migrate;
mod replay;
mod slots;
mod stress;
mod support;
mod take_back;
mod tracking;
mod workload;
