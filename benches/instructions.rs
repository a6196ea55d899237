//! One row of the budget table, once, for callgrind to count.
//!
//! `instructions --list` prints the rows as tab-separated lines; `instructions ROW` runs one. Only what happens inside
//! `measured_region` is to be counted: `valgrind --tool=callgrind --toggle-collect='*measured_region*'`. The row has
//! run once before that, so that lazily made state is there. Without callgrind, and without a row's name, all rows run
//! once: a quick proof that none of them fails.

use s2pt::bench::{Bench, GIB, Meter, ROWS, Row};

/// Runs the measured part as it is.
struct Plain;

impl Meter for Plain {
    fn measure(&mut self, body: &mut dyn FnMut()) {
        body();
    }
}

/// Runs the measured part where callgrind counts.
struct Counted;

impl Meter for Counted {
    fn measure(&mut self, body: &mut dyn FnMut()) {
        measured_region(body);
    }
}

#[inline(never)]
fn measured_region(body: &mut dyn FnMut()) {
    body();
    // Keeps the call above from becoming a jump, which callgrind would take for the end of this function.
    std::hint::black_box(());
}

fn bench() -> Bench {
    Bench::new(GIB).expect("memory for the tables")
}

fn list() {
    let bench = bench();
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    for row in ROWS {
        let budgets = [row.budget_ns, row.budget_instructions, row.kvm_ns, row.kvm_instructions].map(number);
        println!(
            "{}\t{}\t{}\t{}",
            row.id,
            row.title,
            row.operations(&bench),
            budgets.join("\t")
        );
    }
}

fn run(row: &Row) {
    let bench = bench();
    row.run(&bench, &mut Plain);
    row.run(&bench, &mut Counted);
}

fn main() {
    // `cargo bench` adds `--bench`.
    let chosen: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    match chosen.as_slice() {
        [] => {
            ROWS.iter().for_each(run);
            println!("{} rows ran", ROWS.len());
        }
        [flag] if flag == "--list" => list(),
        names => {
            for name in names {
                run(Row::named(name).unwrap_or_else(|refused| panic!("{refused}")));
            }
        }
    }
}
