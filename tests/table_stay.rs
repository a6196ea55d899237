//! Staying in a table: the leaf table that was seen last is remembered, and never believed after it was unlinked.

use std::sync::Arc;

use s2pt::arch::{AccessKind, Attrs, Geometry, GeometryOptions, Ipa, Level, Pa, Prot};
use s2pt::memory::{Arena, ArenaOptions};
use s2pt::table::{Access, Config, Error, MapOptions, Null, Stage2, Stay};

const PAGE: u64 = 4 << 10;
const BLOCK: u64 = 2 << 20;
const OFFSET: u64 = 0x40_0000_0000;

type Table = Stage2<Arc<Arena>>;

fn table() -> Table {
    let geometry = Geometry::new(GeometryOptions::default()).unwrap();
    let arena = Arena::new(ArenaOptions {
        capacity_frames: 64,
        ..ArenaOptions::default()
    })
    .unwrap();
    Stage2::new(Config::new(geometry), Arc::new(arena), Null).unwrap()
}

fn map<A: Access>(stay: &Stay<'_, '_, Arc<Arena>, Null, A>, ipa: u64) -> Result<(), Error> {
    let attrs = Attrs::new(Prot::RW);
    stay.map(Ipa::new(ipa), PAGE, Pa::new(OFFSET + ipa), &attrs, MapOptions::FAULT)
        .map(drop)
}

fn pa_of<A: Access>(stay: &Stay<'_, '_, Arc<Arena>, Null, A>, ipa: u64) -> Option<u64> {
    let read = stay.translate(Ipa::new(ipa), AccessKind::Read).ok()?;
    Some(read.pa.get())
}

#[test]
fn neighbours_and_strangers_are_mapped_and_found() {
    let table = table();
    let vcpu = table.handle();
    let stay = vcpu.stay();
    // In one table, in the next, back again, and in another gigabyte.
    let addresses = [0, PAGE, BLOCK - PAGE, BLOCK, 2 * PAGE, 5 << 30, BLOCK + PAGE, 3 * PAGE];
    for ipa in addresses {
        assert_eq!(pa_of(&stay, ipa), None);
        map(&stay, ipa).unwrap();
        assert_eq!(pa_of(&stay, ipa + 0x123), Some(OFFSET + ipa + 0x123));
    }
    assert!(matches!(map(&stay, PAGE), Err(Error::Again { level: Level::L3, .. })));
    for ipa in addresses {
        let found = stay.lookup(Ipa::new(ipa)).unwrap();
        assert_eq!((found.level, found.base), (Level::L3, Ipa::new(ipa)));
        assert_eq!(vcpu.lookup(Ipa::new(ipa)).unwrap(), found);
    }
    assert!(matches!(stay.lookup(Ipa::new(1 << 40)), Err(Error::Address { .. })));
    assert!(stay.translate(Ipa::new(1 << 40), AccessKind::Read).is_err());
}

#[test]
fn a_table_that_a_peer_unlinks_is_not_believed_any_more() {
    let table = table();
    let (vcpu, peer) = (table.handle(), table.handle());
    let mut stay = vcpu.stay();
    map(&stay, 0).unwrap();
    let before = table.memory().stats().in_use;
    peer.unmap(Ipa::new(0), BLOCK).unwrap();
    assert_eq!(table.pending_frames(), 2, "a stay keeps what it may have seen");
    assert_eq!(pa_of(&stay, 0), None);
    map(&stay, PAGE).unwrap();
    assert_eq!(pa_of(&stay, 0), None);
    assert_eq!(
        peer.lookup(Ipa::new(PAGE)).unwrap(),
        stay.lookup(Ipa::new(PAGE)).unwrap()
    );
    assert_eq!(table.memory().stats().in_use, before + 2);
    stay.repin();
    assert_eq!(pa_of(&stay, PAGE), Some(OFFSET + PAGE));
    drop(stay);
    vcpu.drain();
    assert_eq!(table.memory().stats().in_use, before);
}

#[test]
fn a_table_that_a_peer_merges_is_left_for_the_block() {
    let table = table();
    let (vcpu, peer) = (table.handle(), table.handle());
    let stay = vcpu.stay();
    for page in 0..BLOCK / PAGE {
        map(&stay, page * PAGE).unwrap();
    }
    assert_eq!(peer.collapse(Ipa::new(0), BLOCK).unwrap(), 1);
    let found = stay.lookup(Ipa::new(7 * PAGE)).unwrap();
    assert_eq!((found.level, found.base), (Level::L2, Ipa::new(0)));
    assert_eq!(pa_of(&stay, 7 * PAGE), Some(OFFSET + 7 * PAGE));
    assert!(matches!(
        map(&stay, 7 * PAGE),
        Err(Error::Again { level: Level::L2, .. })
    ));
    // And back: the block that is now the end of the walk is not remembered as a table.
    assert_eq!(peer.split(Ipa::new(0), BLOCK, Level::L3).unwrap(), 1);
    assert_eq!(stay.lookup(Ipa::new(7 * PAGE)).unwrap().level, Level::L3);
}

#[test]
fn blocks_are_mapped_through_a_stay_too() {
    let table = table();
    let vcpu = table.handle();
    let stay = vcpu.stay();
    map(&stay, 0).unwrap();
    let attrs = Attrs::new(Prot::RW);
    let mapped = stay.map(
        Ipa::new(BLOCK),
        BLOCK,
        Pa::new(OFFSET + BLOCK),
        &attrs,
        MapOptions::FAULT,
    );
    assert_eq!(mapped.unwrap().bytes, BLOCK);
    assert_eq!(stay.lookup(Ipa::new(BLOCK + PAGE)).unwrap().level, Level::L2);
    // Over the table of pages: kept.
    let kept = stay.map(Ipa::new(0), BLOCK, Pa::new(OFFSET), &attrs, MapOptions::FAULT);
    assert_eq!(kept.unwrap().kept, PAGE);
}

#[test]
fn exclusive_access_frees_at_once_and_remembers_nothing() {
    let mut table = table();
    let exclusive = table.exclusive();
    let stay = exclusive.stay();
    map(&stay, 0).unwrap();
    map(&stay, PAGE).unwrap();
    stay.unmap(Ipa::new(0), BLOCK).unwrap();
    // The freed frame serves another gigabyte now.
    map(&stay, 5 << 30).unwrap();
    map(&stay, (5 << 30) + PAGE).unwrap();
    assert_eq!((pa_of(&stay, 0), pa_of(&stay, PAGE)), (None, None));
}
