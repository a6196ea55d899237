"""Who is asked first about each mutation of src/faults/protocol.rs, and which of them nothing can catch.

Found by ``python3 tests/protocol_mutations.py --search``, and where several notice a mutation the one that shows
best what it breaks.
"""

from __future__ import annotations

CATCHERS: dict[str, str] = {
    "PublishBlind": "loom loom_table two_maps_race_for_one_empty_slot",
    "ChangeBlind": "loom loom_table rights_added_and_taken_in_place_are_never_lost",
    "MarkBlind": "loom loom_mutations two_marks_of_one_page_do_not_mix_with_a_page",
    "LockBlind": "loom loom_table two_unmaps_of_the_last_two_pages_free_the_table",
    "FreezeBlind": "loom loom_table a_table_emptied_beside_a_merge_that_is_called_off_is_freed",
    "PublishLossTaken": "loom loom_table two_maps_race_for_one_empty_slot",
    "ChangeLossTaken": "loom loom_table rights_added_and_taken_in_place_are_never_lost",
    "MarkLossTaken": "loom loom_mutations two_marks_of_one_page_do_not_mix_with_a_page",
    "LockLossTaken": "loom loom_table two_unmaps_of_the_last_two_pages_free_the_table",
    "FreezeStale": "loom loom_table a_table_emptied_beside_a_merge_that_is_called_off_is_freed",
    "RetryForgotten": "loom loom_mutations two_marks_of_one_page_do_not_mix_with_a_page",
    "LoadRelaxed": "loom loom_table a_walker_that_finds_a_new_table_finds_it_filled",
    "PublishRelaxed": "loom loom_table a_walker_that_finds_a_new_table_finds_it_filled",
    "MakeRelaxed": "loom loom_table a_table_emptied_beside_a_merge_that_is_called_off_is_freed",
    "ThawRelaxed": "loom loom_mutations an_unlink_that_is_called_off_meets_another_below",
    "LockRelaxed": "loom loom_mutations an_unlink_that_is_called_off_meets_another_below",
    "FreezeRelaxed": "loom loom_mutations an_unlink_above_meets_one_that_is_called_off",
    "BreakSkipped": "plain machine_mutations pages_get_another_output",
    "BatchMadeFirst": "plain machine_mutations pages_go_together_by_one_range_tlbi",
    "UnmapMadeFirst": "plain machine_mutations a_page_goes",
    "CutMadeFirst": "plain machine_mutations a_block_is_cut",
    "TableMadeFirst": "plain machine_mutations a_table_goes",
    "EmptyMadeFirst": "plain machine_mutations the_last_page_goes_with_its_table",
    "CollapseMadeFirst": "plain machine_mutations a_table_is_merged",
    "KvmMadeFirst": "plain machine_mutations kvm_replaces_a_leaf",
    "KvmUnmapMadeFirst": "plain machine_mutations kvm_unmaps_with_one_tlbi",
    "BatchTlbiFirst": "plain machine_mutations pages_go_together_by_one_range_tlbi",
    "UnmapTlbiFirst": "plain machine_mutations a_page_goes",
    "CutTlbiFirst": "plain machine_mutations a_block_is_cut",
    "TableTlbiFirst": "plain machine_mutations a_table_goes",
    "CollapseTlbiFirst": "plain machine_mutations a_table_is_merged",
    "ProtectTlbiFirst": "plain machine_mutations rights_are_taken",
    "LogTlbiFirst": "plain machine_mutations a_dirty_log_is_harvested",
    "BatchMakesPeers": "plain table_mutations entries_of_a_peer_between_ones_own_stay_locked",
    "RemovedUntold": "plain machine_mutations pages_go_together_by_one_range_tlbi",
    "ReplacedUntold": "plain machine_mutations pages_get_another_output",
    "UnmapUntold": "plain machine_mutations a_page_goes",
    "CutUntold": "plain machine_mutations a_block_is_cut",
    "TableUntold": "plain machine_mutations a_table_goes",
    "EmptyUntold": "plain machine_mutations the_last_page_goes_with_its_table",
    "CollapseUntold": "plain machine_mutations a_table_is_merged",
    "ProtectUntold": "plain machine_mutations rights_are_taken",
    "LogUntold": "plain machine_mutations a_dirty_log_is_harvested",
    "NarrowUntold": "plain machine_mutations a_map_narrows_in_place",
    "WidenUntold": "plain machine_mutations a_fault_gets_its_right_by_a_map",
    "RelaxUntold": "plain machine_mutations a_fault_gets_its_right_with_its_neighbours",
    "RelaxPageUntold": "plain machine_mutations a_fault_gets_its_right",
    "SettledUntold": "plain machine_mutations a_fault_finds_its_right_granted_by_another_cpu",
    "FlushUntold": "plain machine_mutations kvm_takes_rights_and_invalidates_then",
    "KvmReplaceUntold": "plain machine_mutations kvm_replaces_a_leaf",
    "KvmLinkUntold": "plain machine_mutations kvm_puts_an_empty_table_in_place_of_a_block",
    "KvmUnmapUntold": "plain machine_mutations kvm_unmaps_leaf_by_leaf",
    "KvmRefusalUntold": "plain bug_history kvm::b08_b20_kvm_relaxing_a_hole_is_again_and_hints_no_level",
    "LeafHint": "plain machine_mutations a_page_goes",
    "TableHint": "plain machine_mutations tables_of_two_levels_go",
    "MixedHint": "plain machine_mutations rights_of_a_block_and_of_pages_are_taken_together",
    "SpanShrinks": "plain machine_mutations rights_are_taken",
    "OneForMany": "plain machine_mutations pages_go_together_by_single_tlbis",
    "RangeShort": "plain machine_mutations pages_go_together_by_one_range_tlbi",
    "LocalForBroadcast": "plain machine_mutations pages_go_together_by_one_range_tlbi",
    "Stage1Dropped": "plain machine_mutations a_page_goes",
    "DsbBeforeDropped": "plain machine_mutations a_page_goes",
    "DsbStage2Dropped": "plain machine_mutations a_page_goes",
    "DsbStage1Dropped": "plain machine_mutations a_page_goes",
    "DsbLocal": "plain machine_mutations a_page_goes",
    "IsbDropped": "plain table_mutations steps_of_maintenance_come_in_their_order",
    "PublishBarrierMap": "plain machine_mutations what_is_mapped_is_visible_to_other_cpus",
    "PublishBarrierFault": "plain machine_mutations what_a_fault_maps_is_visible_to_other_cpus",
    "PublishBarrierCut": "plain machine_mutations a_block_is_split_under_a_cpu_that_held_nothing_of_it",
    "PublishBarrierMerge": "plain machine_mutations a_merge_is_visible_to_other_cpus",
    "OutputUncleaned": "plain bug_history attributes::b24_each_half_of_execute_invalidates_instructions",
    "OutputCleanedLate": "plain table_mutations steps_of_maintenance_come_in_their_order",
    "LockedNotAwaited": "loom loom_table a_table_emptied_beside_a_merge_that_is_called_off_is_freed",
    "LockedSkipped": "plain table_mutations who_does_not_wait_lets_go_of_what_he_holds",
    "LockedShown": "plain table_mutations who_does_not_wait_lets_go_of_what_he_holds",
    "LockedFilled": "plain table_mutations nobody_maps_a_page_before_its_tlbi",
    "FrozenSkipped": "loom loom_table a_table_emptied_beside_a_merge_that_is_called_off_is_freed",
    "FrozenShown": "loom loom_table a_table_emptied_beside_a_merge_that_is_called_off_is_freed",
    "FrozenFilled": "loom loom_table an_unlink_that_is_called_off_loses_nothing",
    "FrozenRead": "loom loom_table a_stay_that_has_seen_a_table_meets_its_unlink",
    "HeldAtLocked": "plain table_mutations who_waits_for_a_peer_holds_nothing_meanwhile",
    "HeldAtFrozen": "loom loom_mutations who_meets_a_frozen_entry_lets_go_of_what_he_holds",
    "KvmHeldAtLocked": "plain table_mutations who_waits_for_a_peer_holds_nothing_meanwhile",
    "FreezeNothing": "loom loom_table an_unlink_that_is_called_off_loses_nothing",
    "FreezeNotPages": "loom loom_table an_unlink_that_is_called_off_loses_nothing",
    "FreezeNotAbove": "loom loom_mutations an_unlink_above_meets_one_that_is_called_off",
    "FreezeNotLast": "loom loom_table an_unlink_that_is_called_off_loses_nothing",
    "FreezeOverLocked": "loom loom_table a_table_emptied_beside_a_merge_that_is_called_off_is_freed",
    "ThawNothing": "plain machine_mutations an_unlink_that_is_called_off_keeps_what_hardware_noted",
    "ThawTopFirst": "loom loom_mutations an_unlink_that_is_called_off_meets_another_below",
    "MadeBeforeThaw": "loom loom_table a_table_emptied_beside_a_merge_that_is_called_off_is_freed",
    "UnlinkUnasked": "plain machine_mutations an_unlink_that_is_called_off_keeps_what_hardware_noted",
    "EmptyUnchecked": "loom loom_table an_unlink_that_is_called_off_loses_nothing",
    "CollapseUnchecked": "loom loom_table a_table_emptied_beside_a_merge_that_is_called_off_is_freed",
    "BusyLeft": "loom loom_table a_table_emptied_beside_a_merge_that_is_called_off_is_freed",
    "EmptyLeft": "plain table_mutations the_last_page_takes_its_table_along",
    "LookUnfenced": "loom loom_table what_two_unmaps_leave_empty_is_freed_though_neither_emptied_it_alone",
    "NeighbourUnfenced": "loom loom_table two_unmaps_of_the_last_two_pages_free_the_table",
    "LinkedHollow": "loom loom_table a_walker_that_finds_a_new_table_finds_it_filled",
    "CutDropsRest": "plain machine_mutations a_block_is_cut",
    "CutDropsAf": "plain machine_mutations a_cut_keeps_what_hardware_noted",
    "CutDropsDirty": "plain machine_mutations a_cut_keeps_what_hardware_noted",
    "CollapseDropsAf": "plain machine_mutations a_merge_keeps_what_hardware_noted",
    "CollapseDropsDirty": "plain machine_mutations a_merge_keeps_what_hardware_noted",
    "ThawDropsDirty": "plain machine_mutations an_unlink_that_is_called_off_keeps_what_hardware_noted",
    "NarrowingUntold": "loom loom_mutations who_finds_a_right_gone_returns_after_a_tlbi",
    "NarrowingUnasked": "loom loom_mutations who_finds_a_right_gone_returns_after_a_tlbi",
    "NarrowedEarly": "loom loom_mutations who_finds_a_right_gone_returns_after_a_tlbi",
    "NarrowedRelaxed": "loom loom_mutations who_finds_a_right_gone_returns_after_a_tlbi",
    "NarrowedSeenRelaxed": "loom loom_mutations who_finds_a_right_gone_returns_after_a_tlbi",
    "FreedBeforeTlbi": "plain machine_mutations a_table_goes",
    "FreedBeforeMade": "plain table_mutations a_stay_sees_what_became_of_its_table",
    "FreedAtOnce": "plain table_mutations a_stay_sees_what_became_of_its_table",
    "WalkUnpinned": "plain table_mutations a_stay_sees_what_became_of_its_table",
    "TrailKeptOnRepin": "plain table_mutations a_stay_that_has_repinned_stands_nowhere",
    "RetireForgotten": "plain machine_mutations tables_of_two_levels_go",
    "RetireTopOnly": "plain machine_mutations tables_of_two_levels_go",
    "RetireTwice": "plain machine_mutations tables_of_two_levels_go",
    "DrainAtOnce": "plain table_mutations frames_of_every_operation_come_back",
    "ReservedAfterBreak": "plain table_mutations a_cut_without_frames_leaves_the_block_as_it_was",
    "PlanUnreserved": "plain table_mutations a_map_happens_wholly_or_not_at_all",
    "UndoForgotten": "plain table_mutations a_map_that_is_refused_half_way_takes_back_what_it_did",
    "ReserveKept": "plain table_mutations who_does_not_wait_lets_go_of_what_he_holds",
    "CacheClaimKept": "plain table_mutations frames_at_hand_are_let_go_by_a_call_that_needs_more",
    "LostTableLeaks": "plain bug_history races::b34_a_table_that_could_not_be_linked_goes_back",
    "LostTableTwice": "plain bug_history races::b34_a_table_that_could_not_be_linked_goes_back",
    "FreeUnzeroed": "plain table_mutations a_frame_comes_zeroed",
    "ZeroedLate": "plain table_mutations a_frame_stays_as_its_taker_filled_it",
    "PushRelaxed": "loom lib a_head_that_came_back_is_not_mistaken",
    "PopRelaxed": "loom lib two_threads_take_and_free",
    "PopFoundRelaxed": "loom lib a_head_that_came_back_is_not_mistaken",
    "PushLinkLate": "loom lib a_head_that_came_back_is_not_mistaken",
    "TagKept": "loom lib a_head_that_came_back_is_not_mistaken",
    "ReleaseRelaxed": "loom lib a_granted_reservation_finds_a_frame",
    "ReserveRelaxed": "loom lib a_granted_reservation_finds_a_frame",
    "MovedUnasked": "plain vm a_page_taken_back_under_a_fault_is_not_installed",
    "SettleSkipped": "plain vm a_take_back_waits_for_an_install_under_way",
    "SlotsUnasked": "plain vm logging_switched_on_under_a_fault_makes_it_retry",
    "BitsTakenLate": "plain vm a_write_during_a_harvest_is_in_the_next_one",
    "MarkedFirst": "plain vm a_lost_race_is_again_and_marks_nothing",
}
"""Build, test binary and test."""

