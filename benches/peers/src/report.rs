//! The document that the program writes, and the tables that it prints. README.md describes the document.

use std::collections::BTreeMap;
use std::fmt::Write;

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
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

fn number(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

/// A table whose first column is text and whose others are numbers.
fn table<'h>(header: impl IntoIterator<Item = &'h str>) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

impl Document {
    /// Everything on a terminal: a line a contestant, a column a row.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        let header = |first, ids: &mut dyn Iterator<Item = &'static str>| table(std::iter::once(first).chain(ids));
        writeln!(out, "One thread: ns per page or block, best of {} runs", self.runs)?;
        let mut rows = header("contestant", &mut self.rows.iter().map(|row| row.id));
        for contestant in &self.contestants {
            let figures = self.rows.iter().map(|row| match row.results.get(&contestant.id) {
                Some(Outcome::Figures(times)) => number(times.min),
                _ => "-".to_owned(),
            });
            rows.add_row(std::iter::once(contestant.title.clone()).chain(figures));
        }
        writeln!(out, "{rows}\n")?;
        writeln!(
            out,
            "Two threads: million operations a second, median (times what a thread does alone)"
        )?;
        let mut threads = header("contestant", &mut self.threads.iter().map(|row| row.id));
        for contestant in &self.contestants {
            let figures: Vec<_> = self
                .threads
                .iter()
                .map(|row| match row.results.get(&contestant.id) {
                    Some(Outcome::Figures(figures)) => {
                        format!("{} (x{:.2})", number(figures.median), figures.ratio_median)
                    }
                    _ => "-".to_owned(),
                })
                .collect();
            if figures.iter().any(|figure| figure != "-") {
                threads.add_row(std::iter::once(contestant.title.clone()).chain(figures));
            }
        }
        writeln!(out, "{threads}\n")?;
        writeln!(out, "What the machine charges, ns")?;
        let mut limits = table(["step", "best", "median"]);
        for limit in self.limits.values() {
            limits.add_row([limit.title.clone(), number(limit.min), number(limit.median)]);
        }
        writeln!(out, "{limits}\n")?;
        writeln!(out, "s2pt and its limits, ns")?;
        let mut bounds = table(["row", "s2pt", "limit", "ratio", "contestant", "at least"]);
        for bound in &self.bounds {
            bounds.add_row([
                bound.row.to_owned(),
                number(bound.measured_ns),
                number(bound.limit_ns),
                number(bound.ratio),
                bound.contestant.clone(),
                bound.recipe.clone(),
            ]);
        }
        writeln!(out, "{bounds}")?;
        Ok(out)
    }
}
