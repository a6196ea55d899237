//! KVM's text of a table, read and written; differences in ranges; walks explained. On tables made by hand.

#![cfg(not(any(loom, shuttle)))]

mod handmade;

use handmade::Table;
use s2pt::arch::{AccessKind, El, EntryKind, FaultKind, Format, GeometryOptions, Ipa, Level, Pa, Prot};
use s2pt::image::{Differs, Next, Ptdump, PtdumpColumns, PtdumpError, PtdumpRun, PtdumpStyle, Side, diff};

const STYLES: [PtdumpStyle; 3] = [PtdumpStyle::Exact, PtdumpStyle::Kvm6, PtdumpStyle::Kvm7];

/// A 2M block at 2G, a page, a page read-only and executable, then nothing: the example in our notes on the kernel.
fn example() -> Table {
    let mut table = Table::new(GeometryOptions::default(), 0x10000);
    table.table(0x10010, 0x20000);
    table.leaf(0x20000, Level::L2, 0x4000_0000, Prot::RW);
    table.table(0x20008, 0x30000);
    table.leaf(0x30000, Level::L3, 0x5000, Prot::RW);
    table.leaf(0x30008, Level::L3, 0x6000, Prot::RX);
    table
}

#[test]
fn the_example_is_written_in_each_style() {
    let table = example();
    let text = |style| table.image().ptdump(style).unwrap();
    let kvm6 = "\
---[ Guest IPA ]---
0x0000000000000000-0x0000000080000000           2G 1
0x0000000080000000-0x0000000080200000           2M 2   R W X AF BLK
0x0000000080200000-0x0000000080201000           4K 3   R W X AF    \n\
0x0000000080201000-0x0000000080202000           4K 3   R     AF    \n\
0x0000000080202000-0x0000000080400000        2040K 3
0x0000000080400000-0x00000000c0000000        1020M 2
";
    assert_eq!(text(PtdumpStyle::Kvm6), kvm6);
    let kvm7 = kvm6
        .replace("R W X AF", "R W PXNUXN AF")
        .replace("R     AF", "R   px ux  AF");
    assert_eq!(text(PtdumpStyle::Kvm7), kvm7);
    let last = "0x00000000c0000000-0x0000010000000000        1021G 1\n";
    assert_eq!(text(PtdumpStyle::Exact), kvm7 + last);
}

/// What the exact style mends: owners, locks, blocks where none may be, half-used XN bits.
#[test]
fn invalid_entries_are_shown_as_the_style_has_it() {
    let mut table = example();
    table.put(0x30010, 0x4); // owner 1
    table.put(0x30018, 0x400); // locked
    table.put(0x10018, 0x0040_0000_4000_07fd & !2 | 1 << 53); // a block; bit 53 says nothing without XNX
    let image = table.image();
    let lines = |style: PtdumpStyle| -> Vec<String> {
        let text = image.ptdump(style).unwrap();
        text.lines().skip(1).map(|line| line[40..].to_owned()).collect()
    };
    assert!(image.format().xnx(), "found out from bit 53");
    let exact = lines(PtdumpStyle::Exact);
    assert_eq!(exact[4], "        8K 3 F                  ");
    assert_eq!(exact[7], "        1G 1   R W px UXN AF BLK");
    let kvm6 = lines(PtdumpStyle::Kvm6);
    assert_eq!(kvm6[4], "        4K 3"); // the owner looks empty
    assert_eq!(kvm6[5], "        4K 3 F     X       "); // 6.12 looks at XN and AF of valid entries only
    let kvm7 = lines(PtdumpStyle::Kvm7);
    assert_eq!(kvm7[5], "        4K 3 F     px ux  AF    ");
    for style in STYLES {
        let read = Ptdump::parse(image.ptdump(style).unwrap()).unwrap();
        let written = image.ptdump_runs(style).unwrap();
        assert!(written.starts_with(read.runs()), "{style:?}");
        assert_eq!(diff(&image, &read).count(), 0, "{style:?}");
    }
}

