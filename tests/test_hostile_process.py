"""What concerns the whole process: Ctrl-C, fork, threads that end, memory that is short, the interpreter's end.

Each in a process of its own, since what it is about would take this one with it: a hang, an abort, a signal.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

PRELUDE = """
import faulthandler, gc, os, resource, signal, sys, threading, time
import numpy as np
import s2pt
import s2pt.image
from s2pt import ClosedError, DirtyLog, S2ptError, Stage2, Vm, _core
faulthandler.enable()
faulthandler.dump_traceback_later(60, exit=True)
MIB = 1 << 20

def interrupt_after(seconds):
    signal.setitimer(signal.ITIMER_REAL, seconds)
signal.signal(signal.SIGALRM, signal.default_int_handler)

def less_memory(more):
    # Numpy's and the interpreter's own stay; so much is left for what comes.
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more,) * 2)
"""


def run(script, *options, env=None):
    """Run a script to its end; return what it printed. It may neither fail nor say anything else."""
    command = [sys.executable, *options, "-c", PRELUDE + textwrap.dedent(script)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=75, check=False, env={**os.environ, **(env or {})}
    )
    assert (done.returncode, done.stderr) == (0, ""), (done.returncode, done.stdout, done.stderr[-3000:])
    return done.stdout.split("\n")[:-1]


# ------------------------------------------------------------------------------------------------- Ctrl-C

# One of each way in which the extension goes through an array.
INTERRUPTED = {
    "map_many": "s2.map_many(pages, pages, existing='keep')",
    "Vm.touch": "vm.touch(pages)",
    "access_many": "image.access_many(pages)",
}


@pytest.mark.parametrize("call", INTERRUPTED.values(), ids=INTERRUPTED)
def test_an_interrupt_ends_a_long_call(call):
    """It ends before it is done, and what it did until then is whole. What is compared is time of the processor."""
    assert run(f"""
        s2, vm = Stage2(), Vm(memory="4MiB", ipa=0)
        s2.map(0, "4MiB", pa=0, largest=3)
        image = s2.image()

        def took(interrupted_after=0):
            begun = time.process_time()
            try:
                interrupt_after(interrupted_after)
                {call}
            except KeyboardInterrupt:
                print("interrupted")
            return time.process_time() - begun

        few = np.arange(64, dtype=np.uint64) * np.uint64(4096)
        count, whole = 1 << 11, 0
        while whole < 0.25:
            count *= 4
            pages = np.tile(few, count)
            whole = took()
        part = took(0.05)
        print(part < 0.8 * whole or (part, whole))
        s2.drain()
        stats = s2.stats()
        print((stats.locked, stats.frozen), s2.frames_in_use == sum(stats.tables.values()))
    """) == ["interrupted", "True", "(0, 0) True"]


def test_an_interrupt_ends_the_wait_for_a_job():
    """`wait` was deaf for as long as it was told to wait."""
    assert run("""
        job = _core.BenchJob(rounds=1000, size="1GiB")
        job.start()
        try:
            interrupt_after(0.1)
            job.wait(float("inf"))
        except KeyboardInterrupt:
            print("interrupted")
        job.cancel()
        print(job.wait(30))
        vm = Vm(memory="64MiB")
        try:
            interrupt_after(0.1)
            vm.run(DirtyLog(iterations=2**31), poll_s=float("inf"))
        except KeyboardInterrupt:
            print("interrupted")
        print(vm.stats().locked)
    """) == ["interrupted", "True", "interrupted", "0"]


# ------------------------------------------------------------------------------------------------- fork

FORK = """
def in_child(work):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)  # the thread that looks after the time is not there either
        try:
            work()
        except ClosedError as refused:
            print("refused:", refused)
        sys.stdout.flush()
        os._exit(0)
    print(os.waitpid(child, 0)[1])
"""


def test_a_child_of_a_quiet_process_has_its_own_table():
    assert run(f"""{FORK}
