"""bench dump: what a dump of a guest's sched_ext state costs on one core of the host.

Memory images are taken once, from guests of 16 vCPUs with so many sleeping tasks under ktstr-sched, a fifth of them
held in its 50 queues that nobody serves; they are kept in the cache. dump-bench (tests/bench) then does the steps of a
dump over and over. Times are processor time: on a shared machine the wall clock shows the neighbours.
"""
import hashlib
import json
import os
import pathlib
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
        [KTSTR_VM, "--kernel", KERNEL, "--scheduler", program, "--include", SCHEDULER, "--cpus", str(VCPUS), "--memory",
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


DRGN_SCRIPT = """
import time
from drgn.helpers.linux.pid import for_each_task
FIELDS = ("flags", "weight", "sticky_cpu", "holding_cpu", "kf_mask", "ops_state", "runnable_at", "ddsp_dsq_id",
          "ddsp_enq_flags", "slice", "dsq_vtime", "disallow", "dsq_flags", "dsq", "dsq_seq")
OF_TASK = ("pid", "tgid", "comm", "__state", "exit_state", "prio", "static_prio", "normal_prio", "policy",
           "nr_cpus_allowed", "on_rq")
def read():
    for task in for_each_task(prog):
        for name in OF_TASK:
            getattr(task, name).value_()
        for name in FIELDS:
            if hasattr(task.scx, name):
                getattr(task.scx, name).value_()
read()
begin = time.process_time()
read()
print("ms", (time.process_time() - begin) * 1000)
"""


def drgn_ms(work, core):
    """(ms that drgn takes for 26 fields of each task, or None; why not)"""
    script = work / "fields.py"
    script.write_text(DRGN_SCRIPT)
    try:
        done = subprocess.run(["drgn", "-q", "-c", core, script], capture_output=True, text=True)
    except FileNotFoundError:
        return None, "drgn is not installed"
    for line in done.stdout.splitlines():
        if line.startswith("ms "):
            return float(line.split()[1]), ""
    return None, "drgn cannot read it: " + (done.stderr.strip().splitlines() or ["no output"])[-1][:200]


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
    other, why = drgn_ms(work, cores[1000])
    ratio = other / small["capture"]["cpu"][0] if other else 0
    rows.append(["drgn, 26 fields of each task, against one whole capture", f"{ratio:.1f} times as long" if other else why,
                 f"at least {DRGN}", reached(ratio >= DRGN) if other else "not measured"])
    table(["what", "measured", "required", "reached"], rows)


main()
