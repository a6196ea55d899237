//! A schedule that failed, once more.

use super::*;
use shuttle::FailurePersistence;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs `scenario` in one schedule: the text that a failure prints, or a file that holds it.
pub fn replay(scenario: fn(), schedule: &str) {
    let text = if Path::new(schedule).is_file() {
        std::fs::read_to_string(schedule).unwrap()
    } else {
        schedule.to_owned()
    };
    run(ReplayScheduler::new_from_encoded(text.trim()), scenario);
}

/// Wrong on purpose: what it saw empty need not be empty when it maps.
fn looks_before_it_maps() {
    let memory = Arc::new(ModelMemory::new(Pa::new(0x100_0000), 8, ENTRIES as usize));
    let table = Arc::new(Stage2::new(Config::new(Geometry::tiny(2, 2)), memory, Null).unwrap());
    let maps = |table: &Stage2<Memory, Null>, pa| {
        let view = table.handle();
        if view.lookup(Ipa::new(0)).unwrap().pte.is_empty() {
            let options = MapOptions::FAULT;
            let mapped = view.map(Ipa::new(0), PAGE, Pa::new(pa), &Attrs::new(Prot::R), options);
            assert!(mapped.is_ok(), "the page at {pa:#x} came too late");
        }
    };
    let peer = table.clone();
    let peer = thread::spawn(move || maps(&peer, 0x10_0000));
    maps(&table, 0x20_0000);
    peer.join().unwrap();
}

fn failure(run: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(run)).expect_err("the scenario is wrong, and some schedule shows it");
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => (*other.downcast::<&'static str>().expect("a panic has a text")).to_owned(),
    }
}

/// Random schedules of that until one fails: what it said, and how many there were.
fn first_failure(seed: u64, persistence: FailurePersistence) -> (String, usize) {
    let mut config = shuttle::Config::new();
    config.failure_persistence = persistence;
    config.silence_warnings = true;
    let runner = shuttle::Runner::new(RandomScheduler::new_from_seed(seed, 10_000), config);
    let schedules = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = schedules.clone();
    let said = failure(|| {
        runner.run(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            looks_before_it_maps();
        });
    });
    (said, schedules.load(Ordering::Relaxed))
}

/// Set in the process of a test that has one of its own.
const ALONE: &str = "S2PT_SHUTTLE_ALONE";

/// The calling test once more in a process of its own; false: this is the one. Where schedules are put, shuttle heeds what the
/// first runner of a process says, and `cargo test` runs all tests in one.
fn runs_elsewhere(test: &str) -> bool {
    if variable(ALONE).is_some() {
        return false;
    }
    let program = std::env::current_exe().unwrap();
    let run = std::process::Command::new(program)
        .args(["--exact", test])
        .env(ALONE, "1")
        .output();
    let output = run.unwrap();
    let (said, told) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success() && said.contains("1 passed"), "{said}{told}");
    true
}

#[test]
fn a_failed_schedule_fails_again_in_the_same_way() {
    if runs_elsewhere("replay::a_failed_schedule_fails_again_in_the_same_way") {
        return;
    }
    let folder = std::env::temp_dir().join(format!("s2pt-shuttle-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (first, _) = first_failure(1, FailurePersistence::File(Some(folder.clone())));
    let schedule = std::fs::read_dir(&folder).unwrap().next().expect("a schedule");
    let file = schedule.unwrap().path();
    let from_file = failure(|| replay(looks_before_it_maps, file.to_str().unwrap()));
    let text = std::fs::read_to_string(&file).unwrap();
    let from_text = failure(|| replay(looks_before_it_maps, &text));
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(first.contains("came too late"), "{first}");
    assert_eq!((&from_file, &from_text), (&first, &first));
}

#[test]
fn a_seed_gives_the_same_schedules() {
    let once = || first_failure(7, FailurePersistence::None);
    assert_eq!(once(), once());
}