s2 = Stage2()
s2.map(0, "2MiB", pa=0, largest=3)
s2.unmap(0, 4096)
threads = [threading.Thread(target=s2.translate, args=(8192,)) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
vm = Vm(memory="4MiB", policy="serial")

def work():
    print(s2.unmap(0, "2MiB"), s2.map(1 << 30, 4096, pa=0), list(s2)[0].ipa == 1 << 30)
    s2.drain()
    print(s2.frames_in_use == sum(s2.stats().tables.values()))
    print(vm.access(1 << 30, "w").level, vm.take_back(1 << 30, 4 * MIB))
    other = Stage2()
    print(other.map(0, 4096, pa=0))

in_child(work)
print(s2.stats().mapped_bytes, vm.stats().mapped_bytes)
""") == [
        "2093056 Mapped(bytes=4KiB, kept=0B) True", "True", "2 (2097152, False)", "Mapped(bytes=4KiB, kept=0B)", "0",
        "2093056 0",
    ]  # fmt: skip


BUSY = {
    "a stalled TLBI": (
        "s2 = Stage2(stall_tlbi_ns=500_000_000); s2.map(0, '2MiB', pa=0, largest=3)", "s2.unmap(0, 4096)",
        "s2.unmap(0, 4096)",
    ),
    "a whole array": (
        "s2 = Stage2(); pages = np.arange(1 << 20, dtype=np.uint64) * np.uint64(4096)",
        "[s2.map_many(pages, pages) for _ in range(8)]", "s2.drain()",
    ),
    "a fault": (
        "s2 = Vm(memory='64MiB', policy='serial', stall_tlbi_ns=500_000_000); s2.access(1 << 30, 'w')",
        "s2.take_back(1 << 30, 4096)", "s2.access(1 << 30, 'w')",
    ),
    "a sink": (
        "s2 = Stage2(sink=lambda kind, fields: kind == 'tlbi_ipa' and time.sleep(0.5)); s2.map(0, '2MiB', pa=0)",
        "s2.unmap(0, 4096)", "s2.stats()",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "work", "call"), BUSY.values(), ids=BUSY)
def test_a_child_of_a_busy_process_refuses_and_does_not_wait(make, work, call):
    """It waited for a thread that there is not."""
    said = run(f"""{FORK}
{make}
begun = threading.Event()

def at_work():
    begun.set()
    {work}

thread = threading.Thread(target=at_work)
thread.start()
begun.wait()
time.sleep(0.1)

def work():
    try:
        {call}
    finally:
        (s2.close if isinstance(s2, Stage2) else repr)(*(() if isinstance(s2, Stage2) else (s2,)))
        gc.collect()

in_child(work)
thread.join()
{call}
print("parent goes on")
""")
    kind = make.split("(")[0].split()[-1]
    refused = f"refused: another thread was at work in this {kind} when the process was forked: it stays closed here"
    assert said == [refused, "0", "parent goes on"]


def test_a_child_does_not_wait_for_the_parents_job():
    assert run(f"""{FORK}
job = _core.BenchJob(rounds=1000, size="1GiB")
job.start()
in_child(lambda: job.wait(1000))
job.cancel()
print(job.wait(30))
""") == [
        "refused: another thread was at work in this job when the process was forked: it stays closed here",
        "0",
        "True",
    ]


# ------------------------------------------------------------------------------------------------- threads that end


def test_threads_that_end_leave_nothing_behind():
    """Each registers with the table; the iterators that they began are used by others, and go after the table does."""
    said = run("""
        s2 = Stage2(sink="counting")
        s2.map(0, "2MiB", pa=0, largest=3)
        iterators = []

        def some():
            leaves = iter(s2)
            next(leaves)
            iterators.append(leaves)
            s2.unmap(0, 4096)
            s2.map(0, 4096, pa=0)

        def threads(number):
            for _ in range(number):
                thread = threading.Thread(target=some)
                thread.start()
                thread.join()

        def resident():
            gc.collect()
            return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

        threads(500)
        iterators.clear()
        before = resident()
        threads(3000)
        print(len({next(leaves).ipa for leaves in iterators}))
        iterators[1:] = []
        grown = resident() - before
        print(grown < 2 * MIB, "" if grown < 2 * MIB else grown)
        s2.unmap(0, "2MiB")
        s2.drain()
        print(s2.frames_in_use)
        s2.close()
        try:
            next(iterators[0])
        except ClosedError as closed:
            print(closed)
        del s2
        iterators.clear()
        gc.collect()
    """)
    assert said == ["1", "True ", "2", "this Stage2 was closed"]


@pytest.mark.parametrize("how", ["daemon", "waiting", "job", "kept"])
def test_the_interpreter_ends_with_threads_at_work(how):
    assert run(f"""
        import builtins
        how = {how!r}
        s2 = builtins.s2 = Stage2(stall_tlbi_ns=1000)
        pages = np.arange(1 << 14, dtype=np.uint64) * np.uint64(4096)

        def work():
            while True:
                s2.map_many(pages, pages)
                s2.unmap_many(pages)
                list(s2)

        if how == "daemon":
            [threading.Thread(target=work, daemon=True).start() for _ in range(3)]
        elif how == "waiting":
            threading.Thread(target=lambda: time.sleep(0.3) or s2.map_many(pages, pages)).start()
        elif how == "job":
            job = builtins.job = _core.BenchJob(rounds=1000, size="1GiB")
            job.start()
        else:
            builtins.leaves = iter(s2)
        time.sleep(0.1)
        print("leaving")
    """) == ["leaving"]


# ------------------------------------------------------------------------------------------------- memory that is short


SHORT = {
    "Stage2": ("", "Stage2()", "S2ptError"),
    "translate_many": ("pages = np.zeros(20_000_000, np.uint64)", "s2.translate_many(pages)", "MemoryError"),
    "a replay": ("rows = np.zeros((2_000_000, 21), np.uint64)", "_core.ReplayJob(rows, ipa_bits=40, granule=4096, "
                 "start_level=None, lpa2=False, policy='serial', order='free', sizes='trace')", "MemoryError"),
    "leaves_array": ("s2.map(0, '4GiB', pa=0, largest=3)", "s2.leaves_array()", "MemoryError"),
    "bytes": ("data = bytes(1 << 27)", "s2pt.image.Image.from_bytes(data)", "MemoryError"),
    "a dirty log": ("vm = Vm(memory='16TiB', ipa_bits=48)", "vm.enable_dirty_log(0)", "S2ptError"),
}  # fmt: skip


@pytest.mark.parametrize(("prepare", "call", "error"), SHORT.values(), ids=SHORT)
def test_memory_is_short(prepare, call, error):
    """The process was aborted."""
    assert run(f"""
        s2 = Stage2()
        {prepare}
        before = s2.stats()
        less_memory(12 * MIB)
        try:
            {call}
        except (MemoryError, S2ptError) as refused:
            print(type(refused).__name__)
        print(s2.stats() == before, s2.map(1 << 33, 4096, pa=0).bytes)
    """) == [error, "True 4096"]


THREADS_SHORT = """
import s2pt
vm = Vm(memory="1GiB", backing="pages")
job = _core.BenchJob(rounds=1, size="2MiB")
os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NPROC, (12, 12))
try:
    vm.run(DirtyLog(vcpus=64, bytes_per_vcpu="1MiB"))
