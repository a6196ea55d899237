//! Who does which row, and when; and which rows race.
//!
//! Rows of different threads between the same two events of the host race if they concern the same page, or if one of
//! them maps a block that the other's page lies in. Everything else commutes: it can be done literally, in any order. So
//! does a call that did nothing in the recording, since it only fills holes. In a free run everything races.

use std::collections::HashMap;

use super::event::{Call, Event, EventKind};
use super::{Order, Replay};
use crate::arch::Prot;

/// Rows between two barriers: each thread's own, in order.
pub(super) type Window = Vec<Vec<usize>>;

/// One thing after the other.
pub(super) enum Step {
    /// The host's row.
    Host(usize),
    /// Rows that threads do at the same time.
    Together(Window),
}

/// Which thread does a row. With fewer threads than vCPUs a thread does several vCPUs' rows; with more, the rows of one
/// vCPU are dealt out by the block that they lie in: what one vCPU did to a block, it did in an order that counts.
struct Deal {
    threads: usize,
    /// Recorded vCPUs, ascending.
    vcpus: Vec<u32>,
    /// The largest block that any row maps, in bytes.
    block: u64,
}

impl Deal {
    fn new(events: &[Event], threads: Option<usize>) -> Self {
        let mut vcpus: Vec<u32> = events.iter().filter_map(|e| e.vcpu).collect();
        vcpus.sort_unstable();
        vcpus.dedup();
        let threads = threads.unwrap_or(vcpus.len()).max(1);
        let block = events.iter().map(|e| e.map_size).fold(LARGEST_PAGE, u64::max);
        Self { threads, vcpus, block }
    }

    fn thread(&self, vcpu: u32, event: &Event) -> usize {
        let Ok(index) = self.vcpus.binary_search(&vcpu) else {
            return 0;
        };
        let first = index % self.threads;
        // Threads `first`, `first + vcpus`, ... are this vCPU's.
        let own = (self.threads - first).div_ceil(self.vcpus.len());
        let turn = (event.ipa.get() / self.block) as usize % own;
        first + turn * self.vcpus.len()
    }
}

/// Who else is at a row's page, before the host does anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peers {
    /// Nobody: rows are done one by one.
    Absent,
    /// Threads that race, though none whose recorded call did anything to this page.
    Harmless,
    /// Threads whose recorded calls give the page these permissions.
    AtPage(Prot),
    /// A thread whose recorded call did something to this page or a block around it.
    Racing,
}

/// The rows of a replay with threads.
pub(super) struct Script {
    /// How many threads there are, the host's in a free run included.
    pub(super) threads: usize,
    pub(super) steps: Vec<Step>,
    /// By row.
    pub(super) peers: Vec<Peers>,
}

/// What the rows of one window do to one page, or to one aligned run of a block's size.
#[derive(Clone, Copy)]
struct Use {
    thread: usize,
    shared: bool,
    block: bool,
    /// How many rows map, and what all give together.
    maps: u32,
    prot: Prot,
}

/// The largest page of any granule: what maps more maps a block.
const LARGEST_PAGE: u64 = 64 << 10;

/// Finds the rows of a window that race.
fn mark(window: &Window, events: &[Event], peers: &mut [Peers]) {
    let mut rows = Vec::new();
    for (thread, all) in window.iter().enumerate() {
        let changed = |row: &&usize| events[**row].ret == 0 && matches!(events[**row].call, Call::Map | Call::Relax);
        rows.extend(all.iter().filter(changed).map(|&row| (thread, row)));
    }
    // The largest block in the window decides how far rows can concern one another.
    let largest = rows
        .iter()
        .map(|&(_, row)| events[row].map_size)
        .fold(LARGEST_PAGE, u64::max);
    let page = |row: usize| (false, events[row].map_ipa.get() >> 12);
    let run = |row: usize| (true, events[row].map_ipa.get() / largest);
    let mut uses: HashMap<(bool, u64), Use> = HashMap::new();
    for &(thread, row) in &rows {
        for place in [page(row), run(row)] {
            let new = Use {
                thread,
                shared: false,
                block: false,
                maps: 0,
                prot: Prot::empty(),
            };
            let used = uses.entry(place).or_insert(new);
            used.shared |= used.thread != thread;
            used.block |= events[row].map_size > LARGEST_PAGE;
            used.maps += u32::from(events[row].call == Call::Map);
            used.prot |= events[row].prot;
        }
    }
    for (_, row) in rows {
        let (page, run) = (uses[&page(row)], uses[&run(row)]);
        if run.shared && run.block || page.shared && page.maps > 1 {
            peers[row] = Peers::Racing;
        } else if page.shared {
            peers[row] = Peers::AtPage(page.prot);
        }
    }
}

