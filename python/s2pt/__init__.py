"""The Arm stage-2 page table as a library."""
