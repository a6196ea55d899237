"""Table frames run short, from Python: every allocation of random scripts is refused once, and nothing changes.

The reference is `s2pt.model`, which never hears of the refusals. `tests/table_pressure` does the same in
Rust, for both semantics, every granule, in threads, and with readers that stay.
"""

from __future__ import annotations

import random
import threading

import pytest

import s2pt
from s2pt import Prot, Stage2
from s2pt.model import ModelStage2

PAGE, BLOCK = 4096, 2 << 20
START = (1 << 30) - 2 * BLOCK  # across a border of the level above
BLOCKS = 4


def call(chance: random.Random):
    """One random operation: its name and arguments."""
    size = chance.choice([PAGE, PAGE, 5 * PAGE, BLOCK // 2, BLOCK, BLOCK, BLOCK + PAGE, 2 * BLOCK])
    ipa = START + chance.randrange(BLOCKS * BLOCK // PAGE) * PAGE
    if chance.random() < 0.5:
        ipa -= ipa % BLOCK
    prot = chance.choice([Prot.RW, Prot.RW, Prot.R, Prot.RWX])
    name = chance.choice(["map"] * 5 + ["unmap", "unmap", "protect", "write_protect", "split", "collapse", "collapse"])
    match name:
        case "map":
            pa = (1 << 32) + ipa if chance.random() < 0.6 else (1 << 40) + chance.randrange(1 << 18) * PAGE
            return name, (ipa, size, pa, prot), {"existing": chance.choice(["replace", "replace", "keep", "error"])}
        case "protect":
            return name, (ipa, size, prot), {}
        case "collapse":
            return name, (ipa - ipa % BLOCK, 2 * BLOCK), {}
        case _:
            return name, (ipa, size), {}


def outcome(s2, name, arguments, keywords):
    """Give what a call answers or raises, comparable; a refusal for want of frames as it is."""
    try:
        return getattr(s2, name)(*arguments, **keywords)
    except s2pt.OutOfFramesError as refused:
        return refused
    except s2pt.S2ptError as error:
        return type(error), getattr(error, "ipa", None)


def state(s2):
    return list(s2.leaves()), s2.stats(), s2.frames_in_use


@pytest.mark.parametrize("seed", range(4))
def test_every_allocation_of_a_script_is_refused_once(seed):
    chance = random.Random(seed)
    s2, model = Stage2(), ModelStage2()
    refusals = 0
    for _ in range(100):
        name, arguments, keywords = call(chance)
        s2.drain()  # with frames pending the call would collect them, and get what it needs
        before = state(s2)
        for k in range(1 << 10):
            s2.fail_allocation(k)
            answer = outcome(s2, name, arguments, keywords)
            if not isinstance(answer, s2pt.OutOfFramesError):
                s2.fail_allocation((1 << 64) - 1)  # not asked for
                break
            assert isinstance(answer, MemoryError)
            assert answer.needed > answer.available == k
            s2.drain()
            assert state(s2) == before, (name, arguments, keywords, k)
            refusals += 1
        s2.drain()
        assert answer == outcome(model, name, arguments, keywords)
        assert state(s2) == state(model), (name, arguments, keywords)
    assert refusals > 10
    assert s2.reclaim.pending == 0
    assert s2.reclaim.freed == s2.reclaim.retired > 0


@pytest.mark.parametrize("seed", range(4))
def test_a_quota_refuses_what_the_model_refuses(seed):
    """Without a drain: what is pending never decides whether a call gets its frames."""
    chance = random.Random(seed)
    s2, model = Stage2(frames=7), ModelStage2(frames=7)
    refused = 0
    for _ in range(200):
        name, arguments, keywords = call(chance)
        answers = [outcome(table, name, arguments, keywords) for table in (s2, model)]
        lacking = [isinstance(answer, s2pt.OutOfFramesError) for answer in answers]
        assert lacking[0] == lacking[1], (name, arguments, keywords)
        refused += lacking[0]
        assert lacking[0] or answers[0] == answers[1], (name, arguments, keywords)
        assert list(s2.leaves()) == list(model.leaves())
    assert refused > 0
    s2.drain()
    assert s2.frames_in_use == model.frames_in_use


def test_collapse_and_split_in_turn_without_a_frame_to_spare():
    s2 = Stage2(frames=4)
    s2.map(0, BLOCK, 0)
    for _ in range(2000):
        assert s2.split(0, BLOCK) == 1
        assert s2.collapse(0, BLOCK) == 1
    assert s2.reclaim.retired == 2000
    assert s2.reclaim.peak == 1
    assert s2.reclaim.overruns == 0


def test_threads_that_share_a_quota():
    """Each of four threads has a block of its own, and there is one table for each."""
    s2 = Stage2(frames=3 + 4, pending_limit=0)
    for block in range(4):
        s2.map(block * BLOCK, BLOCK, block * BLOCK)
    failed = []

    def cycle(block):
        try:
            for _ in range(300):
                assert s2.split(block * BLOCK, BLOCK) == 1
                assert s2.collapse(block * BLOCK, BLOCK) == 1
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=cycle, args=(block,)) for block in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    s2.drain()
    assert s2.reclaim.retired == s2.reclaim.freed == 1200
    assert s2.frames_in_use == 3


@pytest.mark.parametrize("limit", [-1, 1 << 64, 1.5, "many", True])
def test_a_limit_that_is_no_number_of_frames(limit):
    with pytest.raises((TypeError, ValueError)) as caught:
        Stage2(pending_limit=limit)
    assert "pending_limit" in str(caught.value)


def test_the_model_of_what_was_reclaimed_is_typed():
    stats = Stage2().reclaim
    assert isinstance(stats, s2pt.ReclaimStats)
    assert (stats.retired, stats.freed, stats.pending, stats.peak, stats.overruns) == (0, 0, 0, 0, 0)
    closed = Stage2()
    closed.close()
    with pytest.raises(s2pt.ClosedError):
        _ = closed.reclaim
