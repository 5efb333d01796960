#!/usr/bin/env python3
"""Opens a core of ours with drgn and crash and compares what they read with our dump of the same instant.

    tests/debuggers/check_core.py [--core CORE]

Stalls ktstr-sched on a packaged kernel with --core. Then every task (pid, comm, 26 fields), every CPU's rq->scx, and every
dispatch queue with its tasks, as drgn reads them, must be in the dump with equal values, and nothing else; crash must show
the same tasks, CPUs and backtraces; `dump --memory` must give the same dump from the core, from the one that QEMU's
dump-guest-memory writes at the same instant, and from a copy of ours that is laid out as kdump does it (no crash kernel
ran). Exit status 77 (meson: skipped) where a tool or the debug information is missing.

    KTSTR_VM, KTSTR_SCHED   the programs (default: build/ktstr-vm, ktstr-sched beside it)
    KTSTR_TEST_KERNEL_72    the kernel (default: the 7.2 of scripts/fetch-kernel)
    KTSTR_DEBUGGERS         folder with drgn and crash (default: that of scripts/fetch-debuggers, if fetched)
    KTSTR_DEBUG_INFO        vmlinux with DWARF (default: as scripts/fetch-debuggers --debug-info keeps it)
"""
import argparse
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "ktstr-vm"
KTSTR_VM = pathlib.Path(os.environ.get("KTSTR_VM") or REPOSITORY / "build/ktstr-vm")
KTSTR_SCHED = pathlib.Path(os.environ.get("KTSTR_SCHED") or KTSTR_VM.parent / "ktstr-sched")
KERNEL = pathlib.Path(os.environ.get("KTSTR_TEST_KERNEL_72") or CACHE / "kernels-by-name/7.2").resolve()
TOOLS = pathlib.Path(os.environ.get("KTSTR_DEBUGGERS") or CACHE / "debuggers/current/bin")
DEBUG_INFO = pathlib.Path(os.environ.get("KTSTR_DEBUG_INFO") or CACHE / "debuggers/vmlinux" / KERNEL.name)
SKIPPED = 77
CRASH_COMMANDS = "set scroll off\nsys\nps -y\nps\nbt -a\nbt -a -t\nlog\nrunq\nquit\n"

failures = []


def expect(holds, what):
    if not holds:
        failures.append(what)


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, errors="replace", timeout=300,
                          stdin=subprocess.DEVNULL, **options)
    return done.returncode, done.stdout, done.stderr