except S2ptError as refused:
    print(str(refused).split(",")[0])
print(vm.stats().locked)
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
try:
    job.start()
except S2ptError as refused:
    print(str(refused).split(":")[0])
print(job.wait(1))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a limit on threads holds for a user of one's own, which takes root")
def test_threads_are_short():
    """One job panicked; the threads of another waited for those that never came."""
    said = run(THREADS_SHORT)
    assert said == ["the run needs 64 threads", "0", "cannot start a thread", "True"]


# ------------------------------------------------------------------------------------------------- the interpreter


SUBINTERPRETER = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
other = interpreters.create()
try:
    failed = getattr(interpreters, "run_string")(other, "import s2pt")
except Exception as error:
    failed = error
print("ImportError" in repr(failed) or "ImportError" in str(failed))
print(Stage2().map(0, 4096, pa=0))
"""


def test_a_second_interpreter_is_refused_the_module():
    assert run(SUBINTERPRETER) == ["True", "Mapped(bytes=4KiB, kept=0B)"]


def test_developer_mode_has_nothing_to_say():
    """`-X dev` and PYTHONMALLOC=debug look at every allocation and every reference that is held wrongly."""
    assert run(
        """
        s2 = Stage2(sink=lambda kind, fields: None)
        pages = np.arange(4000, dtype=np.uint64) * np.uint64(4096)
        s2.map_many(pages, pages)
        s2.unmap_many(pages[::2])
        for wrong in (-1, "x", 1 << 50, pages, None):
            try:
                s2.map(wrong, 1, 1) or s2[wrong] or s2.map_many(pages, wrong)
            except (S2ptError, TypeError):
                pass
        image = s2.image()
        print(len(list(s2)) == len(list(image)), len(image.leaves_array()), s2.explain(0).result is not None)
        vm = Vm(memory="4MiB")
        print(vm.run(DirtyLog(iterations=1)).vcpus)
        s2.close()
    """,
        "-X",
        "dev",
        "-W",
        "error",
        env={"PYTHONMALLOC": "debug"},
    ) == ["True 2000 True", "1"]


def test_deep_recursion():
    """Python says so itself, and the table is as it was."""
    assert run("""
        s2 = Stage2()
        depth = 0

        class Deep:
            def __index__(self):
                global depth
                depth += 1
                s2.unmap(Deep(), 4096)

        try:
            s2.unmap(Deep(), 4096)
        except RecursionError:
            print("too deep", depth > 100)
        print(s2.map(0, 4096, pa=0))
    """) == ["too deep True", "Mapped(bytes=4KiB, kept=0B)"]


# ------------------------------------------------------------------------------------------------- the command


HOSTILE_OPTIONS = [
    ["dirty-log", "-v", "9" * 5000], ["dirty-log", "-v", "-1"], ["dirty-log", "-b", "9" * 5000], ["dirty-log", "-b",
    "1XiB"],
    ["dirty-log", "--stall-tlbi", "9" * 5000 + "s"], ["dirty-log", "--stall-tlbi", "2s"], ["dirty-log", "-i", "9" * 30],
    ["dirty-log", "-v", "1" * 20], ["dirty-log", "-v", "٣"], ["replay", "no such file"], ["replay", "\x01"],
    ["inspect", "/"], ["inspect", ""], ["explain", "9" * 5000], ["decode", "entry", "9" * 5000], ["decode", "entry",
    "-1"],
    ["decode", "vtcr", "0x" + "f" * 40], ["diff", "a", "b"], ["diff", "/", "/"], ["bench", "--size", "9" * 5000],
    ["bench", "--rounds", "9" * 30], ["bench", "--only", "no such row"], ["no-such-command"], ["--no-such-option"],
    ["decode", "esr", "1", "--far", "9" * 5000], ["inspect", "x" * 5000], ["replay", "x", "--stall-tlbi", "nan"],
]  # fmt: skip


def test_hostile_options_of_the_command(capsys):
    """One line and exit code 2, for each."""
    app = pytest.importorskip("s2pt.cli.app")
    for options in HOSTILE_OPTIONS:
        code = app.run(options)
        told = capsys.readouterr()
        shown = [option[:30] for option in options]
        assert code == 2, (shown, told)
        assert told.err.startswith("s2pt: error: "), (shown, told.err)
        assert told.err.count("\n") == 1, shown