/// Found by fuzzing: of such a page Linux 6.12 prints columns of blanks, and it was read as an empty entry.
#[test]
fn a_page_that_may_only_be_executed_is_not_taken_for_an_empty_entry() {
    let mut table = example();
    table.put(0x30010, 0x7000 | 0x3ff & !(3 << 6)); // neither R nor W nor AF; XN clear
    let image = table.image();
    let text = image.ptdump(PtdumpStyle::Kvm6).unwrap();
    let line = text.lines().nth(5).unwrap();
    assert_eq!(
        line,
        "0x0000000080202000-0x0000000080203000           4K 3               "
    );
    let read = Ptdump::parse(&text).unwrap();
    assert_eq!(read.runs()[4].columns.map(|columns| columns.prot), Some(Prot::X));
    assert_eq!(diff(&image, &read).count(), 0);
    // Without the blanks nothing tells it from one.
    let bare: String = text.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    assert_eq!(Ptdump::parse(bare).unwrap().runs()[4].columns, None);
}

/// A text of a page or more: the kernel walks again and begins with what it had not printed.
#[test]
fn a_long_text_begins_with_the_end_of_the_walk_before() {
    let mut table = Table::new(GeometryOptions::default(), 0x10000);
    table.table(0x10000, 0x20000).table(0x20000, 0x30000);
    for page in 0..60 {
        table.leaf(0x30000 + 16 * page, Level::L3, 0x10_0000, Prot::RW);
    }
    let short = table.image().ptdump(PtdumpStyle::Kvm6).unwrap();
    assert!(short.starts_with("---[") || short.len() >= 4096);
    let text = |table: &Table| table.image().ptdump(PtdumpStyle::Kvm6).unwrap();
    let long = text(&table);
    assert!(long.len() >= 4096);
    let first = long.lines().next().unwrap();
    assert_eq!(first, "0x0000000040000000-0x0000000000000000   17179869183G 1");
    let read = Ptdump::parse(&long).unwrap();
    assert_eq!(read.runs().last().unwrap().ipa, Ipa::new(1 << 30));
    assert_eq!(diff(&table.image(), &read).count(), 0);

    // The kernel takes the last run and the first of the next walk for one where they are alike.
    let mut both = Table::new(GeometryOptions::default(), 0x10000);
    both.table(0x10008, 0x20000).table(0x20000, 0x30000);
    for page in 0..60 {
        both.leaf(0x30000 + 16 * page, Level::L3, 0x10_0000, Prot::RW);
    }
    let long = text(&both);
    let first = long.lines().next().unwrap();
    assert_eq!(first, "0x0000000080000000-0x0000000040000000   17179869183G 1");
    let read = Ptdump::parse(&long).unwrap();
    let end = |run: &PtdumpRun| (run.ipa.get(), run.end, run.columns);
    assert_eq!(end(&read.runs()[0]), (0, 1 << 30, None));
    assert_eq!(end(read.runs().last().unwrap()), (2 << 30, 4 << 30, None));
    // Cut off anywhere, also between two lines: such a text says where it has to end.
    for line in 1..long.lines().count() {
        let cut: String = long.split_inclusive('\n').take(line).collect();
        let error = Ptdump::parse(&cut).unwrap_err();
        assert!(
            matches!(error, PtdumpError::Cut { line: at, .. } if at == line),
            "{error}"
        );
    }
}

