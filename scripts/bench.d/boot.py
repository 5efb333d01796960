"""bench boot: exec to PID 1's Hello, interleaved with plain QEMU booting the bzImage to a do-nothing init.

Plain QEMU is what a user would type for this kernel: the same emulator, firmware, CPU model, vCPUs and memory, a
serial console, nothing else on the kernel's command line than what ends a panic. Processor time is given too:
unlike wall time it says nearly the same on an idle and on a loaded host.
"""
import statistics

from common import arguments, finish, heading, ktstr_vm, phases_of, reached, result_of, spread, table, Watched
from plain_guest import make_initramfs, MARKER

REQUIRED_RATIO = 0.8
PHASES = ["image", "initramfs", "machine", "kernel", "init"]
# A short scenario: only the boot counts, but phases are written when a run ends in good order.
OPTIONS = ["--duration", "100ms"]


def option(argv, name):
    return argv[argv.index(name) + 1]


def plain_command(result, initramfs):
    """Plain QEMU for the machine that ktstr-vm's `result` describes."""
    argv = result["host"]["emulator_argv"]
    firmware = [argv[at + 1] for at, word in enumerate(argv) if word == "-L"]
    command = [argv[0], *(word for folder in firmware for word in ("-L", folder))]
    command += ["-M", "pc"]
    for name in ("-accel", "-cpu", "-smp", "-m"):
        command += [name, option(argv, name)]
    command += ["-nodefaults", "-display", "none", "-serial", "stdio"]
    return command + ["-kernel", result["plan"]["kernel"]["path"], "-initrd", str(initramfs),
                      "-append", "console=ttyS0 panic=-1"]


def run_ours(out):
    with ktstr_vm(out, *OPTIONS) as started:
        finish(started)
    return started, result_of(out)


def run_plain(command):
    with Watched(command, MARKER) as started:
        return started


def main():
    work, runs = arguments()
    out = work / "out"
    first = run_ours(out)[1]  # fills the caches, and tells what the machine looks like
    command = plain_command(first, make_initramfs(work))
    run_plain(command)

    ours, plain, phases = [], [], []
    heading("Boot", runs, f"QEMU {first['host']['emulator_version']}, `-cpu {option(command, '-cpu')}`, "
            f"{option(command, '-smp').split(',')[0]}, {option(command, '-m')}.")
    for turn in range(runs):
        for mine in ([True, False] if turn % 2 == 0 else [False, True]):
            if not mine:
                plain.append(run_plain(command))
                continue
            started, result = run_ours(out)
            ours.append(started)
            phases.append(phases_of(result))

    ratio = {what: statistics.median(getattr(run, what) for run in ours) /
             statistics.median(getattr(run, what) for run in plain) for what in ("wall", "cpu")}
    table(["exec to PID 1", "wall time, median (range)", "processor time"],
          [[name, spread([run.wall for run in group]), spread([run.cpu for run in group])]
           for name, group in (("ktstr-vm, Hello received", ours), ("plain QEMU, init's marker", plain))])
    table(["what", "measured", "required", "reached"],
          [["wall time, ktstr-vm / plain QEMU", f"{ratio['wall']:.2f}", f"at most {REQUIRED_RATIO}",
            reached(ratio["wall"] <= REQUIRED_RATIO)],
           ["processor time, the same", f"{ratio['cpu']:.2f}", "", ""]])
    rest = [run.wall - sum(phase.get(name, 0) for name in PHASES) for run, phase in zip(ours, phases)]
    rows = [[name, spread([phase.get(name, 0) for phase in phases], "ms")] for name in PHASES]
    table(["phase", "wall time, median (range)"], rows + [["the rest (exec, scenario, report)", spread(rest, "ms")]])
    print("\nPlain QEMU: `" + " ".join(command[:-1]) + f" '{command[-1]}'`")


main()