SURVIVORS: dict[str, str] = {
    "ChangeRelaxed": (
        "Since the models' collector has the fences of crossbeam's: a walk pins, and the fence of the pin stands "
        "between what the operation announced before and the exchange. With a counter in place of the fences "
        "`who_finds_a_right_gone_returns_after_a_tlbi` failed. The ordering stands for access modes without a fence."
    ),
    "PendingRelaxed": (
        "As ChangeRelaxed: the collector's fences order what was freed before who drains. With a counter in their "
        "place `what_is_drained_was_told` failed."
    ),
    "DrainRelaxed": ("As PendingRelaxed."),
    "FoundRelaxed": (
        "Only a freeze uses what a lost exchange found, and it exchanges that once more: that exchange "
        "acquires. Nothing could see it; the ordering stands for who uses the value otherwise one day."
    ),
    "TrailFrozen": (
        "Slower, not wrong: each user of the entry looks for FROZEN again and begins anew at the root. A "
        "count of walks from the root would see it."
    ),
    "TrailAboveFrozen": ("As TrailFrozen."),
    "CountedEarly": (
        "`take` looks again until the frame is there: a wait of the few instructions between count and "
        "push. A `take` that gave up at the first look would fail the loom model "
        "`a_granted_reservation_finds_a_frame`."
    ),
    "PopTakenRelaxed": (
        "The head carries a tag that no other write repeats, so the exchange reads the very write that the "
        "load of the head has acquired."
    ),
    "MarkerRelease": (
        "Store buffering, that is a store and a later load of another word that change places. The models "
        "do not have it: loom takes SeqCst accesses for acquire and release, shuttle executes in one order. "
        "GenMC or herd7 on the six accesses of `vm/policy.rs` would, or a litmus run on hardware."
    ),
    "MarkLooksFirst": (
        "Store buffering of the entry and the bit. On x86 the exchange that makes the page writable is a "
        "barrier, and loom does not run the vm layer. GenMC or herd7 on `Bitmap::mark` and `take` beside an "
        "entry would see it, or a litmus run on hardware."
    ),
}
"""Why it makes no difference that any test here can see, and what would see one."""
