//! Every table that real KVM built walks to exactly what is known about it.

#![cfg(not(any(loom, shuttle)))]

mod snapshots;

use std::collections::BTreeMap;

use s2pt::arch::{AccessKind, Dialect, El, EntryKind, FaultKind, Ipa, Level, MemType, Pa, Prot, Vtcr};
use s2pt::image::{Differs, Dump, Image, ImageError, ImageOptions, LeafRun, Ptdump, PtdumpRun, PtdumpStyle, diff};
use serde_json::Value;
use snapshots::{Snapshot, hex, load, unxz};

type Loaded = Image<Dump<&'static [u8]>>;

fn open(snapshot: &'static Snapshot) -> Loaded {
    let dump = Dump::parse(snapshot.bin.as_slice()).unwrap_or_else(|error| panic!("{}: {error}", snapshot.name));
    dump.into_image(ImageOptions::default()).unwrap()
}

fn all() -> impl Iterator<Item = (&'static Snapshot, Loaded)> {
    assert_eq!(load().len(), 33);
    load().iter().map(|snapshot| (snapshot, open(snapshot)))
}

fn named(name: &str) -> Loaded {
    all()
        .into_iter()
        .find(|(snapshot, _)| snapshot.name == name)
        .expect(name)
        .1
}

#[test]
fn registers_decode_to_the_geometry() {
    for (snapshot, image) in all() {
        let name = &snapshot.name;
        let said = |key: &str| snapshot.json["geometry"][key].as_u64().unwrap();
        assert_eq!(image.vtcr().raw(), snapshot.hex("vtcr_el2"), "{name}");
        assert_eq!(image.vttbr().raw(), snapshot.hex("vttbr_el2"), "{name}");
        assert_eq!(image.root().get(), snapshot.hex("root_pa"), "{name}");
        let fields = image.vtcr().decode();
        let decoded = [
            ("t0sz", u64::from(fields.t0sz)),
            ("sl0", fields.sl0.into()),
            ("tg0", fields.tg0.into()),
            ("ds", fields.ds.into()),
            ("sl2", fields.sl2.into()),
            ("ps", fields.ps.into()),
            ("vs", fields.vs.into()),
            ("ha", fields.ha.into()),
            ("hd", fields.hd.into()),
            ("page_shift", image.geometry().granule().shift().into()),
            ("ia_bits", image.geometry().ipa_bits().into()),
            ("start_level", image.geometry().start_level().get() as u64),
            (
                "root_entries",
                image.geometry().ipa_limit() >> image.geometry().shift(image.geometry().start_level()),
            ),
        ];
        for (key, value) in decoded {
            assert_eq!(value, said(key), "{name}: {key}");
        }
        image
            .vtcr()
            .validate()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let again = Vtcr::build(
            image.geometry(),
            s2pt::arch::VtcrOptions {
                vmid16: fields.vs,
                ha: fields.ha,
                hd: fields.hd,
            },
        );
        assert_eq!(again, image.vtcr(), "{name}: the register built from its geometry");
    }
}

#[test]
fn every_table_walks_to_its_leaf_runs() {
    let mut leaves = 0;
    for (snapshot, image) in all() {
        let said: Vec<LeafRun> = snapshot.list("leaf_runs").iter().map(run).collect();
        let walked: Vec<LeafRun> = image.runs().collect::<Result<_, _>>().unwrap();
        for (walked, said) in walked.iter().zip(&said) {
            assert_eq!(walked, said, "{}", snapshot.name);
        }
        assert_eq!(walked.len(), said.len(), "{}", snapshot.name);
        let count = image.leaves().count();
        assert_eq!(
            count as u64,
            snapshot.json["n_leaves"].as_u64().unwrap(),
            "{}",
            snapshot.name
        );
        leaves += count;
    }
    println!("{leaves} leaves");
}

