//! The table itself: what each row is called, what it may cost, and what KVM's code costs.

use super::{Bench, Meter, Per, Row};
use super::{attributes, blocks, faults, lookups, reference, unmapping};

const fn row(id: &'static str, title: &'static str, per: Per, run: fn(&Bench, &mut dyn Meter)) -> Row {
    Row {
        id,
        title,
        per,
        budget_ns: None,
        budget_instructions: None,
        kvm_ns: None,
        kvm_instructions: None,
        run,
    }
}

/// The table, in the order of the design.
pub static ROWS: &[Row] = &[
    Row {
        budget_ns: Some(15.0),
        budget_instructions: Some(300.0),
        kvm_ns: Some(38.0),
        kvm_instructions: Some(808.0),
        ..row(
            "fault_page",
            "map one 4K page by fault, shared, pinned per fault",
            Per::Page,
            faults::fault_page,
        )
    },
    row(
        "fault_page_random",
        "same, pages in random order",
        Per::Page,
        faults::fault_page_random,
    ),
    Row {
        budget_ns: Some(9.0),
        ..row(
            "fault_page_batch",
            "same in a batch (one pin)",
            Per::Page,
            faults::fault_page_batch,
        )
    },
    row(
        "fault_page_exclusive",
        "map one 4K page by fault, exclusive",
        Per::Page,
        faults::fault_page_exclusive,
    ),
    Row {
        budget_ns: Some(0.5),
        kvm_ns: Some(12.5),
        kvm_instructions: Some(242.0),
        ..row(
            "map_gib",
            "map 1 GiB as 4K pages in one call, per entry",
            Per::Page,
            faults::map_pages,
        )
    },
    row(
        "map_gib_blocks",
        "map 1 GiB as 2M blocks in one call, per entry",
        Per::Block,
        faults::map_blocks,
    ),
    Row {
        budget_ns: Some(10.0),
        kvm_ns: Some(19.8),
        kvm_instructions: Some(399.0),
        ..row(
            "lookup",
            "lookup of a random page, pinned per call",
            Per::Page,
            lookups::lookup,
        )
    },
    Row {
        budget_ns: Some(3.5),
        ..row(
            "lookup_batch",
            "lookup of a random page, in a batch",
            Per::Page,
            lookups::lookup_batch,
        )
    },
    row(
        "translate",
        "translate a random page, pinned per call",
        Per::Page,
        lookups::translate,
    ),
    row(
        "translate_batch",
        "translate a random page, in a batch",
        Per::Page,
        lookups::translate_batch,
    ),
    row(
        "leaves",
        "iterate over the leaves of 1 GiB of 4K, per leaf",
        Per::Page,
        lookups::leaves,
    ),
    Row {
        budget_ns: Some(6.0),
        ..row(
            "write_protect_shared",
            "write-protect 1 GiB of 4K, shared, per entry",
            Per::Page,
            attributes::write_protect_shared,
        )
    },
    Row {
        budget_ns: Some(0.5),
        kvm_ns: Some(3.7),
        kvm_instructions: Some(75.0),
        ..row(
            "write_protect_exclusive",
            "write-protect 1 GiB of 4K, exclusive, per entry",
            Per::Page,
            attributes::write_protect_exclusive,
        )
    },
    row(
        "age",
        "test and clear the access flags of 1 GiB of 4K, shared, per entry",
        Per::Page,
        attributes::age,
    ),
    Row {
        budget_ns: Some(14.0),
        kvm_ns: Some(21.0),
        kvm_instructions: Some(451.0),
        ..row("relax_page", "relax one page", Per::Page, attributes::relax_page)
    },
    row(
        "relax_page_batch",
        "relax one page, in a batch (one pin)",
        Per::Page,
        attributes::relax_page_batch,
    ),
    Row {
        budget_ns: Some(6.5),
        ..row(
            "unmap_shared",
            "unmap 1 GiB of 4K, shared, per entry",
            Per::Page,
            unmapping::shared,
        )
    },
    Row {
        budget_ns: Some(0.5),
        kvm_ns: Some(9.1),
        kvm_instructions: Some(100.0),
        ..row(
            "unmap_exclusive",
            "unmap 1 GiB of 4K, exclusive, per entry",
            Per::Page,
            unmapping::exclusive,
        )
    },
    row(
        "unmap_page",
        "unmap one 4K page, shared, pinned per call",
        Per::Page,
        unmapping::one_page,
    ),
    row(
        "unmap_page_batch",
        "unmap one 4K page, in a batch (one pin)",
        Per::Page,
        unmapping::one_page_batch,
    ),
    Row {
        budget_ns: Some(500.0),
        kvm_ns: Some(7800.0),
        kvm_instructions: Some(144_000.0),
        ..row(
            "split_block",
            "eager split of a 2M block",
            Per::Block,
            blocks::split_block,
        )
    },
    Row {
        budget_ns: Some(700.0),
        kvm_ns: Some(106.0 + 511.0 * 39.0),
        ..row(
            "dirty_write",
            "dirty-log write into a 2M block",
            Per::Block,
            blocks::dirty_write,
        )
    },
    Row {
        budget_ns: Some(3500.0),
        kvm_ns: Some(4360.0),
        kvm_instructions: Some(35_700.0),
        ..row(
            "collapse",
            "collapse a full 2M table, shared",
            Per::Block,
            blocks::collapse,
        )
    },
    row(
        "compare_exchange",
        "for reference: an uncontended compare-exchange",
        Per::Page,
        reference::compare_exchange,
    ),
    row(
        "epoch_pin",
        "for reference: an epoch pin",
        Per::Page,
        reference::epoch_pin,
    ),
];
