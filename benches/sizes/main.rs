//! What size does: cost of each operation from 1 MiB to 16 TiB of guest memory, what tables weigh, what waits to be freed,
//! and how long a huge table takes to go, for its owner and for those beside him.
//!
//! Prints one JSON object. `sizes` measures everything (about two minutes), `sizes PART..` some of it (`cost`, `memory`,
//! `retired`, `teardown`), `--quick` all of it small: a quick proof that nothing fails, with figures of no use.
//! Guests of pages are as large as a quarter of the free memory allows for their tables.

mod cost;
mod ground;
mod memory;
mod retired;
mod teardown;

use serde_json::{Map, Value};

type Part = (&'static str, fn(bool) -> Value);

const PARTS: [Part; 4] = [
    ("cost", cost::measure),
    ("memory", memory::measure),
    ("retired", retired::measure),
    ("teardown", teardown::measure),
];

fn main() {
    // `cargo bench` adds `--bench`.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let chosen: Vec<&String> = arguments.iter().filter(|argument| *argument != "--quick").collect();
    for name in &chosen {
        assert!(PARTS.iter().any(|(part, _)| part == name), "no part is called {name}");
    }
    let mut measured = Map::new();
    for (name, measure) in PARTS {
        if chosen.is_empty() || chosen.contains(&&name.to_owned()) {
            measured.insert(name.to_owned(), measure(quick));
        }
    }
    println!("{}", Value::Object(measured));
}
