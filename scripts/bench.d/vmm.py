"""bench vmm: the kvm machine, our own monitor on the KVM API.

Two places. Start-up and memory are measured under this machine's own /dev/kvm, whatever it is: a software KVM will do,
as the guest need not get anywhere. Exits and freezes want a guest that runs, so they are measured inside
scripts/nested-kvm, where a real kvm-amd runs on an emulated processor: counts are what they would be on hardware, times
are not.

The clock of a start begins just before fork and exec; it ends when the first vCPU is about to enter the guest, which
result.json has in the same clock (host.statistics.first_run_monotonic_ns).
"""
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import time

from common import (arguments, finish, heading, KERNEL, KTSTR_VM, ktstr_vm, mib, phases_of, reached, result_of, SCRIPTS, spread,
                    table, Watched)
from plain_guest import MARKER

START_MS = {"minimal": 20, "distribution": 40}
MEMORY = 12 * 2**20
EXITS = 1000
FREEZES = 100
START_RUNS = 20
# The guest's kernel gets so long before the run is ended; what counts is over by then.
SETTLE = 0.15
MACHINE = ["--cpus", "2", "--memory", "512M"]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "ktstr-vm"
BUILD = pathlib.Path(KTSTR_VM).parent
BENCH = pathlib.Path(os.environ.get("KTSTR_VMM_BENCH") or BUILD / "tests/bench/vmm-bench")
MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)$")


def minimal_kernel():
    """The newest kernel of scripts/build-kernel; None: there is none."""
    built = [path for path in (CACHE / "kernels-built").glob("[0-9]*") if path.is_dir()]
    return max(built, key=lambda path: path.stat().st_mtime, default=None)


def private_memory(pid):
    """Bytes of private pages that were written, the guest's left out: those mappings alone are kept out of core dumps
    (VmFlags dd; the vCPUs' shared pages are, too)."""
    total = dirty = 0
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if MAPPING.match(line):
            dirty = 0
        elif line.startswith("Private_Dirty:"):
            dirty = int(line.split()[1]) * 1024
        elif line.startswith("VmFlags:") and "dd" not in line.split()[1:]:
            total += dirty
    return total


def start_once(out, kernel):
    """(seconds from exec to the first KVM_RUN, phases, private bytes then)"""
    argv = [KTSTR_VM, "--accel", "kvm", "--kernel", str(kernel), "--clone", "never", "--out", str(out), *MACHINE]
    watched = Watched(argv, "starting ", "stderr")
    begin = watched.begin
    with watched as started:
        time.sleep(SETTLE)
        memory = private_memory(started.process.pid)
        started.process.send_signal(signal.SIGINT)
        finish(started)
    result = result_of(out)
    first_run = int(result["host"]["statistics"].get("first_run_monotonic_ns", 0))
    if first_run == 0:
        sys.exit(f"bench: no vCPU ran: {json.dumps(result.get('reasons'))}")
    return first_run / 1e9 - begin, phases_of(result), memory


def measure_starts(out, runs):
    heading("exec to the first KVM_RUN", runs, "2 vCPUs, 512 MiB, this machine's own /dev/kvm, everything cached.")
    rows = []
    for name, kernel in (("minimal", minimal_kernel()), ("distribution", KERNEL)):
        if kernel is None:
            rows.append([name, "no kernel of scripts/build-kernel is there", "", "", "", "", "", ""])
            continue
        start_once(out, kernel)  # fills the caches
        times, images, archives, memory = [], [], [], []
        for _ in range(runs):
            taken, phases, private = start_once(out, kernel)
            times.append(taken)
            images.append(phases.get("image", 0))
            archives.append(phases.get("initramfs", 0))
            memory.append(private)
        most = START_MS[name]
        rows.append([f"{name}, {pathlib.Path(kernel).name}", spread(times, "ms"), f"{statistics.median(images) * 1e3:.1f} ms",
                     f"{statistics.median(archives) * 1e3:.1f} ms", f"at most {most} ms",
                     reached(statistics.median(times) * 1e3 <= most),
                     f"{mib(statistics.median(memory))} (at most {mib(max(memory))})", reached(max(memory) <= MEMORY)])
    table(["kernel", "median (range)", "of it: image", "initramfs", "required", "reached",
           f"private memory, required at most {mib(MEMORY)}", "reached"], rows)


def nested(folder, *command, limit=300, expected=(0,)):
    """A command in L1; its files come back to `folder`. Another exit status than the expected ones is reported."""
    done = subprocess.run([SCRIPTS / "nested-kvm", "--limit", str(limit), *map(str, command)], cwd=folder,
                          capture_output=True, text=True)
    if done.returncode not in expected:
        print(f"bench: {command} in L1 ended with {done.returncode}: {done.stderr[-2000:]}", file=sys.stderr)
    return done


def counters(listed):
    return {each["name"]: int(each["value"]) for each in listed}