#[test]
fn what_is_no_such_text_is_refused_with_the_line() {
    let good = example().image().ptdump(PtdumpStyle::Kvm6).unwrap();
    let replaced = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    let cases = [
        (String::new(), "line 1: the text is empty"),
        ("\n \n".into(), "line 1: the text is empty"),
        ("S2DUMP01".into(), "line 1: \"S2DUMP01\" is neither"),
        (
            replaced("---[ Guest IPA ]---", "---[ Linear Mapping ]---"),
            "line 1: \"---[ Linear",
        ),
        (
            good.clone() + "---[ Guest IPA ]---\n",
            "line 8: \"---[ Guest IPA ]---\" is no run of entries: expected",
        ),
        (good.clone() + "\n", "line 8: \"\" is no run"),
        (replaced("2M 2   R", "2M 4   R"), "no level from -1 to 3"),
        (
            replaced("2M 2   R", "3M 2   R"),
            "line 3: the size is \"3M\", the range has 0x200000 bytes",
        ),
        (replaced("2040K 3", "2040k 3"), "line 6: the size is \"2040k\""),
        (replaced("X AF BLK", "X AF BLQ"), "line 3: "),
        (replaced("X AF BLK", "X AF    "), "no such columns at this level"),
        (replaced("AF    ", "AF BLK"), "line 4: "),
        (
            replaced("R W X AF BLK", "R W PXNUXN AF BLK"),
            "line 4: the columns \"   R W X AF\" are not those of line 3",
        ),
        (
            replaced("-0x0000000080000000 ", "-0x0000000080001000 "),
            "line 2: the size",
        ),
        (
            replaced(
                "0x0000000080202000-0x0000000080400000        2040K",
                "0x0000000080203000-0x0000000080400000        2036K",
            ),
            "line 6: the run begins at 0x80203000, the one before ends at 0x80202000",
        ),
        (
            replaced(
                "0x0000000080202000-0x0000000080400000        2040K",
                "0x0000000080202000-0x0000000080202000           0E",
            ),
            "line 6: ",
        ),
        (
            replaced(
                "0x0000000080201000-0x0000000080202000           4K",
                "0x0000000080201000-0x0000000080201800           2K",
            ),
            "line 5: ",
        ),
        (
            replaced("0x0000000080000000-", "0x80000000-"),
            "it is not written as the kernel writes it",
        ),
        (
            replaced("0x0000000080000000-", "0x+000000080000000-"),
            "it is not written as the kernel writes it",
        ),
        (
            replaced("   2G 1", "  2G 1"),
            "it is not written as the kernel writes it",
        ),
        (replaced("2M 2   R", "2M \u{200b}2   R"), "line 3: "),
    ];
    for (text, message) in cases {
        let error = Ptdump::parse(&text).expect_err(message);
        assert!(error.to_string().contains(message), "{error}\nnot: {message}");
        assert!(error.to_string().starts_with(&format!("line {}: ", error.line())));
        assert!(error.to_string().len() < 400);
    }
    let long = "0x".to_owned() + &"9".repeat(100_000);
    assert!(Ptdump::parse(long).unwrap_err().to_string().len() < 300);
    assert!(matches!(
        Ptdump::parse(b"0x\xff\xfe"),
        Err(PtdumpError::Line { line: 1, .. })
    ));
}

/// A prefix is refused, or is whole lines.
#[test]
fn a_text_cut_off_is_refused_or_ends_at_a_line() {
    for style in STYLES {
        let text = example().image().ptdump(style).unwrap();
        let whole = Ptdump::parse(&text).unwrap();
        for cut in 0..text.len() {
            let Ok(read) = Ptdump::parse(&text[..cut]) else {
                continue;
            };
            // The last line may lack its newline, or (in an empty run that is cut behind its level) nothing at all.
            let lines = text[..cut].lines().count() - 1;
            assert_eq!(read.runs().len(), lines, "{style:?} {cut}");
            let (last, before) = read
                .runs()
                .split_last()
                .map_or((None, [].as_slice()), |(last, rest)| (Some(last), rest));
            assert!(whole.runs().starts_with(before));
            if let Some(last) = last
                && *last != whole.runs()[lines - 1]
            {
                assert!(
                    last.columns.is_none() && text[..cut].ends_with(|c: char| c.is_ascii_digit()),
                    "{style:?} {cut}"
                );
            }
        }
    }
}

#[test]
fn blanks_at_the_end_and_returns_are_forgiven() {
    let text = example().image().ptdump(PtdumpStyle::Exact).unwrap();
    let whole = Ptdump::parse(&text).unwrap();
    let trimmed: String = text.lines().map(|line| line.trim_end().to_owned() + "\r\n").collect();
    assert_eq!(Ptdump::parse(trimmed).unwrap(), whole);
    assert_eq!(Ptdump::parse(text.trim_end_matches('\n')).unwrap(), whole);
}