/// The table of the guest in `tests/data/kvm-traces`, at the end of its life.
#[test]
fn the_table_at_the_end_of_a_trace_walks_to_its_leaf_runs() {
    let dump = Dump::parse(unxz(include_bytes!("data/kvm-traces/thpon_2vcpu.end.bin.xz"))).unwrap();
    let leaves = unxz(include_bytes!("data/kvm-traces/thpon_2vcpu.end.leaves.json.xz"));
    let json: Value = serde_json::from_slice(&leaves).unwrap();
    let said: Vec<LeafRun> = json["leaf_runs"].as_array().unwrap().iter().map(run).collect();
    let image = dump.into_image(ImageOptions::default()).unwrap();
    assert_eq!(image.runs().collect::<Result<Vec<_>, _>>().unwrap(), said);
    assert!(!said.is_empty());
}

fn run(row: &Value) -> LeafRun {
    LeafRun {
        ipa: Ipa::new(hex(&row[0])),
        size: hex(&row[1]),
        pa: Pa::new(hex(&row[2])),
        level: Level::new(row[3].as_i64().unwrap() as i8).unwrap(),
        attrs: hex(&row[4]),
    }
}

#[test]
fn every_invalid_entry_is_found_and_understood() {
    let mut kinds = BTreeMap::<(bool, u64), usize>::new();
    for (snapshot, image) in all() {
        let name = &snapshot.name;
        let found: Vec<_> = image.invalid().collect::<Result<_, _>>().unwrap();
        let said: Vec<_> = snapshot
            .list("invalid_nonzero")
            .iter()
            .map(|row| (hex(&row[0]), row[1].as_i64().unwrap() as i8, hex(&row[2])))
            .collect();
        let walked: Vec<_> = found
            .iter()
            .map(|e| (e.ipa.get(), e.level.get(), e.pte.raw()))
            .collect();
        assert_eq!(walked, said, "{name}");
        let dialect = if name.starts_with("k73") {
            Dialect::Kvm7
        } else {
            Dialect::Kvm6
        };
        assert_eq!(image.dialect(), dialect, "{name}");
        for entry in found {
            match entry.kind {
                EntryKind::Locked => assert!(name.contains("locked"), "{name}: {entry:?}"),
                EntryKind::Annotated(owner) => assert_eq!((owner, entry.pte.raw()), (1, 4), "{name}"),
                kind => panic!("{name}: {kind:?} at {}", entry.ipa),
            }
            *kinds
                .entry((entry.kind == EntryKind::Locked, entry.pte.raw()))
                .or_default() += 1;
        }
    }
    let expected = [((false, 4), 2625), ((true, 0x400), 5), ((true, 1 << 60), 1)];
    assert_eq!(kinds, BTreeMap::from(expected));
}

#[test]
fn counts_agree() {
    for (snapshot, image) in all() {
        let name = &snapshot.name;
        let stats = image.stats().unwrap();
        for level in Level::ALL {
            let said = snapshot.json["tables_per_level"][level.get().to_string()]
                .as_u64()
                .unwrap_or(0);
            assert_eq!(stats.tables[level.slot()], said, "{name}: tables at level {level}");
        }
        assert_eq!(
            stats.leaf_count(),
            snapshot.json["n_leaves"].as_u64().unwrap(),
            "{name}"
        );
        let bytes: u64 = snapshot.list("leaf_runs").iter().map(|row| hex(&row[1])).sum();
        assert_eq!(stats.mapped_bytes(), bytes, "{name}");
        let invalid = stats.annotated + stats.locked + stats.frozen + stats.reserved;
        assert_eq!(invalid, snapshot.list("invalid_nonzero").len() as u64, "{name}");
        // Forced write-back is found out from the leaves: the A76 lacks it, and protected KVM's host table opts out.
        let without = name.contains("a76") || name.contains("pkvm_thp");
        assert_eq!(image.format().fwb(), !without, "{name}");
        assert!(!image.format().xnx(), "{name}");
        let normal = |leaf: Result<s2pt::arch::Mapping, ImageError>| leaf.unwrap().attrs.memtype == MemType::Normal;
        assert!(image.leaves().all(normal), "{name}");
    }
}