def exits_of_ours(folder, *options):
    """Exits to user space by device, from the first KVM_RUN to Hello."""
    out = folder / "out"
    # Only the boot counts: so short a scenario is inconclusive, or fails on a loaded machine.
    done = nested(folder, KTSTR_VM, "--accel", "kvm", "--kernel", KERNEL, "--clone", "never", "--out", out, *MACHINE, "--duration", "100ms", *options,
                  expected=(0, 1, 21))
    if not (out / "latest").exists():
        sys.exit(f"bench: the nested run left no result: {done.stderr[-2000:]}")
    return counters(result_of(out)["host"]["statistics"].get("exits_to_hello", []))


MICROVM_INIT = r"""
#include <string.h>
#include <sys/reboot.h>
#include <unistd.h>
int main(void) {
  static const char text[] = "\n%s\n";
  if (write(1, text, strlen(text)) < 0) return 1;
  reboot(RB_AUTOBOOT);
  for (;;) pause();
}
""" % MARKER


def exits_of_microvm(folder, *words):
    """Exits to user space of QEMU's microvm, from start to reset with a do-nothing init; None: it did not get there."""
    root = folder / "microvm"
    root.mkdir(exist_ok=True)
    subprocess.run(["cc", "-static", "-O2", "-s", "-x", "c", "-o", root / "init", "-"], input=MICROVM_INIT.encode(), check=True)
    archive, trace = folder / "microvm.cpio", folder / "microvm.trace"
    with archive.open("wb") as output:
        subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], cwd=root, input=b"init\n", stdout=output, check=True)
    qemu = subprocess.run([SCRIPTS / "fetch-qemu"], capture_output=True, text=True, check=True).stdout.strip()
    data = pathlib.Path(qemu).parent.parent / "share"
    image = next(iter(sorted(pathlib.Path(KERNEL).rglob("vmlinuz*"))), pathlib.Path(KERNEL))
    trace.unlink(missing_ok=True)
    done = nested(folder, "--take", data / "qemu", "--take", data / "seabios", qemu, "-L", data / "qemu", "-L", data / "seabios",
                  "-M", "microvm,rtc=off", "-accel", "kvm", "-cpu", "host", "-smp", "2", "-m", "512", "-no-user-config", "-nodefaults",
                  "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", image, "-initrd", archive, "-append",
                  " ".join(["console=ttyS0 panic=-1 reboot=t rdinit=/init nokaslr", *words]), "-trace", "kvm_run_exit", "-D", trace)
    if MARKER not in done.stdout or not trace.exists():
        print(f"bench: QEMU's microvm did not get to its init: {done.stdout[-1500:]}", file=sys.stderr)
        return None
    with trace.open() as lines:
        return sum("kvm_run_exit" in line for line in lines)


def measure_exits(folder):
    heading("Exits to user space, first KVM_RUN to Hello", 1, "2 vCPUs, 512 MiB, in scripts/nested-kvm.")
    quiet, loud = exits_of_ours(folder, "--append", "quiet"), exits_of_ours(folder)
    names = sorted({*quiet, *loud}, key=lambda name: -loud.get(name, 0))
    rows = [[name, quiet.get(name, 0), loud.get(name, 0), "", ""] for name in names]
    total = sum(quiet.values())
    rows.append(["all", total, sum(loud.values()), f"at most {EXITS} with `quiet`", reached(0 < total <= EXITS)])
    microvm = [exits_of_microvm(folder, "quiet"), exits_of_microvm(folder)]
    rows.append(["QEMU's microvm, start to reset", *["not measured" if each is None else each for each in microvm], "", ""])
    table(["answered by", "`quiet`", "not quiet", "required", "reached"], rows)


def measure_freezes(folder):
    if not BENCH.exists():
        subprocess.run(["ninja", "-C", BUILD, "tests/bench/vmm-bench"], check=True, stdout=sys.stderr)
    heading("Freeze rendezvous", FREEZES, "Every vCPU spins in user mode; L1 has 2 emulated CPUs (scripts/nested-kvm).")
    rows = []
    for vcpus in (1, 2, 4):
        done = nested(folder, "--take", BENCH.parent / "spin-init", BENCH, KERNEL, vcpus, FREEZES, "quiet")
        if done.returncode != 0:
            rows.append([vcpus, "failed", "", ""])
            continue
        times = sorted(ns / 1e6 for ns in json.loads(done.stdout)["freezes_ns"])
        rows.append([vcpus, f"{statistics.median(times):.2f} ms", f"{times[len(times) * 95 // 100]:.2f} ms", f"{times[-1]:.2f} ms"])
    table(["vCPUs", "median", "95 %", "maximum"], rows)


def main():
    work, runs = arguments()
    measure_starts(work / "starts", max(runs, START_RUNS))
    measure_exits(work)
    measure_freezes(work)


main()
