"""bench memory: ktstr-vm's own memory, guest RAM not counted, during runs.

Read from outside (/proc/PID/smaps) as fast as it goes, from exec to the end. Guest RAM and the initramfs are shared
memory: memfd files, or files below /dev/shm; everything else is ours, the pages of program and libraries too. What is
used before the machine starts comes and goes too fast for that: there the kernel's own maximum counts (VmHWM), as it
stands when the machine starts. Beside them stands host.own_memory_bytes of the result, which the program itself samples
four times a second while the machine runs.
"""
import collections
import dataclasses
import os
import pathlib
import re

from common import arguments, heading, KTSTR_VM, ktstr_vm, mib, reached, result_of, table

REQUIRED = 25 * 2**20
MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)$")
SHARED_MEMORY = re.compile(r"^/(memfd:|dev/shm/)")
SHOWN_PARTS = 8


def resident(pid):
    """Kind of mapping -> resident bytes, guest RAM left out; empty once the process is gone."""
    sizes = collections.Counter()
    try:
        text = pathlib.Path(f"/proc/{pid}/smaps").read_text()
    except OSError:
        return sizes
    name = ""
    for line in text.splitlines():
        header = MAPPING.match(line)
        if header:
            name = header.group(1)
        elif line.startswith("Rss:"):
            if not SHARED_MEMORY.match(name):
                sizes[part_of(name)] += int(line.split()[1]) * 1024
    return sizes


def high_water(pid):
    """Largest resident set so far, bytes; 0 once the process is gone."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M)
    except OSError:
        return 0
    return int(found.group(1)) * 1024 if found else 0


def part_of(name):
    path = pathlib.PurePath(name.removesuffix(" (deleted)"))
    if name == KTSTR_VM:
        return "the program: code and constants"
    if path.suffix == ".elf" or "vmlinuz" in name:
        return "mapped kernel image"
    if ".so" in path.name:
        return "library " + path.name.split(".so")[0]
    return {"": "anonymous: heap arenas, data", "[heap]": "heap", "[stack]": "stack"}.get(name, path.name)


@dataclasses.dataclass
class Seen:
    """Largest values of one kind of run, bytes."""

    preparing: int = 0
    running: int = 0
    own_word: int = 0
    parts: collections.Counter = dataclasses.field(default_factory=collections.Counter)


def watch(out, options, environment, seen):
    """Runs once and raises the values in `seen`."""
    watched = ktstr_vm(out, *options, env=environment)
    os.set_blocking(watched.fd, False)
    text = b""
    try:
        while watched.process.poll() is None:
            sizes = resident(watched.process.pid)
            if b"starting " not in text:
                seen.preparing = max(seen.preparing, high_water(watched.process.pid))
            else:
                seen.running = max(seen.running, sizes.total())
            if sizes.total() > seen.parts.total():
                seen.parts = sizes
            try:
                text += os.read(watched.fd, 65536)
            except BlockingIOError:
                pass
    finally:
        watched.__exit__()
    seen.own_word = max(seen.own_word, result_of(out)["host"]["own_memory_bytes"])


def cold_cache(work):
    """An environment in which the kernel is not yet unpacked, but the emulator is where it was."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "ktstr-vm"
    cold = work / "cold" / "ktstr-vm"
    cold.mkdir(parents=True)
    (cold / "qemu").symlink_to(cache / "qemu")
    return {**os.environ, "XDG_CACHE_HOME": str(cold.parent)}, cold / "images"


def main():
    work, runs = arguments()
    out = work / "out"
    schedulers = [path for path in os.environ["KTSTR_BENCH_SCHEDULERS"].split() if "scx_simple" in path]
    scheduler = ["--scheduler", schedulers[0]] if schedulers else []
    cold, images = cold_cache(work)
    kinds = [("EEVDF", ["--duration", "2s"], dict(os.environ)),
             ("EEVDF, 8 vCPUs, 2G", ["--duration", "2s", "--cpus", "8", "--memory", "2G"], dict(os.environ)),
             ("EEVDF, kernel unpacked in this run", ["--duration", "2s"], cold)]
    if scheduler:
        kinds.insert(1, ("scx_simple", [*scheduler, "--duration", "2s"], dict(os.environ)))

    runs = min(runs, 3)
    heading("Memory", runs, "Largest values; guest RAM not counted.")
    rows, parts = [], {}
    for name, options, environment in kinds:
        seen = Seen()
        for _ in range(runs):
            if environment is cold:
                for image in images.glob("*"):
                    image.unlink()
            watch(out, options, environment, seen)
        rows.append([name, mib(seen.preparing), mib(seen.running), mib(seen.own_word), mib(REQUIRED),
                     reached(max(seen.preparing, seen.running) <= REQUIRED)])
        parts[name] = seen.parts
    table(["run", "before the machine starts", "while it runs", "own_memory_bytes", "required", "reached"], rows)
    for name in (kinds[0][0], kinds[-1][0]):
        shown = parts[name].most_common(SHOWN_PARTS)
        others = parts[name].total() - sum(size for _, size in shown)
        table([f"{name}: parts at the largest moment seen", "resident"],
              [[part, mib(size)] for part, size in shown] + [["all others", mib(others)]])


main()
