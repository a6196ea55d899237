//! The document that the program writes, as README.md describes it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::machine::Machine;

#[derive(Debug, Serialize)]
pub struct Document {
    pub schema: u32,
    pub quick: bool,
    pub runs: usize,
    pub contestants: Vec<Contestant>,
    pub rows: Vec<Row<Outcome<Times>>>,
    pub threads: Vec<ThreadRow>,
    pub limits: BTreeMap<&'static str, Limit>,
    pub bounds: Vec<Bound>,
    pub machine: Machine,
}

#[derive(Debug, Serialize)]
pub struct Contestant {
    pub id: String,
    pub title: String,
    pub version: &'static str,
    pub own: bool,
    pub access: &'static str,
    pub lock: Option<&'static str>,
    pub inner: Option<&'static str>,
    pub levels: u32,
    pub format: &'static str,
}

#[derive(Debug, Serialize)]
pub struct Row<T> {
    pub id: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
    pub operations: u64,
    pub results: BTreeMap<String, T>,
}

#[derive(Debug, Serialize)]
pub struct ThreadRow {
    pub id: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
    pub threads: u32,
    pub results: BTreeMap<String, Outcome<Throughput>>,
}

/// Figures, or why there are none.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Outcome<T> {
    Figures(T),
    Absent { absent: &'static str },
}

/// Nanoseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Times {
    pub min: f64,
    pub median: f64,
    pub how: Option<&'static str>,
}

/// Million operations a second.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Throughput {
    pub best: f64,
    pub median: f64,
    pub alone_best: f64,
    pub alone_median: f64,
    pub ratio_best: f64,
    pub ratio_median: f64,
}

#[derive(Debug, Serialize)]
pub struct Limit {
    pub title: String,
    pub unit: &'static str,
    pub min: f64,
    pub median: f64,
}

#[derive(Debug, Serialize)]
pub struct Bound {
    pub row: &'static str,
    pub contestant: String,
    pub limit_ns: f64,
    pub chain_ns: f64,
    pub measured_ns: f64,
    pub ratio: f64,
    pub parts: Vec<BoundPart>,
    pub recipe: String,
}

#[derive(Debug, Serialize)]
pub struct BoundPart {
    pub limit: &'static str,
    pub count: f64,
    pub ns: f64,
}

/// Lowest and middle of some figures.
pub fn spread(mut figures: Vec<f64>) -> (f64, f64) {
    figures.sort_by(f64::total_cmp);
    (figures[0], figures[figures.len() / 2])
}
