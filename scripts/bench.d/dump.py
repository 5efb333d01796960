"""bench dump: what a dump of a guest's sched_ext state costs on one core of the host.

Memory images are taken once, from guests of 16 vCPUs with so many sleeping tasks under ktstr-sched, a fifth of them
held in its 50 queues that nobody serves; they are kept in the cache. dump-bench (tests/bench) then does the steps of a
dump over and over. Times are processor time: on a shared machine the wall clock shows the neighbours.
"""
import hashlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

from common import arguments, heading, KERNEL, KTSTR_VM, mib, reached, table

BUILD = pathlib.Path(KTSTR_VM).parent
BENCH = pathlib.Path(os.environ.get("KTSTR_DUMP_BENCH") or BUILD / "tests/bench/dump-bench")
SCHEDULER = BUILD / "ktstr-sched"
SLEEPERS = pathlib.Path(__file__).parent / "sleepers.c"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "ktstr-vm" / "bench-cores"
VCPUS, PERCENT, QUEUES = 16, 20, 50
GUESTS = {1000: "1G", 2000: "1G", 10000: "2G"}  # tasks -> guest RAM
SCENARIO = """
duration: "120s"
steps { cgroups { name: "s" works { workers: 2 sleep_and_run { sleep: "100ms" run: "10us" } } } hold { full: true } }
"""
# Required: ms of processor time, bytes.
CAPTURE, RENDER, FIRST_USE, LATER_USE, PEAK, DRGN = 5, 150, 300, 20, 150 * 2**20, 20


