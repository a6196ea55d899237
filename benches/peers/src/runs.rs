//! The runs: checks, rounds of every row, limits, and what comes out of them.

use std::collections::BTreeMap;

use crate::bounds::{self, Way};
use crate::clock::per_operation;
use crate::layout::Size;
use crate::lineup::Entry;
use crate::machine::Machine;
use crate::report::{
    Bound, BoundPart, Contestant, Document, Limit, Outcome, Row, ThreadRow, Throughput, Times, spread,
};
use crate::rows::{self, Plan};
use crate::table::{Can, Op};
use crate::{limits, threads};

/// One run of the program.
pub struct Runs {
    quick: bool,
    /// How often each contestant does each row.
    runs: usize,
    /// Rows that are wanted; all if there are none.
    only: Vec<String>,
    entries: Vec<Entry>,
    plan: Plan,
}

impl Runs {
    pub fn new(quick: bool, runs: usize, only: Vec<String>, entries: Vec<Entry>) -> Self {
        Self {
            quick,
            runs: if quick { 2 } else { runs },
            only,
            entries,
            plan: Plan::new(if quick { Size::QUICK } else { Size::FULL }),
        }
    }

    fn wanted(&self, row: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == row)
    }

    /// Checks every contestant, runs every row.
    pub fn document(&self) -> Document {
        let machine = Machine::this();
        for entry in &self.entries {
            say(&format!("checking {}", entry.id));
            (entry.check)(Size::QUICK);
        }
        let rows: Vec<_> = rows::ROWS
            .iter()
            .filter(|row| self.wanted(row.id))
            .map(|row| self.row(row))
            .collect();
        let threads = threads::ROWS
            .iter()
            .filter(|row| self.wanted(row.id))
            .map(|row| self.thread_row(row))
            .collect();
        let limits = if self.wanted("limits") {
            self.limits(&machine)
        } else {
            BTreeMap::new()
        };
        let bounds = self.bounds(&rows, &limits);
        Document {
            schema: 1,
            quick: self.quick,
            runs: self.runs,
            contestants: self.entries.iter().map(contestant).collect(),
            rows,
            threads,
            limits,
            bounds,
            machine,
        }
    }

    fn row(&self, row: &rows::Row) -> Row<Outcome<Times>> {
        say(&format!("measuring {}", row.id));
        let operations = (row.operations)(self.plan.size);
        let able: Vec<_> = self
            .entries
            .iter()
            .filter(|entry| !matches!((entry.can)(row.op), Can::Not(_)))
            .map(|entry| (entry, (entry.run)(row.op)))
            .collect();
        let mut figures = vec![Vec::with_capacity(self.runs); able.len()];
        // The round before the first one warms up.
        for round in 0..=self.runs {
            for ((_, run), figures) in able.iter().zip(&mut figures) {
                let time = run(&self.plan);
                if round > 0 {
                    figures.push(per_operation(time, operations));
                }
            }
        }
        let mut results: BTreeMap<_, _> = able
            .iter()
            .zip(figures)
            .map(|((entry, _), figures)| {
                let (min, median) = spread(figures);
                let how = match (entry.can)(row.op) {
                    Can::By(how) => Some(how),
                    _ => None,
                };
                (entry.id.clone(), Outcome::Figures(Times { min, median, how }))
            })
            .collect();
        for entry in &self.entries {
            if let Can::Not(absent) = (entry.can)(row.op) {
                results.insert(entry.id.clone(), Outcome::Absent { absent });
            }
        }
        Row {
            id: row.id,
            title: row.title,
            unit: row.unit,
            operations,
            results,
        }
    }

    fn thread_row(&self, row: &threads::Row) -> ThreadRow {
        say(&format!("measuring {}", row.id));
        let able: Vec<_> = self
            .entries
            .iter()
            .filter_map(|entry| Some((entry, entry.together?(row.what))))
            .collect();
        let mut rounds = vec![Vec::with_capacity(self.runs); able.len()];
        for round in 0..=self.runs {
            for ((_, run), rounds) in able.iter().zip(&mut rounds) {
                let figures = run(&self.plan);
                if round > 0 {
                    rounds.push(figures);
                }
            }
        }
        let mut results: BTreeMap<_, _> = able
            .iter()
            .zip(rounds)
            .map(|((entry, _), rounds)| (entry.id.clone(), Outcome::Figures(throughput(&rounds))))
            .collect();
        for entry in self.entries.iter().filter(|entry| entry.together.is_none()) {
            let absent = "one user: it has no shared access";
            results.insert(entry.id.clone(), Outcome::Absent { absent });
        }
        ThreadRow {
            id: row.id,
            title: row.title,
            unit: "million/s",
            threads: 2,
            results,
        }
    }

    fn limits(&self, machine: &Machine) -> BTreeMap<&'static str, Limit> {
        say("measuring limits");
        let mut limits = limits::limits(&machine.caches, self.plan.size, self.quick);
        let mut figures = vec![Vec::with_capacity(self.runs); limits.len()];
        for round in 0..=self.runs {
            for (limit, figures) in limits.iter_mut().zip(&mut figures) {
                let figure = (limit.run)();
                if round > 0 {
                    figures.push(figure);
                }
            }
        }
        let limit = |(limit, figures): (limits::Limit, Vec<f64>)| {
            let (min, median) = spread(figures);
            let (title, unit) = (limit.title, "ns");
            let limit_of = Limit {
                title,
                unit,
                min,
                median,
            };
            (limit.id, limit_of)
        };
        limits.into_iter().zip(figures).map(limit).collect()
    }

    /// s2pt's rows beside what they need at least.
    fn bounds(&self, rows: &[Row<Outcome<Times>>], limits: &BTreeMap<&'static str, Limit>) -> Vec<Bound> {
        if limits.is_empty() {
            return Vec::new();
        }
        let mut bounds = Vec::new();
        for row in rows {
            let op = op_of(row.id);
            for entry in self
                .entries
                .iter()
                .filter(|entry| entry.about.own && entry.lock.is_none())
            {
                let Some(Outcome::Figures(times)) = row.results.get(&entry.id) else {
                    continue;
                };
                let way = match entry.id.split('_').nth(1) {
                    Some("shared") => Way::Shared,
                    Some("batch") => Way::Batch,
                    _ => Way::Exclusive,
                };
                let chain = bounds::recipe(op, way, entry.about.levels);
                let chain_ns = chain.iter().map(|&(limit, count)| count * limits[limit].min).sum();
                let parts: Vec<_> = chain
                    .into_iter()
                    .map(|(limit, count)| {
                        let limit = bounds::overlapped(limit);
                        let ns = limits[limit].min;
                        BoundPart { limit, count, ns }
                    })
                    .collect();
                let limit_ns = parts.iter().map(|part| part.count * part.ns).sum();
                let recipe: Vec<_> = parts.iter().map(describe).collect();
                bounds.push(Bound {
                    row: row.id,
                    contestant: entry.id.clone(),
                    limit_ns,
                    chain_ns,
                    measured_ns: times.min,
                    ratio: times.min / limit_ns,
                    recipe: recipe.join(" + "),
                    parts,
                });
            }
        }
        bounds
    }
}

