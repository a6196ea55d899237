//! The tables that the program prints.

use std::fmt::Write;

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};

use crate::report::{Contestant, Document, Outcome};

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

/// The best figure of a row, and whose it is.
type Best<'d> = Option<(f64, &'d str)>;

/// Ours, the best other one and who that is, and the first divided by the second.
fn pair(ours: Best<'_>, other: Best<'_>) -> [String; 4] {
    let figure = |best: Best<'_>| best.map_or_else(|| "-".to_owned(), |(figure, _)| number(figure));
    let ratio = ours.zip(other).map(|((ours, _), (other, _))| (ours / other, ""));
    let name = other.map_or("", |(_, id)| id);
    [figure(ours), figure(other), name.to_owned(), figure(ratio)]
}

fn exclusive(own: bool) -> impl Fn(&Contestant) -> bool {
    move |one| one.own == own && one.access == "exclusive"
}

fn shared(one: &Contestant) -> bool {
    one.own && one.access == "shared" && one.lock.is_none()
}

fn locked_peer(one: &Contestant) -> bool {
    !one.own && one.lock.is_some()
}

impl Document {
    /// Everything that was measured, as tables for a terminal.
    pub fn text(&self) -> String {
        let sections = [
            (
                format!("One thread: ns per page or block, best of {} runs", self.runs),
                self.one_thread(),
            ),
            (
                "s2pt beside the best peer, ns: below 1 s2pt is faster".to_owned(),
                self.beside_peers(),
            ),
            (
                "Two threads: million operations a second, median (times what a thread does alone)".to_owned(),
                self.two_threads(),
            ),
            (
                "s2pt beside the best locked peer, million operations a second: above 1 s2pt is faster".to_owned(),
                self.beside_locked_peers(),
            ),
            ("What the machine charges, ns".to_owned(), self.machine_charges()),
            ("s2pt and its limits, ns".to_owned(), self.beside_limits()),
        ];
        let mut out = String::new();
        for (title, table) in sections {
            if table.row_count() > 0 {
                writeln!(out, "{title}\n{table}\n").expect("a string takes any text");
            }
        }
        out
    }

    /// A line a contestant, a column a row.
    fn one_thread(&self) -> Table {
        let mut lines = table(std::iter::once("contestant").chain(self.rows.iter().map(|row| row.id)));
        for contestant in &self.contestants {
            let figures: Vec<_> = self
                .rows
                .iter()
                .map(|row| match row.results.get(&contestant.id) {
                    Some(Outcome::Figures(times)) => number(times.min),
                    _ => "-".to_owned(),
                })
                .collect();
            if !figures.is_empty() {
                lines.add_row(std::iter::once(contestant.title.clone()).chain(figures));
            }
        }
        lines
    }

    fn two_threads(&self) -> Table {
        let mut lines = table(std::iter::once("contestant").chain(self.threads.iter().map(|row| row.id)));
        for contestant in &self.contestants {
            let figures: Vec<_> = self
                .threads
                .iter()
                .filter_map(|row| match row.results.get(&contestant.id) {
                    Some(Outcome::Figures(found)) => {
                        Some(format!("{} (x{:.2})", number(found.median), found.ratio_median))
                    }
                    _ => None,
                })
                .collect();
            if !figures.is_empty() {
                lines.add_row(std::iter::once(contestant.title.clone()).chain(figures));
            }
        }
        lines
    }

    /// Alone beside who is alone, shared beside who stands behind a lock.
    fn beside_peers(&self) -> Table {
        let mut lines = table([
            "row",
            "exclusive",
            "best peer",
            "",
            "ratio",
            "shared",
            "best locked peer",
            "",
            "ratio",
        ]);
        for row in &self.rows {
            let best = |wanted: &dyn Fn(&Contestant) -> bool| {
                let figures = self.contestants.iter().filter(|contestant| wanted(contestant));
                figures
                    .filter_map(|contestant| match row.results.get(&contestant.id) {
                        Some(Outcome::Figures(times)) => Some((times.min, &*contestant.id)),
                        _ => None,
                    })
                    .min_by(|one, other| one.0.total_cmp(&other.0))
            };
            let alone = pair(best(&exclusive(true)), best(&exclusive(false)));
            let together = pair(best(&shared), best(&locked_peer));
            lines.add_row(std::iter::once(row.id.to_owned()).chain(alone).chain(together));
        }
        lines
    }

    fn beside_locked_peers(&self) -> Table {
        let mut lines = table(["row", "shared", "best locked peer", "", "ratio"]);
        for row in &self.threads {
            let best = |wanted: &dyn Fn(&Contestant) -> bool| {
                let figures = self.contestants.iter().filter(|contestant| wanted(contestant));
                figures
                    .filter_map(|contestant| match row.results.get(&contestant.id) {
                        Some(Outcome::Figures(found)) => Some((found.median, &*contestant.id)),
                        _ => None,
                    })
                    .max_by(|one, other| one.0.total_cmp(&other.0))
            };
            let cells = pair(best(&shared), best(&locked_peer));
            lines.add_row(std::iter::once(row.id.to_owned()).chain(cells));
        }
        lines
    }

    fn machine_charges(&self) -> Table {
        let mut lines = table(["step", "best", "median"]);
        for limit in self.limits.values() {
            lines.add_row([limit.title.clone(), number(limit.min), number(limit.median)]);
        }
        lines
    }

    fn beside_limits(&self) -> Table {
        let mut lines = table(["row", "s2pt", "limit", "ratio", "as a chain", "contestant", "at least"]);
        for bound in &self.bounds {
            lines.add_row([
                bound.row.to_owned(),
                number(bound.measured_ns),
                number(bound.limit_ns),
                number(bound.ratio),
                number(bound.chain_ns),
                bound.contestant.clone(),
                bound.recipe.clone(),
            ]);
        }
        lines
    }
}