#[test]
fn leaves_point_where_the_host_page_tables_say() {
    let (mut compared, mut tables) = (0, 0);
    for (snapshot, image) in all() {
        if snapshot.list("pagemap_runs").is_empty() || snapshot.json["pagemap_check"].is_null() {
            continue;
        }
        let runs: Vec<[u64; 3]> = snapshot
            .list("pagemap_runs")
            .iter()
            .map(|row| [hex(&row[0]), hex(&row[1]), hex(&row[2])])
            .collect();
        let host = |ipa: u64| {
            let run = runs.iter().find(|[gpa, _, size]| (*gpa..gpa + size).contains(&ipa))?;
            Some(run[1] + (ipa - run[0]))
        };
        let check = &snapshot.json["pagemap_check"];
        let equal = image
            .leaves()
            .flatten()
            .filter(|leaf| host(leaf.ipa.get()) == Some(leaf.pa.get()))
            .count();
        assert_eq!(
            equal as u64,
            check["leaf_pa_equals_proc_pagemap"].as_u64().unwrap(),
            "{}",
            snapshot.name
        );
        compared += equal;
        tables += 1;
    }
    println!("{compared} leaves of {tables} tables");
    assert!(tables > 20);
}

#[test]
fn the_text_is_the_kernels_own() {
    let (mut tables, mut again) = (0, 0);
    for (snapshot, image) in all() {
        if snapshot.list("kernel_ptdump").is_empty() {
            continue;
        }
        let lines = snapshot.list("kernel_ptdump").iter();
        let kernel: String = lines.map(|line| line.as_str().unwrap().to_owned() + "\n").collect();
        assert_eq!(image.ptdump(PtdumpStyle::Kvm6).unwrap(), kernel, "{}", snapshot.name);

        // Read back, it is the runs that were written; the last one is there only in long texts, up to where it may end.
        let read = Ptdump::parse(&kernel).unwrap_or_else(|error| panic!("{}: {error}", snapshot.name));
        let written = image.ptdump_runs(PtdumpStyle::Kvm6).unwrap();
        let (last, printed) = written.split_last().unwrap();
        assert_eq!(&read.runs()[..printed.len()], printed, "{}", snapshot.name);
        if let [more] = read.runs()[printed.len()..] {
            assert_eq!(
                (more.ipa, more.level, more.columns),
                (last.ipa, last.level, last.columns)
            );
            assert_eq!(more.end, last.end, "these tables are mapped up to the top");
            again += 1;
        }
        assert_eq!(diff(&image, &read).count(), 0, "{}", snapshot.name);
        tables += 1;
    }
    assert_eq!((tables, again), (15, 5));
}

#[test]
fn every_style_reads_back_to_the_leaves() {
    let styles = [PtdumpStyle::Exact, PtdumpStyle::Kvm6, PtdumpStyle::Kvm7];
    for (style, (snapshot, image)) in styles.into_iter().cycle().zip(all()) {
        let text = image.ptdump(style).unwrap();
        let read = Ptdump::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", snapshot.name));
        assert_eq!(diff(&image, &read).count(), 0, "{} {style:?}", snapshot.name);
        if style != PtdumpStyle::Exact {
            continue;
        }
        assert_eq!(read.runs(), image.ptdump_runs(style).unwrap(), "{}", snapshot.name);
        assert_eq!(read.end(), image.geometry().ipa_limit());
        let mapped: u64 = read
            .runs()
            .iter()
            .filter(|run| run.is_mapped())
            .map(PtdumpRun::size)
            .sum();
        assert_eq!(mapped, image.stats().unwrap().mapped_bytes(), "{}", snapshot.name);
        let invalid = read
            .runs()
            .iter()
            .any(|run| run.columns.is_some_and(|shown| !shown.valid));
        assert_eq!(
            invalid,
            !snapshot.list("invalid_nonzero").is_empty(),
            "{}",
            snapshot.name
        );
    }
}

