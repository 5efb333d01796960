"""bench initramfs: how long packing takes, the search for libraries included, with everything in the page cache.

Two figures: the packer alone, 21 times in one process (tests/unit/boot/initramfs-bench), and the `initramfs` phase of
real runs of ktstr-vm, which has everything else that a run packs in it. Those runs are interrupted as soon as the
machine starts.
"""
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys

from common import arguments, finish, heading, KTSTR_VM, ktstr_vm, phases_of, reached, result_of, spread, table, Watched

REQUIRED_MS = 50
BUILD = pathlib.Path(KTSTR_VM).parent
PACKER = "tests/unit/boot/initramfs-bench"


def packer():
    """The packer's benchmark of the same build; made when it is missing, in case it can be."""
    program = pathlib.Path(os.environ.get("KTSTR_INITRAMFS_BENCH", BUILD / PACKER))
    if not program.exists() and (BUILD / "build.ninja").exists() and "KTSTR_INITRAMFS_BENCH" not in os.environ:
        subprocess.run(["ninja", "-C", BUILD, PACKER], check=True, stdout=sys.stderr)
    return program


def pack_alone(files):
    """(text with median and range, median in ms, bytes) of an uncompressed archive, which is what a run uses. It comes
    first; the compressed ones, which would take a minute, are not waited for."""
    benchmark = Watched(["stdbuf", "-oL", packer(), "--program", *files], "bytes of memory")
    with benchmark:
        pass
    found = re.match(r"none: median ([\d.]+) ms \(([\d.]+) to ([\d.]+)\), (\d+) bytes", benchmark.seen.decode())
    median, low, high = found.group(1, 2, 3)
    return f"{median} ms ({low} to {high})", float(median), int(found.group(4))


def pack_in_runs(out, options, runs):
    """Seconds of the `initramfs` phase."""
    times = []
    for turn in range(runs + 1):
        with ktstr_vm(out, *options, sign="starting ") as started:
            started.process.send_signal(signal.SIGINT)
            finish(started)
        phases = phases_of(result_of(out))
        if turn > 0:  # the first one warms the cache
            times.append(phases["initramfs"])
    return times


def main():
    work, runs = arguments()
    out = work / "out"
    guest = os.environ.get("KTSTR_GUEST", str(BUILD / "ktstr-guest"))
    heading("Initramfs", runs, "The packer alone: 21 times.")
    rows = []
    for program in [None, *os.environ["KTSTR_BENCH_SCHEDULERS"].split()]:
        files = [guest] + ([program] if program else [])
        text, median, size = pack_alone(files)
        times = pack_in_runs(out, ["--scheduler", program] if program else [], runs)
        name = "ktstr-guest" + (f" + {pathlib.Path(program).name}" if program else "")
        rows.append([name, f"{size / 1e6:.1f} MB", text, spread(times, "ms"), f"at most {REQUIRED_MS} ms",
                     f"{reached(median <= REQUIRED_MS)} / {reached(statistics.median(times) * 1000 <= REQUIRED_MS)}"])
    table(["packed, with libraries", "size", "packer alone", "`initramfs` phase of a run", "required", "reached"], rows)


main()
