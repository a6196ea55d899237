//! Any bytes as the text of KVM's `stage2_page_tables`: runs without a gap, or an error that names a line.

use s2pt::arch::{Level, Prot};
use s2pt::image::{Ptdump, PtdumpError, diff};

use super::bytes::Bytes;

const HEADING: &str = "---[ Guest IPA ]---\n";

pub fn run(input: &[u8]) {
    // Half of the inputs are the text itself; the others put lines together, which a text out of nothing rarely does.
    if input.first().is_some_and(|first| *first >= b' ') {
        text(input);
    } else {
        let mut bytes = Bytes::new(input);
        let lines = lines(&mut bytes);
        text(lines.as_bytes());
    }
}

fn text(text: &[u8]) {
    let dump = match Ptdump::parse(text) {
        Ok(dump) => dump,
        Err(error) => return refused(text, &error),
    };
    let mut end = 0;
    for run in dump.runs() {
        assert!(run.ipa.get() == end && run.end > end, "{run:?}");
        assert_eq!(run.size(), run.end - end);
        assert!(run.ipa.is_aligned(4096) && run.end % 4096 == 0);
        let invisible = run
            .columns
            .is_some_and(|columns| !columns.valid && (columns.af || !columns.prot.is_empty()));
        assert!(!invisible && (!run.is_mapped() || run.columns.is_some()));
        assert!(Level::ALL.contains(&run.level));
        end = run.end;
    }
    assert_eq!(dump.end(), end);
    assert_eq!(diff(&dump, &dump).count(), 0);
    // Blanks at the ends of lines say nothing, as long as the last line has its newline: save that Linux 6.12 shows blanks,
    // and nothing else, of a page that may only be executed.
    let whole = String::from_utf8(text.to_vec()).expect("what was read is text");
    let bare: String = whole.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    let unseen = dump.runs().iter().any(|run| {
        run.columns
            .is_some_and(|c| c.prot == Prot::X && !c.af && run.level == Level::L3)
    });
    if !unseen {
        assert_eq!(Ptdump::parse(&bare).as_ref(), Ok(&dump));
    }
    // Nothing may be missing from the middle.
    for gone in 1..whole.lines().count().min(16) {
        let without: String = whole
            .lines()
            .enumerate()
            .filter(|(at, _)| *at != gone)
            .map(|(_, line)| line.to_owned() + "\n")
            .collect();
        if let Ok(shorter) = Ptdump::parse(&without) {
            assert!(
                shorter.runs().len() < dump.runs().len() && dump.runs().starts_with(shorter.runs()),
                "{whole}"
            );
        }
    }
}

fn refused(text: &[u8], error: &PtdumpError) {
    let lines = text.split(|byte| *byte == b'\n').count();
    assert!((1..=lines).contains(&error.line()), "{error}");
    let said = error.to_string();
    assert!(said.starts_with(&format!("line {}: ", error.line())), "{said}");
    assert!(said.len() < 1200, "{said}");
}

/// Lines as a kernel writes them, most of them right.
fn lines(bytes: &mut Bytes<'_>) -> String {
    bytes.byte();
    let style = bytes.below(3);
    let mut text = if bytes.one_in(4) {
        String::new()
    } else {
        HEADING.to_owned()
    };
    let mut at = if bytes.one_in(4) { bytes.word() & !0xfff } else { 0 };
    while !bytes.is_empty() && text.len() < 4096 {
        let level = bytes.below(5) as i64 - bytes.below(2) as i64;
        let size = 0x1000u64 << (bytes.below(4) * 9 + bytes.below(9));
        let end = if bytes.one_in(8) {
            bytes.word() & !0xfff
        } else {
            at.wrapping_add(size * bytes.below(16))
        };
        let (mut shown, mut unit) = (end.wrapping_sub(at) >> 10, 0);
        while shown % 1024 == 0 && unit < 5 {
            (shown, unit) = (shown / 1024, unit + 1);
        }
        text += &format!(
            "{at:#018x}-{end:#018x}   {shown:9}{} {level}",
            ["K", "M", "G", "T", "P", "E"][unit]
        );
        text += &columns(bytes, style);
        text += if bytes.one_in(16) { "\r\n" } else { "\n" };
        at = if bytes.one_in(16) { end ^ 0x1000 } else { end };
    }
    if bytes.bool() {
        text.trim_end_matches('\n').to_owned()
    } else {
        text
    }
}

fn columns(bytes: &mut Bytes<'_>, style: u64) -> String {
    let flags = bytes.byte();
    if flags & 7 == 7 {
        return String::new();
    }
    let pick = |bit: u8, yes: &'static str, no: &'static str| if flags & bit != 0 { yes } else { no };
    let execute = match style {
        0 => pick(8, "X", " "),
        _ => ["px ux ", "PXNux ", "PXNUXN", "px UXN"][usize::from(flags >> 3 & 3)],
    };
    let columns = [
        pick(0x80, "F", " "),
        pick(1, "R", " "),
        pick(2, "W", " "),
        execute,
        pick(0x20, "AF", "  "),
        pick(0x40, "BLK", "   "),
    ];
    columns.iter().flat_map(|column| [" ", column]).collect()
}
