//! Measures s2pt, other page-table libraries and the machine side by side: `s2pt-peers --json FILE`.
//!
//! Every contestant is checked first. Then the rows are run in rounds: in each round every contestant once, so that a
//! machine that slows down meanwhile slows all of them. README.md describes what comes out.

mod bounds;
mod check;
mod clock;
mod contestants;
mod hook;
mod layout;
mod limits;
mod lineup;
mod machine;
mod pool;
mod report;
mod rows;
mod table;
mod text;
mod threads;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use bounds::Way;
use clock::per_operation;
use layout::Size;
use lineup::{Entry, lineup};
use machine::Machine;
use report::{Bound, BoundPart, Contestant, Document, Limit, Outcome, Row, ThreadRow, Throughput, Times, spread};
use rows::Plan;
use table::{Can, Op};

/// Measures s2pt beside its peers and beside what the machine allows.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// Write the document of README.md here.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How often each contestant does each row.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1001))]
    runs: u32,
    /// Tiny sizes and two runs: proves that everything works. The figures are of no use.
    #[arg(long)]
    quick: bool,
    /// Only this row; may be given several times.
    #[arg(long = "row", value_name = "ROW")]
    rows: Vec<String>,
    /// Only this contestant; may be given several times.
    #[arg(long = "contestant", value_name = "ID")]
    contestants: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut entries = lineup();
    let known_rows = || {
        let one = rows::ROWS.iter().map(|row| row.id);
        one.chain(threads::ROWS.iter().map(|row| row.id)).chain(["limits"])
    };
    for name in &arguments.rows {
        if !known_rows().any(|known| known == name) {
            return refuse(&format!(
                "no row is called {name}: {}",
                known_rows().collect::<Vec<_>>().join(", ")
            ));
        }
    }
    for name in &arguments.contestants {
        if !entries.iter().any(|entry| entry.id == *name) {
            let known: Vec<_> = entries.iter().map(|entry| &*entry.id).collect();
            return refuse(&format!("no contestant is called {name}: {}", known.join(", ")));
        }
    }
    if !arguments.contestants.is_empty() {
        entries.retain(|entry| arguments.contestants.contains(&entry.id));
    }
    keep_heap();
    let document = Runs::new(&arguments, entries).document();
    let text = document.text();
    // Who reads no further has what he wanted.
    if let Err(error) = std::io::stdout().write_all(text.as_bytes())
        && error.kind() != ErrorKind::BrokenPipe
    {
        return refuse(&format!("cannot write to stdout: {error}"));
    }
    if let Some(path) = &arguments.json
        && let Err(error) = write(&document, path)
    {
        return refuse(&format!("cannot write {}: {error}", path.display()));
    }
    ExitCode::SUCCESS
}

fn refuse(message: &str) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::from(2)
}

fn write(document: &Document, path: &PathBuf) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    serde_json::to_writer_pretty(&mut file, document)?;
    writeln!(file)?;
    file.flush()
}

/// Memory that is freed stays with the process: the map of leaves lives on the heap, and should not take page faults in
/// every run, as the tables in the pool do not.
fn keep_heap() {
    #[cfg(target_env = "gnu")]
    for (option, value) in [(libc::M_TRIM_THRESHOLD, i32::MAX), (libc::M_MMAP_MAX, 0)] {
        // SAFETY: sets an option of the allocator.
        unsafe { libc::mallopt(option, value) };
    }
}

struct Runs<'a> {
    arguments: &'a Arguments,
    entries: Vec<Entry>,
    plan: Plan,
    runs: usize,
}

impl<'a> Runs<'a> {
    fn new(arguments: &'a Arguments, entries: Vec<Entry>) -> Self {
        let size = if arguments.quick { Size::QUICK } else { Size::FULL };
        Self {
            arguments,
            entries,
            plan: Plan::new(size),
            runs: if arguments.quick { 2 } else { arguments.runs as usize },
        }
    }

    fn wanted(&self, row: &str) -> bool {
        self.arguments.rows.is_empty() || self.arguments.rows.iter().any(|wanted| wanted == row)
    }

    fn document(&self) -> Document {
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
        say("");
        let bounds = self.bounds(&rows, &limits);
        Document {
            schema: 1,
            quick: self.arguments.quick,
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
        let mut limits = limits::limits(&machine.caches, self.plan.size, self.arguments.quick);
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
                let parts: Vec<_> = bounds::recipe(op, way, entry.about.levels)
                    .into_iter()
                    .map(|(limit, count)| BoundPart {
                        limit,
                        count,
                        ns: limits[limit].min,
                    })
                    .collect();
                let limit_ns = parts.iter().map(|part| part.count * part.ns).sum();
                let recipe: Vec<_> = parts.iter().map(describe).collect();
                bounds.push(Bound {
                    row: row.id,
                    contestant: entry.id.clone(),
                    limit_ns,
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
    if !what.is_empty() {
        eprintln!("{what}");
    }
}
