//! The one way in which a call without frames may have done a part: a peer takes tables away after the frames were
//! counted, with the memory used up. The peer acts at an exact point of the call, from inside one of its events.

use std::sync::Mutex;

use s2pt::arch::{Attrs, Ipa, Level, Pa, Prot};
use s2pt::table::{Error, Event, Existing, Handle, MapOptions, Stage2};

use crate::inject::{Inject, at, fired, is_stage2_tlbi};
use crate::support::{Memory, audit, plain};

const PAGE: u64 = 4 << 10;
const BLOCK: u64 = 2 << 20;
/// A range of ten pages that begins two before the second block.
const START: u64 = BLOCK - 2 * PAGE;
const SIZE: u64 = 10 * PAGE;
const OFFSET: u64 = 1 << 33;

type Table = Stage2<Memory, Inject>;

/// A hook borrows its table for ever, so tables live as long as the process. Here a leak checker finds them in use.
static TABLES: Mutex<Vec<&'static Table>> = Mutex::new(Vec::new());

fn table() -> &'static Table {
    let table: &Table = Box::leak(Box::new(plain(None, Inject, |_| ())));
    TABLES.lock().unwrap().push(table);
    table
}

fn map(
    view: &Handle<'_, Memory, Inject>,
    ipa: u64,
    size: u64,
    prot: Prot,
    existing: Existing,
) -> Result<s2pt::table::Mapped, Error> {
    let options = MapOptions {
        existing,
        largest: Some(Level::L3),
        ..MapOptions::default()
    };
    view.map(Ipa::new(ipa), size, Pa::new(ipa + OFFSET), &Attrs::new(prot), options)
}

fn prot(view: &Handle<'_, Memory, Inject>, ipa: u64) -> Option<Prot> {
    let found = view.lookup(Ipa::new(ipa)).unwrap();
    found.pte.is_leaf(found.level).then(|| view.format().prot(found.pte))
}

fn becomes_valid(event: Event) -> bool {
    matches!(event, Event::Store { new, .. } if new.is_valid())
}

/// The first change of a call that begins: what may replace nothing locks holes before it fills one.
fn begins(existing: Existing) -> fn(Event) -> bool {
    match existing {
        Existing::Error => |event| matches!(event, Event::Store { new, .. } if new.is_locked()),
        _ => becomes_valid,
    }
}

/// The quota is what is in use: not one frame is left.
fn use_up(table: &Table) {
    table.memory().set_quota(Some(table.memory().stats().in_use));
}

/// A range with a table on both sides of the border, and all frames used up.
fn tight(mapped: &[u64]) -> &'static Table {
    let table = table();
    let view = table.handle();
    for &ipa in mapped {
        map(&view, ipa, PAGE, Prot::R, Existing::Error).unwrap();
    }
    use_up(table);
    table
}

/// The peer's frames come back and serve: the call does not even fail.
#[test]
fn the_frames_that_a_peer_gave_back_serve() {
    for existing in [Existing::Replace, Existing::Keep, Existing::Error] {
        let table = tight(&[0, BLOCK + 20 * PAGE]);
        let view = table.handle();
        at(begins(existing), || {
            assert_eq!(table.handle().unmap(Ipa::new(BLOCK), BLOCK), Ok(PAGE));
        });
        let done = map(&view, START, SIZE, Prot::RW, existing).unwrap();
        assert!(fired());
        assert_eq!((done.bytes, done.kept), (SIZE, 0), "{existing:?}");
        assert!((0..10).all(|page| prot(&view, START + page * PAGE) == Some(Prot::RW)));
        audit(table);
    }
}

/// They do not come back, since somebody else takes them first, or a reader is parked: then `map` stops part way, has done a
/// beginning and says so, `existing=error` has done nothing, and doing the same again completes it.
#[test]
fn without_them_a_map_stops_part_way_and_an_exact_one_takes_it_back() {
    for (existing, parked) in [Existing::Replace, Existing::Keep, Existing::Error]
        .into_iter()
        .flat_map(|existing| [(existing, false), (existing, true)])
    {
        let table = tight(&[0, BLOCK + 20 * PAGE]);
        let view = table.handle();
        let reader = table.handle();
        let stay = parked.then(|| reader.stay());
        at(begins(existing), move || {
            let peer = table.handle();
            assert_eq!(peer.unmap(Ipa::new(BLOCK), BLOCK), Ok(PAGE));
            if !parked {
                table.memory().set_quota(Some(0));
            }
        });
        let refused = map(&view, START, SIZE, Prot::RW, existing);
        assert!(fired());
        assert!(matches!(refused, Err(Error::OutOfFrames { .. })), "{refused:?}");
        assert_eq!(table.memory().stats().reserved, 0);
        let done: Vec<bool> = (0..10).map(|page| prot(&view, START + page * PAGE).is_some()).collect();
        let beginning = if existing == Existing::Error { 0 } else { 2 };
        assert_eq!(
            done,
            (0..10).map(|page| page < beginning).collect::<Vec<_>>(),
            "{existing:?}"
        );
        drop(stay);
        if !parked {
            table.memory().set_quota(None);
        }
        let again = map(&view, START, SIZE, Prot::RW, existing).unwrap();
        assert_eq!(again.bytes + again.kept, SIZE);
        table.memory().set_quota(None);
        audit(table);
    }
}

/// The same for what cuts blocks at its ends: a peer merges the table at the far end.
#[test]
fn what_cuts_a_block_at_its_end_stops_before_it() {
    for which in 0..3 {
        let table = table();
        let view = table.handle();
        map(&view, 0, 2 * BLOCK, Prot::RW, Existing::Error).unwrap();
        use_up(table);
        let when = if which == 0 { is_stage2_tlbi } else { becomes_valid };
        let reader = table.handle();
        let stay = reader.stay();
        at(when, || {
            assert_eq!(table.handle().collapse(Ipa::new(BLOCK), BLOCK), Ok(1));
        });
        let (ipa, end) = (Ipa::new(START), START + SIZE);
        let call = || match which {
            0 => view.unmap(ipa, SIZE).map(drop),
            1 => view.write_protect(ipa, SIZE).map(drop),
            _ => view.protect(ipa, SIZE, Prot::R).map(drop),
        };
        let refused = call();
        assert!(fired());
        assert!(
            matches!(refused, Err(Error::OutOfFrames { .. })),
            "{which}: {refused:?}"
        );
        let rights = if which == 0 { None } else { Some(Prot::R) };
        for ipa in (START - PAGE..end + PAGE).step_by(PAGE as usize) {
            let expected = if (START..BLOCK).contains(&ipa) {
                rights
            } else {
                Some(Prot::RW)
            };
            assert_eq!(prot(&view, ipa), expected, "{which}: {ipa:#x}");
        }
        // The table of the merged block is pending, and was all that was missing.
        drop(stay);
        call().unwrap();
        for ipa in (START - PAGE..end + PAGE).step_by(PAGE as usize) {
            let expected = if (START..end).contains(&ipa) {
                rights
            } else {
                Some(Prot::RW)
            };
            assert_eq!(prot(&view, ipa), expected, "{which}: {ipa:#x}");
        }
        table.memory().set_quota(None);
        audit(table);
    }
}