/// Who does what in a replay with threads.
pub(super) fn write(replay: &Replay, events: &[Event]) -> Script {
    let deal = Deal::new(events, replay.threads);
    let threads = deal.threads;
    // In a free run the host is one more thread.
    let crew = threads + usize::from(replay.order == Order::Free);
    let mut steps = Vec::new();
    let mut window: Window = vec![Vec::new(); crew];
    let mut begun = false;
    for (row, event) in events.iter().enumerate() {
        match (event.kind, event.vcpu) {
            (EventKind::Fault, _) => {}
            (EventKind::Handled, Some(vcpu)) => {
                begun = true;
                window[deal.thread(vcpu, event)].push(row);
            }
            // The slots that exist before the guest runs are made before it runs, in a free run too.
            _ if replay.order == Order::Free && begun => window[threads].push(row),
            _ => {
                if window.iter().any(|rows| !rows.is_empty()) {
                    steps.push(Step::Together(core::mem::replace(&mut window, vec![Vec::new(); crew])));
                }
                steps.push(Step::Host(row));
            }
        }
    }
    if window.iter().any(|rows| !rows.is_empty()) {
        steps.push(Step::Together(window));
    }
    let free = replay.order == Order::Free;
    let mut peers = vec![if free { Peers::Racing } else { Peers::Harmless }; events.len()];
    for step in &steps {
        if let (Step::Together(window), false) = (step, free) {
            mark(window, events, &mut peers);
        }
    }
    Script {
        threads: crew,
        steps,
        peers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::replay::{COLUMNS, Sizes};

    fn event(kind: u64, vcpu: i64) -> Event {
        let mut row = [0; COLUMNS];
        row[1] = kind;
        row[2] = vcpu as u64;
        Event::from_row(&row).unwrap()
    }

    fn shape(order: Order, threads: Option<usize>, events: &[Event]) -> (usize, Vec<String>) {
        let replay = Replay {
            order,
            sizes: Sizes::Trace,
            threads,
        };
        let Script {
            threads: crew, steps, ..
        } = write(&replay, events);
        let name = |step: &Step| match step {
            Step::Host(row) => format!("host {row}"),
            Step::Together(window) => format!("{window:?}"),
        };
        (crew, steps.iter().map(name).collect())
    }

    /// Slot, two vCPUs' faults, unmap, one more fault.
    fn events() -> Vec<Event> {
        [(5, -1), (1, 0), (2, 0), (2, 1), (2, 0), (3, -1), (2, 1)]
            .map(|(k, v)| event(k, v))
            .to_vec()
    }

    #[test]
    fn host_events_are_barriers() {
        let (crew, steps) = shape(Order::Threads, None, &events());
        assert_eq!(
            (crew, steps),
            (
                2,
                ["host 0", "[[2, 4], [3]]", "host 5", "[[], [6]]"]
                    .map(String::from)
                    .to_vec()
            )
        );
    }

    #[test]
    fn a_free_run_makes_the_host_a_thread() {
        let (crew, steps) = shape(Order::Free, None, &events());
        assert_eq!(
            (crew, steps),
            (3, ["host 0", "[[2, 4], [3, 6], [5]]"].map(String::from).to_vec())
        );
    }

    fn mapped(row: &mut Event, ipa: u64, size: u64) {
        row.call = Call::Map;
        (row.ipa, row.map_ipa, row.map_size) = (crate::arch::Ipa::new(ipa), crate::arch::Ipa::new(ipa), size);
    }

    #[test]
    fn rows_race_for_a_page_or_a_block_around_it() {
        use Peers::{AtPage, Harmless, Racing};
        let replay = Replay {
            order: Order::Threads,
            ..Replay::default()
        };
        let mut rows = [(2, 0), (2, 1), (2, 1), (5, -1), (2, 1)]
            .map(|(k, v)| event(k, v))
            .to_vec();
        let peers = |rows: &[Event]| write(&replay, rows).peers;
        mapped(&mut rows[0], 0x40_1000, 0x1000);
        mapped(&mut rows[1], 0x40_1000, 0x1000); // the same page
        mapped(&mut rows[2], 0x40_2000, 0x1000); // another page
        mapped(&mut rows[4], 0x40_1000, 0x1000); // the same page, after the barrier
        assert_eq!(peers(&rows), [Racing, Racing, Harmless, Harmless, Harmless]);
        mapped(&mut rows[2], 0x40_0000, 0x20_0000); // a block around it
        assert_eq!(peers(&rows), [Racing, Racing, Racing, Harmless, Harmless]);
        mapped(&mut rows[2], 0x60_0000, 0x20_0000); // a block elsewhere
        (rows[0].prot, rows[1].prot, rows[1].call) = (Prot::R, Prot::RW, Call::Relax);
        assert_eq!(
            peers(&rows),
            [AtPage(Prot::RW), AtPage(Prot::RW), Harmless, Harmless, Harmless]
        );
        rows[1].ret = -11; // it changed nothing
        assert_eq!(peers(&rows), [Harmless; 5]);
        assert_eq!(
            write(
                &Replay {
                    order: Order::Free,
                    ..replay
                },
                &rows
            )
            .peers,
            [Racing; 5]
        );
    }

    #[test]
    fn rows_are_dealt_to_any_number_of_threads() {
        let mut rows = events();
        let mut dealt = |ipa: u64, threads| {
            rows[4].ipa = crate::arch::Ipa::new(ipa);
            shape(Order::Threads, Some(threads), &rows).1[1].clone()
        };
        assert_eq!(dealt(0x1_0000, 1), "[[2, 3, 4]]");
        assert_eq!(dealt(0x1_0000, 4), "[[2], [3], [4], []]");
        assert_eq!(dealt(0x1_0000, 3), "[[2], [3], [4]]");
        assert_eq!(dealt(0xf000, 4), "[[2, 4], [3], [], []]"); // the same block: in order
    }
}
