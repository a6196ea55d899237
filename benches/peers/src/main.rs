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
mod runs;
mod table;
mod text;
mod threads;

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use lineup::lineup;
use report::Document;
use runs::Runs;

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
    let rows = arguments.rows;
    let document = Runs::new(arguments.quick, arguments.runs as usize, rows, entries).document();
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
