"""bench clone: what a snapshot costs the guest that is saved, and how soon a clone runs and answers, at the machine.

tcg with this host's emulator; kvm under this machine's own /dev/kvm, whatever it is: a software KVM will do, as the
guest is saved as soon as its kernel has said its name.
"""
import json
import os
import pathlib
import statistics
import subprocess
import sys

from common import arguments, heading, KERNEL, KTSTR_VM, mib, reached, spread, table

BUILD = pathlib.Path(KTSTR_VM).parent
BENCH = pathlib.Path(os.environ.get("KTSTR_CLONE_BENCH") or BUILD / "tests/bench/clone-bench")
SAVE_MS = 400
FIRST_RUN_MS = 15
OWN = 30 * 2**20
TOGETHER = 8


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


def main():
    work, runs = arguments()
    if not BENCH.exists():
        subprocess.run(["ninja", "-C", BUILD, "tests/bench/clone-bench"], check=True, stdout=sys.stderr)
    measure_tcg(work, runs)
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        measure_kvm(work, runs)


main()