#[test]
fn differences_join_into_ranges() {
    let mut a = Table::small();
    a.words.remove(&0x20010);
    for page in 0..512 {
        // Backed by pages in any order.
        a.leaf(
            0x30000 + 8 * page,
            Level::L3,
            0x100_0000 + 0x1000 * (page * 7 % 512),
            Prot::RW,
        );
    }
    let mut b = a.clone();
    for page in 100..200 {
        b.leaf(
            0x30000 + 8 * page,
            Level::L3,
            0x100_0000 + 0x1000 * (page * 7 % 512),
            Prot::R,
        );
    }
    let entry = b.words[&(0x30000 + 8 * 300)];
    b.put(0x30000 + 8 * 300, entry & !Format::AF_BIT);
    b.words.remove(&(0x30000 + 8 * 400));
    b.put(0x30000 + 8 * 401, 0x4);
    a.put(0x20018, 0x4);
    b.put(0x20018, 0x8);
    let (one, two) = (a.image(), b.image());
    let found: Vec<_> = diff(&one, &two).map(Result::unwrap).collect();
    let summary: Vec<_> = found
        .iter()
        .map(|d| (d.ipa.get() - 0x4000_0000, d.size, d.what))
        .collect();
    let expected = [
        (100 << 12, 100 << 12, Differs::PERMISSION),
        (300 << 12, 0x1000, Differs::AF),
        (400 << 12, 0x1000, Differs::ONLY_A),
        (401 << 12, 0x1000, Differs::ONLY_A),
        (3 << 21, 2 << 20, Differs::INVALID),
    ];
    assert_eq!(summary, expected);
    // The outputs are the same on both sides, and scattered.
    assert!(matches!(
        found[0].a,
        Some(Side::Leaf {
            pa: None,
            prot: Prot::RW,
            ..
        })
    ));
    assert!(matches!(found[3].b, Some(Side::Invalid { level: Level::L3, raw }) if raw.raw() == 4));
    let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(texts[0], "0x40064000 +0x64000: permission rw- / r--");
    assert_eq!(
        texts[4],
        "0x40600000 +0x200000: invalid entry 0x4, level 2 / invalid entry 0x8, level 2"
    );
    // The same backwards, and against the text, which tells neither outputs nor invalid entries.
    assert_eq!(diff(&two, &one).count(), 5);
    let text = Ptdump::parse(two.ptdump(PtdumpStyle::Exact).unwrap()).unwrap();
    let what: Vec<_> = diff(&one, &text)
        .map(|d| d.unwrap())
        .map(|d| (d.size, d.what))
        .collect();
    let shown = [
        (100 << 12, Differs::PERMISSION),
        (0x1000, Differs::AF),
        (2 << 12, Differs::ONLY_A),
    ];
    assert_eq!(what[..2], shown[..2]);
    assert_eq!(what[2..].iter().map(|d| d.0).sum::<u64>(), shown[2].0);
    assert!(what[2..].iter().all(|d| d.1 == shown[2].1));
    let both = Ptdump::parse(one.ptdump(PtdumpStyle::Kvm6).unwrap()).unwrap();
    let what: Vec<_> = diff(&both, &text)
        .map(|d| d.unwrap())
        .map(|d| (d.size, d.what))
        .collect();
    assert_eq!(what, shown);
}

/// Two texts, or a text and a table, are compared as far as both go.
#[test]
fn nothing_is_said_of_what_a_text_does_not_tell() {
    let mut table = example();
    let text = Ptdump::parse(table.image().ptdump(PtdumpStyle::Kvm6).unwrap()).unwrap();
    assert_eq!(text.end(), 0xc000_0000);
    table.leaf(0x10018, Level::L1, 0x8000_0000, Prot::RW);
    assert_eq!(diff(&table.image(), &text).count(), 0, "a block behind the end");
    table.leaf(0x20010, Level::L2, 0x8000_0000, Prot::RW);
    let found: Vec<_> = diff(&table.image(), &text).map(Result::unwrap).collect();
    assert_eq!(
        (found.len(), found[0].ipa, found[0].what),
        (1, Ipa::new(0x8040_0000), Differs::ONLY_A)
    );
}