def bench(*words):
    done = subprocess.run([BENCH, *map(str, words)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"bench: dump-bench {words[0]} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def core_of(work, tasks):
    """The memory image of a guest with so many tasks, taken now if there is none yet."""
    digest = hashlib.sha256(f"{tasks} {VCPUS} {PERCENT} {QUEUES}".encode())
    image = pathlib.Path(KERNEL)
    for path in [SLEEPERS, SCHEDULER, *([image] if image.is_file() else sorted(image.rglob("vmlinuz*")))]:
        digest.update(path.read_bytes())
    core = CACHE / f"{tasks}-{digest.hexdigest()[:24]}.core"
    if core.exists():
        return core
    CACHE.mkdir(parents=True, exist_ok=True)
    program, scenario, out = work / "sleepers", work / "sleepers.textproto", work / f"out-{tasks}"
    scenario.write_text(SCENARIO)
    subprocess.run(["gcc", "-O2", "-static", "-pthread", "-o", program, SLEEPERS], check=True)
    done = subprocess.run(
        [KTSTR_VM, "--kernel", KERNEL, "--clone", "never", "--scheduler", program, "--include", SCHEDULER, "--cpus", str(VCPUS), "--memory",
         GUESTS[tasks], "--scheduler-args",
         f"{tasks} {PERCENT} /include/ktstr-sched --hold-every 1 --dsqs {QUEUES} --timeout-ms 20000", "--scenario", scenario,
         "--core", "--on-freeze", "stop", "--boot-timeout", "300s", "--out", out], capture_output=True, text=True)
    taken = out / "latest" / "dump-1.core"
    if not taken.exists():
        sys.exit(f"bench: the guest with {tasks} tasks gave no memory image:\n{done.stderr[-2000:]}")
    # Sparse, hence not shutil.move; whole under its name or not there.
    partial = core.with_suffix(f".{os.getpid()}.tmp")
    subprocess.run(["cp", "--sparse=always", taken.resolve(), partial], check=True)
    partial.rename(core)
    return core


def drgn_and_debug_info(core):
    """(the words that start drgn on this core, or None; why not)"""
    debuggers = CACHE.parent / "debuggers"
    program = os.environ.get("KTSTR_DRGN") or debuggers / "current/bin/drgn"
    if not pathlib.Path(program).exists():
        program = shutil.which("drgn")
        if program is None:
            return None, "drgn is not there: scripts/fetch-debuggers"
    image = pathlib.Path(KERNEL)
    info = pathlib.Path(os.environ.get("KTSTR_DEBUG_INFO") or debuggers / "vmlinux" / image.name)
    if not info.exists():
        return None, "no debug information: scripts/fetch-debuggers --debug-info RELEASE"
    return [program, "-q", "-c", core, "-s", info, pathlib.Path(__file__).parent / "drgn_scx.py", "time", "3"], ""


def against_drgn(core, runs):
    """(drgn's times, ours for the same fields, ours for whole dumps), lists of ms; or (None, why not). Both sides take
    turns, three readings each: the machine is shared."""
    command, why = drgn_and_debug_info(core)
    if command is None:
        return None, why
    theirs, same, whole = {"of_tasks": [], "all": []}, [], []
    for _ in range(runs):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            return None, "drgn cannot read it: " + (done.stderr.strip().splitlines() or ["no output"])[-1][:200]
        read = json.loads(done.stdout)
        for what, times in theirs.items():
            times.extend(read[what])
        ours = bench("fields", core, KERNEL, 3, *read["fields"])
        if (ours["tasks"], int(ours["sum"], 16)) != (read["tasks"], int(read["sum"], 16)):
            sys.exit(f"bench: drgn and dump-bench read different values: {read['tasks']} tasks, sum {read['sum']} against "
                     f"{ours['tasks']} tasks, sum {ours['sum']}")
        same.append(ours["fields_again"]["cpu"][0])
        dump = bench("time", core, KERNEL, 3)
        whole.append([dump["capture"]["cpu"][0], dump["capture_again"]["cpu"][0], dump["inspect"]["cpu"][0]])
    return (theirs, same, whole), f"{read['tasks']} tasks, {len(read['fields'])} fields each"


def drgn_table(core, runs):
    result, note = against_drgn(core, runs)
    if result is None:
        table(["against drgn", "measured", "required", "reached"], [["the same fields", note, f"at least {DRGN}", "not measured"]])
        return
    theirs, same, whole = result
    fields, everything = (statistics.median(theirs[what]) for what in ("of_tasks", "all"))

    def row(what, drgn, ours, required=""):
        ratio = drgn / statistics.median(ours)
        return [what, f"{drgn:.1f} ms", f"{statistics.median(ours):.1f} ms ({min(ours):.1f} to {max(ours):.1f})", f"{ratio:.1f}",
                required, reached(ratio >= DRGN) if required else ""]

    table([f"against drgn, {note}; the values are equal", "drgn", "ours", "ratio", "required", "reached"], [
        row("the same fields of each task, and nothing else", fields, same, f"at least {DRGN}"),
        row("fields, CPUs and queues, against all that a dump copies: first freeze", everything, [one[0] for one in whole]),
        row("the same, later freezes", everything, [one[1] for one in whole]),
        row("the same, against a whole dump: later freeze and inspection", everything, [one[1] + one[2] for one in whole])])


def ms(times):
    median, least, most = times["cpu"]
    return f"{median:.1f} ms ({least:.1f} to {most:.1f})"


def main():
    work, runs = arguments()
    for needed in (BENCH, SCHEDULER):
        if not needed.exists():
            sys.exit(f"bench: no {needed}; build it: ninja -C {BUILD} tests/bench/dump-bench ktstr-sched")
    cores = {tasks: core_of(work, tasks) for tasks in GUESTS}
    heading("Dumps", runs, f"Processor time, median (range). {VCPUS} CPUs, {QUEUES} queues with held tasks.")
    rows, peaks, seen = [], {}, {}
    for tasks, core in cores.items():
        seen[tasks] = now = bench("time", core, KERNEL, runs)
        folder = work / f"peak-{tasks}"
        folder.mkdir()
        peaks[tasks] = bench("peak", core, KERNEL, folder)["peak_bytes"]
        rows.append([f"{now['tasks']} / {now['dsqs']} / {now['queued']}", mib(now["captured_bytes"]), ms(now["capture"]),
                     ms(now["capture_again"]), ms(now["inspect"]), ms(now["json"]), ms(now["text"]), ms(now["pb"]),
                     mib(peaks[tasks])])
    table(["tasks / DSQs / queued", "copied", "frozen, first", "frozen, later", "inspect", "JSON", "text", "protobuf",
           "peak memory"], rows)

    small, large = seen[1000], seen[10000]
    opened = bench("open", KERNEL, runs)
    render = sum(small[step]["cpu"][0] for step in ("inspect", "json", "text"))
    growth = large["capture"]["cpu"][0] / large["tasks"] / (small["capture"]["cpu"][0] / small["tasks"])
    rows = [["frozen, about 1,000 tasks, memory never looked at before", ms(small["capture"]), f"at most {CAPTURE} ms",
             reached(small["capture"]["cpu"][0] <= CAPTURE)],
            ["the same, later freezes of a run", ms(small["capture_again"]), f"at most {CAPTURE} ms",
             reached(small["capture_again"]["cpu"][0] <= CAPTURE)],
            ["frozen per task, 10,000 against 1,000", f"{growth:.2f}", "linear: about 1", reached(growth <= 1.3)],
            ["inspect + JSON + text", f"{render:.1f} ms", f"at most {RENDER} ms", reached(render <= RENDER)],
            ["first use of a kernel image", ms(opened["all_cold"]), f"at most {FIRST_USE} ms",
             reached(opened["all_cold"]["cpu"][0] <= FIRST_USE)],
            ["later uses", ms(opened["all_warm"]), f"at most {LATER_USE} ms",
             reached(opened["all_warm"]["cpu"][0] <= LATER_USE)],
            ["peak memory, 10,000 tasks", mib(peaks[10000]), mib(PEAK), reached(peaks[10000] <= PEAK)]]
    table(["what", "measured", "required", "reached"], rows)
    drgn_table(cores[1000], runs)


main()
