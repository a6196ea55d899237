//! What the threads do, on tables of both semantics, two depths, and with memory that is short.

use super::common::Ledger;
use super::owned::Owned;
use super::*;

#[derive(Clone, Copy)]
struct Scenario {
    levels: u32,
    semantics: Semantics,
    threads: u64,
    frames: u32,
    /// Requests for frames are refused now and then, and there are few.
    short_of_memory: bool,
}

const STEPS: usize = 8;

/// Where things are: in the first block the pages of all owners, one beside the other; then each owner's own block; the
/// rest is common.
fn common_start(threads: u64) -> u64 {
    BLOCK * (1 + threads)
}

/// Pages that are common: in the deeper tables they reach into a second table above.
fn common_pages(scenario: Scenario) -> u64 {
    let end = PAGE * ENTRIES.pow(scenario.levels);
    ((end - common_start(scenario.threads)) / PAGE).min(3 * ENTRIES)
}

/// One operation that changes no translation, anywhere.
fn meddle(view: &View<'_>, scenario: Scenario) {
    let limit = common_start(scenario.threads) + PAGE * common_pages(scenario);
    let span = one_of(&[PAGE, 2 * PAGE, BLOCK, 2 * BLOCK]);
    let ipa = Ipa::new(pick(limit / span) * span);
    let short = |result: Result<_, _>| match result {
        Ok(_) => {}
        Err(Error::OutOfFrames { .. }) if scenario.short_of_memory => {}
        Err(error) => panic!("{error}"),
    };
    match pick(8) {
        0 | 1 => short(view.split(ipa, span, one_of(&[Level::L2, Level::L3]))),
        2 | 3 => short(view.collapse(ipa, span)),
        4 => drop(view.test_and_clear_young(ipa, span, true).unwrap()),
        5 => match view.mark_young(ipa, span) {
            Ok(_) | Err(Error::NotMapped { .. } | Error::Again { .. }) => {}
            Err(error) => panic!("{error}"),
        },
        6 => drop(view.leaves(ipa, span).unwrap().count()),
        _ => drop(view.stay().translate(ipa, AccessKind::Read)),
    }
}

fn work(table: &Stage2<Memory, Null>, thread: u64, scenario: Scenario) -> (Vec<Owned>, Ledger) {
    let kvm = scenario.semantics.is_kvm();
    let cache = FrameCache::new(table.memory(), 2);
    let plain = table.handle();
    let cached = table.handle().with_frame_cache(&cache);
    let mut owned = [Owned::new(thread * PAGE, PAGE), Owned::new(BLOCK * (1 + thread), BLOCK)];
    let mut ledger = Ledger::default();
    for _ in 0..STEPS {
        if scenario.short_of_memory && pick(4) == 0 {
            table.memory().fail_allocation(pick(2) as usize);
        }
        let view = if pick(3) == 0 { &cached } else { &plain };
        match pick(4) {
            0 if !kvm => ledger.change(
                view,
                common_start(scenario.threads),
                common_pages(scenario),
                scenario.short_of_memory,
            ),
            1 => meddle(view, scenario),
            _ => {
                let mine = &mut owned[pick(2) as usize];
                mine.change(view, kvm);
                mine.check(view);
            }
        }
    }
    (owned.to_vec(), ledger)
}

fn play(scenario: Scenario) {
    let memory = ModelMemory::new(Pa::new(0x100_0000), scenario.frames, ENTRIES as usize);
    memory.spare(2 * scenario.threads as usize);
    let config = Config {
        semantics: scenario.semantics,
        ..Config::new(Geometry::tiny(scenario.levels, 2))
    };
    let table = Arc::new(Stage2::new(config, Arc::new(memory), Null).unwrap());
    let threads: Vec<_> = (0..scenario.threads)
        .map(|number| {
            let table = table.clone();
            thread::spawn(move || work(&table, number, scenario))
        })
        .collect();
    let done: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let view = table.handle();
    let (owned, ledgers): (Vec<_>, Vec<_>) = done.into_iter().unzip();
    owned.iter().flatten().for_each(|owned| owned.check(&view));
    Ledger::check(ledgers, &view, common_start(scenario.threads), common_pages(scenario));
    drop(view);
    settled(&table);
}

const EXACT: Scenario = Scenario {
    levels: 3,
    semantics: Semantics::Exact,
    threads: 4,
    frames: 96,
    short_of_memory: false,
};

fn exact() {
    play(EXACT);
}

fn shallow() {
    play(Scenario {
        levels: 2,
        threads: 2,
        ..EXACT
    });
}

fn kvm() {
    play(Scenario {
        semantics: Semantics::Kvm,
        threads: 3,
        ..EXACT
    });
}

fn short_of_memory() {
    play(Scenario {
        threads: 3,
        frames: 8,
        short_of_memory: true,
        ..EXACT
    });
}

macro_rules! tests {
    ($($random:ident, $adversarial:ident: $name:literal, $scenario:expr;)*) => {
        $(
            #[test]
            fn $random() {
                check($name, false, $scenario);
            }

            #[test]
            fn $adversarial() {
                check($name, true, $scenario);
            }
        )*
    };
}

tests! {
    exact_in_random_schedules, exact_in_adversarial_schedules: "exact, 3 levels, 4 threads", exact;
    shallow_in_random_schedules, shallow_in_adversarial_schedules: "exact, 2 levels, 2 threads", shallow;
    kvm_in_random_schedules, kvm_in_adversarial_schedules: "KVM's semantics, 3 levels, 3 threads", kvm;
    short_in_random_schedules, short_in_adversarial_schedules: "exact, short of memory, 3 threads", short_of_memory;
}