def take_dump(folder):
    """The run's folder of a stall, with dump-1.core and dump-1.json in it; and QEMU's own core of the same instant, or None:
    a second monitor takes it while ktstr-vm, stopped by us, is about to write its own."""
    monitor, qemu_core, wrapper = folder / "monitor", folder / "qemu.core", folder / "qemu"
    qemu = CACHE / "qemu/current"
    wrapper.write_text(f"""#!/bin/sh
set -- -L {qemu}/usr/share/qemu -L {qemu}/usr/share/seabios "$@"
case " $* " in *" -gdb "*) set -- "$@" -qmp unix:{monitor},server=on,wait=off ;; esac
exec {qemu}/usr/bin/qemu-system-x86_64 "$@"
""")
    wrapper.chmod(0o755)
    command = [KTSTR_VM, "--kernel", KERNEL, "--scheduler", KTSTR_SCHED, "--scheduler-args", "--stall-after 1 --timeout-ms 2000",
               "--duration", "8s", "--on-freeze", "stop", "--core", "--out", folder / "run"]
    environment = {**os.environ, **({"KTSTR_QEMU": str(wrapper)} if qemu.exists() else {})}
    with open(folder / "errors", "w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
    taken = False
    while process.poll() is None:
        if not taken and list(folder.glob("run/*/dump-1.core.*.tmp")):
            process.send_signal(signal.SIGSTOP)
            try:
                taken = dump_guest_memory(monitor, qemu_core)
            finally:
                process.send_signal(signal.SIGCONT)
        time.sleep(0.005)
    if process.returncode != 4:
        sys.exit(f"the stalled run ended with {process.returncode}, not 4:\n{(folder / 'errors').read_text()[-2000:]}")
    return folder / "run/latest", qemu_core if taken else None


def dump_guest_memory(monitor, core):
    """Whether QEMU wrote its core, the guest standing still."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(monitor))
        lines = connection.makefile("rw")
        lines.readline()

        def ask(command, **words):
            lines.write(json.dumps({"execute": command, "arguments": words}) + "\n")
            lines.flush()
            while True:
                answer = json.loads(lines.readline())
                if "event" not in answer:
                    return answer.get("return")

        ask("qmp_capabilities")
        stands = ask("query-status")["running"] is False
        return stands and ask("dump-guest-memory", paging=False, protocol=f"file:{core}") is not None


def value(field):
    """A field of the JSON as a number where it is one."""
    return int(field, 16) if isinstance(field, str) and re.fullmatch("0x[0-9a-f]+", field) else field


def compare(kind, name, theirs, ours, renamed=()):
    """Each field that drgn read against that of the dump. Fields that a dump leaves out are 0 there."""
    for field, expected in theirs.items():
        if field in ("tasks", "curr"):
            continue
        got = value(ours.get(dict(renamed).get(field, field), 0))
        expect(got == expected, f"{kind} {name}: {field} is {got} in the dump, {expected} to drgn")


def check_drgn(core, dump):
    code, output, errors = run(TOOLS / "drgn", "-q", "-c", core, "-s", DEBUG_INFO,
                               REPOSITORY / "scripts/bench.d/drgn_scx.py", "values")
    if code != 0:
        failures.append("drgn: " + errors[-1500:])
        return ""
    read = json.loads(output)
    tasks = {value(task["address"]): task for task in dump["tasks"]}
    expect(len(tasks) == len(read["tasks"]), f"{len(tasks)} tasks in the dump, {len(read['tasks'])} to drgn")
    for task in read["tasks"]:
        ours = tasks.get(task["address"])
        expect(ours is not None, f"task {task['pid']} {task['comm']} is not in the dump")
        # The dump splits the word in two.
        if ours is not None:
            ours = {**ours, "ops_state": value(ours["ops_state"]) | ours.get("ops_state_qseq", 0) << 2}
            compare("task", f"{task['pid']} {task['comm']}", task, ours)
    cpus = {cpu["cpu"]: cpu for cpu in dump["cpus"]}
    expect(len(cpus) == len(read["cpus"]), f"{len(cpus)} CPUs in the dump, {len(read['cpus'])} to drgn")
    for cpu in read["cpus"]:
        compare("CPU", cpu["cpu"], cpu, cpus[cpu["cpu"]])
        expect(cpus[cpu["cpu"]]["curr"]["pid"] == cpu["curr"], f"CPU {cpu['cpu']}: another current task")
    queues = {value(queue["address"]): queue for queue in dump["dsqs"]}
    expect(queues.keys() == {queue["address"] for queue in read["dsqs"]}, "the dump and drgn see different queues")
    for queue in read["dsqs"]:
        ours = queues.get(queue["address"], {})
        compare("queue", hex(queue["id"]), queue, ours)
        listed = [value(task["task"]) for task in ours.get("tasks", [])]
        expect(listed == queue["tasks"], f"queue {queue['id']:#x}: tasks or their order differ")
    queued = sum(len(queue["tasks"]) for queue in read["dsqs"])
    return (f"drgn: {len(read['tasks'])} tasks with 26 fields, {len(read['cpus'])} CPUs, {len(read['dsqs'])} queues with "
            f"{queued} tasks")


def check_crash(core, dump, folder):
    commands = folder / "commands"
    commands.write_text(CRASH_COMMANDS)
    code, output, errors = run(TOOLS / "crash", "-s", "-i", commands, DEBUG_INFO, core)
    if code != 0:
        failures.append(f"crash ended with {code}: {errors[-500:]} {output[-500:]}")
        return ""
    listed = re.findall(r"^>?\s+(\d+)\s+\d+\s+(\d+)\s+([0-9a-f]{16})\s+[A-Z]{2}\s+[\d.]+\s+\d+\s+\d+\s+(.+)$", output, re.M)
    theirs = {(int(address, 16), int(pid), comm.strip("[] ")) for pid, _, address, comm in listed}
    ours = {(value(task["address"]), task["pid"], task["comm"].strip()) for task in dump["tasks"]}
    expect(theirs == ours, f"tasks that only one of crash and the dump has: {theirs ^ ours}")
    frames = set(re.findall(r"^ *#\d+ \[[0-9a-f]+\] .* at ([0-9a-f]+)", output, re.M))
    on_stack = set(re.findall(r"^ *\[[0-9a-f]+\] .* at ([0-9a-f]+)", output, re.M))
    for cpu in dump["cpus"]:
        expect(re.search(rf"^CPU {cpu['cpu']} RUNQUEUE: {value(cpu['address']):x}$", output, re.M),
               f"crash's runq does not know CPU {cpu['cpu']} at {cpu['address']}")
        symbol = cpu["vcpu"]["symbol"].split("+")[0]
        expect(f"[exception RIP: {symbol}" in output, f"crash does not see CPU {cpu['cpu']} stand in {symbol}")
        # Ours has the return addresses of the same frames; the innermost frame is the register itself. crash does not read
        # ORC, it guesses how large a frame is: where do_idle() has left room, it may show an old schedule() in place of
        # cpu_startup_entry(). So one frame may only be among all the addresses of code on the stack (bt -t).
        lacking = [frame for frame in cpu["stack"][1:] if not frame["guess"] and f"{value(frame['address']):x}" not in frames]
        expect(len(lacking) <= 1 and all(f"{value(frame['address']):x}" in on_stack for frame in lacking),
               f"crash's backtrace of CPU {cpu['cpu']} lacks {', '.join(frame['symbol'] for frame in lacking)}")
    expect('BPF scheduler "ktstr_sched" enabled' in output, "crash cannot read the kernel's log")
    return f"crash: {len(theirs)} tasks, {len(dump['cpus'])} CPUs with their backtraces, the kernel's log"


def as_kdump(core, copy):
    """Writes a copy of a core of ours as the kernel's kdump lays out /proc/vmcore (crash_prepare_elf64_headers() in
    kernel/crash_core.c and fs/proc/vmcore.c): no notes but NT_PRSTATUS of each CPU and VMCOREINFO, the kernel's image as a
    segment of its own that overlaps RAM, RAM without its first page, the hole below 1 MiB and the crash kernel's part."""
    with open(core, "rb") as source:
        header = bytearray(source.read(64))
        segments = [struct.unpack("<IIQQQQQQ", source.read(56)) for _ in range(struct.unpack_from("<H", header, 56)[0])]
        source.seek(segments[0][2])
        notes, kept, at, vmcoreinfo = source.read(segments[0][5]), b"", 0, ""
        while at + 12 <= len(notes):
            name_size, size, _ = struct.unpack_from("<III", notes, at)
            begin = at + 12 + (name_size + 3 & ~3)
            end = begin + (size + 3 & ~3)
            name = notes[at + 12:at + 12 + name_size].rstrip(b"\0")
            if name != b"QEMU":
                kept += notes[at:end]
            if name == b"VMCOREINFO":
                vmcoreinfo = notes[begin:begin + size].decode()
            at = end
        direct_map, ram_end = segments[1][3], segments[1][6]
        expect(len(segments) == 2 and segments[1][4] == 0, "the core has more than one range of memory")
        slide = int(re.search(r"^KERNELOFFSET=([0-9a-f]+)", vmcoreinfo, re.M)[1], 16)
        physical_base = int(re.search(r"^NUMBER\(phys_base\)=(-?\d+)", vmcoreinfo, re.M)[1])
        _, symbols, _ = run("nm", DEBUG_INFO)
        text, end = (int(re.search(rf"^([0-9a-f]+) \S {name}$", symbols, re.M)[1], 16) for name in ("_text", "_end"))
        crash_kernel = (ram_end - (64 << 20), ram_end - (16 << 20))
        ranges = [(text + slide, text + slide - 0xffffffff80000000 + physical_base, end - text)]
        for begin, finish in ((0x1000, 0x9f000), (0x100000, crash_kernel[0]), (crash_kernel[1], ram_end)):
            ranges.append((direct_map + begin, begin, finish - begin))
        struct.pack_into("<H", header, 56, len(ranges) + 1)
        first = 64 + 56 * (len(ranges) + 1)
        table = struct.pack("<IIQQQQQQ", 4, 0, first, 0, 0, len(kept), len(kept), 0)
        place = first + len(kept) + 4095 & ~4095
        with open(copy, "wb") as target:
            for virtual, physical, size in ranges:
                table += struct.pack("<IIQQQQQQ", 1, 7, place, virtual, physical, size, size, 0)
                for offset in range(0, size, 1 << 20):
                    source.seek(segments[1][2] + physical + offset)
                    piece = source.read(min(1 << 20, size - offset))
                    if piece.count(0) != len(piece):
                        target.seek(place + offset)
                        target.write(piece)
                place = place + size + 4095 & ~4095
            target.truncate(place)
            target.seek(0)
            target.write(header + table + kept)


