"""bench clone: what a snapshot costs the run that makes it, how soon a clone has its plan, beside a run that boots; the
same at the machine.

tcg with this host's emulator; kvm under this machine's own /dev/kvm, whatever it is: a software KVM will do, as the
guest is saved as soon as its kernel has said its name.
"""
import json
import os
import pathlib
import statistics
import subprocess
import sys

from clone_runs import keep, start
from common import arguments, finish, heading, KERNEL, KTSTR_VM, mib, reached, result_of, spread, table

BUILD = pathlib.Path(KTSTR_VM).parent
BENCH = pathlib.Path(os.environ.get("KTSTR_CLONE_BENCH") or BUILD / "tests/bench/clone-bench")
SAVE_MS = 400
FIRST_RUN_MS = 15
OWN = 30 * 2**20
TOGETHER = 8
PLAN_MS = 450


def measure(kind, folder, runs, *text):
    """What clone-bench says; None: it failed."""
    done = subprocess.run([BENCH, kind, KERNEL, "2", str(runs), str(TOGETHER), *text], cwd=folder, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout)
    print(f"bench: clone-bench {kind} ended with {done.returncode}: {done.stderr[-2000:]}", file=sys.stderr)
    return None


def seconds(milliseconds):
    return [each / 1e3 for each in milliseconds]


def rows_of_memory(result):
    own = [each * 1024 for each in result["own_kib"]]
    together = result["together_kib"] * 1024
    one = statistics.median(own)
    return [
        ["memory that an idle clone has for itself", f"{mib(one)} (at most {mib(max(own))})", f"at most {mib(OWN)}", reached(one <= OWN)],
        [f"{TOGETHER} clones at once", mib(together), f"less than {TOGETHER} times one", reached(together < TOGETHER * one)],
    ]


def rows_of_saving(result):
    return [
        ["RAM file", mib(result["ram_kib"] * 1024), "", ""],
        ["the guest stands still to be saved", f"{result['paused_and_saved']:.0f} ms", f"at most {SAVE_MS} ms",
         reached(result["paused_and_saved"] <= SAVE_MS)],
    ]


def measure_tcg(folder, runs):
    heading("clones on the tcg machine", runs, "2 vCPUs, 512 MiB; PID 1 echoes frames; everything cached.")
    result = measure("tcg", folder, runs)
    if result is None:
        return
    rows = [["boot, until PID 1 has its port", f"{result['boot']:.0f} ms", "", ""], *rows_of_saving(result)]
    for name, what in (("start", "clone: making the machine to the guest runs"), ("first_answer", "then to the first echo"),
                       ("second_answer", "the second"), ("third_answer", "the third")):
        rows.append([what, spread(seconds(result[name]), "ms"), "", ""])
    rows += rows_of_memory(result)
    rows.append(["reading 8 bytes: of a clone, of the saved guest",
                 f"{statistics.median(result['read_ns']):.0f} ns, {result['saved_guest_read_ns']:.0f} ns", "", ""])
    table(["", "median (range)", "required", "reached"], rows)


def measure_kvm(folder, runs):
    heading("clones on the kvm machine", runs, "2 vCPUs, 512 MiB, this machine's own /dev/kvm; saved at the kernel's first line.")
    result = measure("kvm", folder, runs, "Linux version")
    if result is None:
        return
    first = statistics.median(result["first_run"])
    rows = [*rows_of_saving(result), ["making the machine to the first KVM_RUN", spread(seconds(result["first_run"]), "ms"),
                                      f"at most {FIRST_RUN_MS} ms", reached(first <= FIRST_RUN_MS)], *rows_of_memory(result)]
    table(["", "median (range)", "required", "reached"], rows)


def saving_row(name, kept):
    """Of the run that kept a guest at one point or two."""
    saved = [each for each in kept["clone"].get("saved", []) if not each.get("failed")]
    if not saved:
        return []
    longest = max(int(each["stood_still_ns"]) for each in saved) / 1e6
    points = ", ".join(each["point"] for each in saved)
    return [[f"{name}: the run that keeps the guest ({points}) is delayed by at most", f"{longest:.0f} ms", f"at most {SAVE_MS} ms",
             reached(longest <= SAVE_MS)]]


def measure_runs(folder, runs):
    """Booted and cloned runs take turns."""
    heading("runs that boot and runs that are clones (tcg)", runs,
            "2 vCPUs, exec of ktstr-vm to PID 1's acknowledgement of the plan; with a scheduler, booted, until it has attached.")
    rows = []
    for name, options, sign, share in (("no scheduler", [], "plan accepted", 0.15), *with_schedulers()):
        kept = keep(folder, options)
        times = {"never": [], "always": []}
        for _ in range(runs):
            for mode, how in times.items():
                with start(folder, mode, options, sign if mode == "never" else "plan accepted") as started:
                    how.append(started.wall)
                    finish(started)
                result_of(folder)
        booted, cloned = (statistics.median(times[mode]) for mode in times)
        rows += [[f"{name}: booted", spread(times["never"]), "", ""],
                 [f"{name}: clone", spread(times["always"], "ms"), f"at most {PLAN_MS} ms", reached(cloned * 1e3 <= PLAN_MS)],
                 [f"{name}: clone / booted", f"{cloned / booted:.3f}", f"at most {share}", reached(cloned / booted <= share)]]
        if kept:
            rows += saving_row(name, kept)
    table(["", "median (range)", "required", "reached"], rows)


def with_schedulers():
    for path in os.environ["KTSTR_BENCH_SCHEDULERS"].split():
        name = pathlib.Path(path).name
        if name.startswith("scx_"):
            yield name, ["--scheduler", path], "scheduler attached", 0.04 if name == "scx_lavd" else 0.15


def main():
    work, runs = arguments()
    if not BENCH.exists():
        subprocess.run(["ninja", "-C", BUILD, "tests/bench/clone-bench"], check=True, stdout=sys.stderr)
    measure_runs(work, runs)
    measure_tcg(work, runs)
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        measure_kvm(work, runs)


main()