fn op_of(row: &str) -> Op {
    let found = rows::ROWS.iter().find(|known| known.id == row);
    found.expect("a row of the table").op
}

fn describe(part: &BoundPart) -> String {
    if part.count < 1.0 {
        format!("{}/{:.0}", part.limit, 1.0 / part.count)
    } else {
        format!("{:.0} {}", part.count, part.limit)
    }
}

fn contestant(entry: &Entry) -> Contestant {
    let about = entry.about;
    Contestant {
        id: entry.id.clone(),
        title: entry.title.clone(),
        version: about.version,
        own: about.own,
        access: if entry.together.is_some() {
            "shared"
        } else {
            "exclusive"
        },
        lock: entry.lock,
        inner: entry.lock.map(|_| about.id),
        levels: about.levels,
        format: about.format,
    }
}

fn throughput(rounds: &[threads::Round]) -> Throughput {
    const MILLION: f64 = 1e6;
    let best_and_median = |figure: fn(&threads::Round) -> f64| {
        let (lowest, median) = spread(rounds.iter().map(|round| -figure(round)).collect());
        (-lowest / MILLION, -median / MILLION)
    };
    let (best, median) = best_and_median(|round| round.together);
    let (alone_best, alone_median) = best_and_median(|round| round.alone);
    Throughput {
        best,
        median,
        alone_best,
        alone_median,
        ratio_best: best / alone_best,
        ratio_median: median / alone_median,
    }
}

/// Progress, for who waits.
fn say(what: &str) {
    eprintln!("{what}");
}