#[test]
fn each_way_for_a_walk_to_end() {
    let mut table = Table::small();
    table.put(0x20018, 0x400).put(0x30010, 1); // LOCKED; a reserved descriptor
    table.put(0x20020, 0x0000_ffff_0000_0003); // a table beyond 48 bits is none: this one is not there
    table.leaf(0x20028, Level::L2, 0x4000_0000, Prot::NONE);
    let image = table.image();
    let end = |ipa: u64, access| {
        let walk = image.explain(Ipa::new(ipa), access, El::El1);
        let levels: Vec<_> = walk.steps.iter().map(|step| step.entry.level.get()).collect();
        assert_eq!(walk.outcome, image.translate(Ipa::new(ipa), access, El::El1));
        assert_eq!(levels, (1..=levels.len() as i8).collect::<Vec<_>>());
        for (place, step) in walk.steps.iter().enumerate() {
            let last = place + 1 == walk.steps.len();
            assert!(last || (step.fault.is_none() && matches!(step.next, Next::Table(_))));
            assert_eq!(step.index, image.geometry().index(Ipa::new(ipa), step.entry.level));
        }
        (
            levels.len(),
            walk.outcome
                .map(|hit| hit.pa)
                .map_err(|fault| (fault.kind, fault.level.get())),
        )
    };
    let read = AccessKind::Read;
    assert_eq!(end(0x4000_1234, read), (3, Ok(Pa::new(0x6234))));
    assert_eq!(
        end(0x4000_1234, AccessKind::Execute),
        (3, Err((FaultKind::Permission, 3)))
    );
    assert_eq!(end(0x4040_1234, AccessKind::Execute), (2, Ok(Pa::new(0x4000_1234))));
    assert_eq!(
        end(0x4040_1234, AccessKind::Write),
        (2, Err((FaultKind::Permission, 2)))
    );
    assert_eq!(end(0x40a0_0000, read), (2, Err((FaultKind::Permission, 2))));
    assert_eq!(end(0, read), (1, Err((FaultKind::Translation, 1))));
    assert_eq!(end(0x4060_0000, read), (2, Err((FaultKind::Translation, 2))));
    assert_eq!(end(0x4000_2000, read), (3, Err((FaultKind::Translation, 3))));
    assert_eq!(end(0x4080_0000, read), (2, Err((FaultKind::ExternalAbort, 3))));
    assert_eq!(end(1 << 40, read), (0, Err((FaultKind::Translation, 0))));
    assert_eq!(end(u64::MAX, read), (0, Err((FaultKind::Translation, 0))));
    let walk = image.explain(Ipa::new(0x4060_0000), read, El::El1);
    assert_eq!(walk.steps[1].entry.kind, EntryKind::Locked);

    // Addresses beyond the physical address size. A clear access flag is no fault: the hardware sets it.
    let options = GeometryOptions {
        pa_bits: 40,
        ..Default::default()
    };
    let mut table = Table::new(options, 0x10000);
    table.put(0x10000, 0x0000_0100_0000_0003);
    table.put(0x10008, 0x0040_0140_0000_07fd);
    let old = table
        .format
        .leaf(Level::L1, Pa::new(1 << 30), &s2pt::arch::Attrs::new(Prot::R))
        .unwrap();
    table.put(0x10010, old.raw() & !Format::AF_BIT);
    let image = table.image();
    let fault = |ipa, access| image.explain(Ipa::new(ipa), access, El::El1).outcome.unwrap_err();
    let kinds: Vec<_> = [0, 1 << 30, 2 << 30]
        .map(|ipa| fault(ipa, AccessKind::Write).kind)
        .into();
    assert_eq!(
        kinds,
        [FaultKind::AddressSize, FaultKind::AddressSize, FaultKind::Permission]
    );
    assert_eq!(
        image.explain(Ipa::new(0), read, El::El1).steps.len(),
        1,
        "the table is not entered"
    );
}

#[test]
fn a_run_says_what_it_shows() {
    let text = example().image().ptdump(PtdumpStyle::Kvm6).unwrap();
    let read = Ptdump::parse(text).unwrap();
    let columns = PtdumpColumns {
        valid: true,
        prot: Prot::RX,
        af: true,
    };
    let page = PtdumpRun {
        ipa: Ipa::new(0x8020_1000),
        end: 0x8020_2000,
        level: Level::L3,
        columns: Some(columns),
    };
    assert_eq!(read.runs()[3], page);
    assert!(page.is_mapped() && page.size() == 4096);
}