#[test]
fn every_leaf_is_explained_as_what_it_is() {
    for (snapshot, image) in all() {
        for leaf in image.leaves().step_by(29) {
            let leaf = leaf.unwrap();
            let ipa = Ipa::new(leaf.end() - 1);
            let walk = image.explain(ipa, AccessKind::Read, El::El1);
            assert_eq!(walk.leaf(), Some(leaf), "{}", snapshot.name);
            // Every guest page is readable, and the hardware sets the access flag.
            assert_eq!(
                walk.outcome.map(|hit| hit.pa),
                Ok(Pa::new(leaf.pa.get() + leaf.size - 1)),
                "{}",
                snapshot.name
            );
            let entries: Vec<_> = walk.steps.iter().map(|step| step.entry).collect();
            assert_eq!(entries, image.path(ipa).unwrap());
            let write = image.explain(ipa, AccessKind::Write, El::El1).outcome;
            let refused = (!leaf.attrs.prot.contains(Prot::W)).then_some((FaultKind::Permission, leaf.level));
            assert_eq!(write.err().map(|fault| (fault.kind, fault.level)), refused);
        }
    }
}

#[test]
fn a_dump_written_again_is_the_same() {
    for (snapshot, image) in all() {
        assert_eq!(
            image.memory().len() as u64,
            snapshot.json["pages"].as_u64().unwrap(),
            "{}",
            snapshot.name
        );
        assert!(image.to_dump().unwrap() == snapshot.bin, "{}", snapshot.name);
    }
}

#[test]
fn the_path_to_a_leaf_ends_in_it() {
    for name in [
        "k612p_p52_iter1_dirtied",
        "k612_16k_p40_iter1_dirtied",
        "k612p_p36_iter1_dirtied",
    ] {
        let image = named(name);
        for leaf in image.leaves().step_by(17) {
            let leaf = leaf.unwrap();
            let path = image.path(Ipa::new(leaf.end() - 1)).unwrap();
            let levels: Vec<i8> = path.iter().map(|entry| entry.level.get()).collect();
            let start = image.geometry().start_level().get();
            assert_eq!(levels, (start..=leaf.level.get()).collect::<Vec<_>>());
            assert_eq!(path.last().unwrap().mapping(image.format()), Some(leaf));
        }
        let limit = image.geometry().ipa_limit();
        assert!(matches!(image.path(Ipa::new(limit)), Err(ImageError::Ipa { .. })));
    }
}

#[test]
fn stages_of_a_run_differ_as_the_kernel_made_them() {
    let stage = |stage: &str| named(&format!("k612p_thp_{stage}"));
    let differences = |a: &Loaded, b: &Loaded| -> Vec<_> { a.compare(b).map(Result::unwrap).collect() };
    let populated = stage("populated");
    assert_eq!(differences(&populated, &populated), []);

    // Enabling the log takes write permission from the four blocks and from nothing else.
    let logging = stage("logging_enabled");
    let found = differences(&populated, &logging);
    assert_eq!(found.len(), 4);
    assert!(found.iter().all(|d| d.what == Differs::PERMISSION && d.size == 2 << 20));
    assert_eq!(found[0].to_string(), "0xffffff600000 +0x200000: permission rw- / r--");

    // As ranges, it is one.
    let joined = |a: &Loaded, b: &Loaded| -> Vec<_> { diff(a, b).map(Result::unwrap).collect() };
    let ranges = joined(&populated, &logging);
    assert_eq!((ranges.len(), ranges[0].size), (1, 8 << 20));
    assert_eq!(ranges[0].to_string(), "0xffffff600000 +0x800000: permission rw- / r--");

    // Dirtying splits them: pages instead of blocks, writable, to the same memory.
    let dirtied = stage("iter1_dirtied");
    assert_eq!(joined(&logging, &dirtied).len(), 1);
    let found = differences(&logging, &dirtied);
    assert_eq!(found.len(), 2048);
    assert!(
        found
            .iter()
            .all(|d| d.what == Differs::SIZE | Differs::PERMISSION && d.size == 4096)
    );

    // Clearing takes write permission from the pages; the second round gives it back.
    let cleared = stage("iter1_cleared");
    let found = differences(&dirtied, &cleared);
    assert_eq!(found.len(), 2048);
    assert!(found.iter().all(|d| d.what == Differs::PERMISSION));
    assert_eq!(differences(&dirtied, &stage("iter2_dirtied")), []);
}