def dump_of(core, folder):
    """What `dump --memory` makes of a core, as far as the core says it: kdump has no control registers."""
    folder.mkdir()
    code, output, errors = run(KTSTR_VM, "dump", "--memory", core, "--kernel", KERNEL, "--out", folder)
    if code != 0:
        failures.append(f"dump --memory {core.name} ended with {code}: {errors[-500:]}")
        return {}
    dump = json.loads(pathlib.Path(output.strip()).with_suffix(".json").read_text())
    return comparable(dump)


def comparable(dump):
    """Without what a core does not have."""
    lacking = ("Vcpu.halted", "Vcpu.stopped_after_ns")
    dump = {**dump, "header": {}, "absent": [one for one in dump.get("absent", []) if one["what"] not in lacking]}
    for cpu in dump["cpus"]:
        for field in ("halted", "stopped_after_ns", "cr3"):
            cpu["vcpu"].pop(field, None)
    for sched in dump["scheds"]:
        # Of a guest that stands at the trap it is made from registers, which belong to the trap.
        if sched.get("exit_info", {}).get("read", "").startswith("at the trap"):
            sched["exit_info"].update(msg="", read="at the freeze")
    return dump


def check_readers(core, qemu_core, dump, folder):
    """The same dump from the core itself, from QEMU's, and from a copy with kdump's layout."""
    ours = comparable(dump)
    expect(dump_of(core, folder / "from-core") == ours, "dump --memory of the core differs from the dump")
    if qemu_core:
        expect(dump_of(qemu_core, folder / "from-qemu") == ours, "dump --memory of QEMU's core differs from the dump")
    copy = folder / "vmcore"
    as_kdump(core, copy)
    theirs = dump_of(copy, folder / "from-kdump")
    for section in ours:
        expect(theirs.get(section) == ours[section], f"dump --memory of kdump's layout: {section} differ")
    code, output, errors = run(TOOLS / "drgn", "-q", "-c", copy, "-s", DEBUG_INFO,
                               REPOSITORY / "scripts/bench.d/drgn_scx.py", "values")
    expect(code == 0 and len(json.loads(output)["tasks"]) == len(ours["tasks"]), f"drgn and kdump's layout: {errors[-500:]}")
    of_qemu = ", from QEMU's" if qemu_core else ""
    return f"dump --memory: the same from the core{of_qemu} and from a copy in kdump's layout ({len(theirs.get('tasks', []))} tasks)"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", type=pathlib.Path, help="a core with its dump's JSON beside it, instead of a new run")
    chosen = parser.parse_args().core
    for needed in (TOOLS / "drgn", TOOLS / "crash", DEBUG_INFO, KERNEL, KTSTR_VM, KTSTR_SCHED):
        if not needed.exists():
            print(f"skipped: no {needed} (scripts/fetch-debuggers [--debug-info 7.2])")
            sys.exit(SKIPPED)
    with tempfile.TemporaryDirectory(prefix="check-core-") as name:
        folder = pathlib.Path(name)
        results, qemu_core = (chosen.parent, None) if chosen else take_dump(folder)
        core = chosen or results / "dump-1.core"
        dump = json.loads(core.with_suffix(".json").read_text())
        lines = [check_drgn(core, dump), check_crash(core, dump, folder), check_readers(core, qemu_core, dump, folder)]
    print(*filter(None, lines), *failures, sep="\n")
    sys.exit(1 if failures else 0)


main()
