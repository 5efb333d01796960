"""bench choices: what each boot choice of ktstr-vm is worth, by undoing one at a time.

All variants are QEMU started directly with ktstr-vm's own command line (its sockets replaced by nothing, guest RAM in
a memfd as ever) and the do-nothing init; so what differs is the choice and nothing else. All are run in turn, again
and again, so that a load on the host meets them all.
"""
import statistics
import subprocess

from common import arguments, finish, heading, ktstr_vm, result_of, SCRIPTS, spread, table, Watched
from plain_guest import make_initramfs, MARKER


class Command:
    """A QEMU command line that can be edited."""

    def __init__(self, argv):
        self.argv = list(argv)

    def replaced(self, option, old, new):
        """A copy with `old` replaced by `new` in the value of `option`; `old` None: the whole value."""
        copy = list(self.argv)
        at = copy.index(option) + 1
        assert old is None or old in copy[at], f"{old} is not in {option} {copy[at]}"
        copy[at] = new if old is None else copy[at].replace(old, new)
        return Command(copy)

    def value(self, option):
        return self.argv[self.argv.index(option) + 1]


def base_command(result, payload, initramfs):
    """ktstr-vm's machine without ktstr-vm: what it hands over by descriptor gets a name or nobody at the other end."""
    recorded = iter(result["host"]["emulator_argv"])
    argv = [next(recorded)]
    for word in recorded:
        if word == "-S":
            continue
        if word in ("-no-user-config", "-nodefaults"):
            argv.append(word)
            continue
        value = next(recorded)
        if word == "-mon" or value.startswith("socket,id=qmp"):
            continue
        if word == "-chardev":
            name = value.split("id=")[1].split(",")[0]
            value = "stdio,id=serial,signal=off" if name == "serial" else f"null,id={name}"
        if word == "-object":
            value = ",".join(part for part in value.replace("backend-file", "backend-memfd").split(",")
                             if not part.startswith("mem-path"))
        value = {"-kernel": str(payload), "-initrd": str(initramfs)}.get(word, value)
        argv += [word, value.replace(" rdinit=/init", "")]
    return Command(argv)


def variants(base, image):
    """(what is undone, how ktstr-vm is told to, command)."""
    yield "nothing: ktstr-vm's machine", "", base
    bzimage = base.replaced("-kernel", None, image)
    yield "payload entered directly -> bzImage", "", bzimage
    yield "the same with KASLR", "`--kaslr`", bzimage.replaced("-append", " nokaslr", "")
    for argument in base.value("-append").split():
        if argument.split("=")[0] in ("no_timer_check", "cryptomgr.notests", "initcall_blacklist", "tsc", "lpj"):
            yield (f"without `{argument}`", f"`--append {argument.split('=')[0]}=`",
                   base.replaced("-append", " " + argument, ""))
    for feature in ("smm=off", "vmport=off", "hpet=off"):
        yield f"`-M` without `{feature}`", "", base.replaced("-M", "," + feature, "")
    for model in ("max", "qemu64", "Haswell"):
        yield f"`-cpu {model}`", "", base.replaced("-cpu", None, model)


def main():
    work, runs = arguments()
    out = work / "out"
    with ktstr_vm(out, "--duration", "100ms") as started:
        finish(started)
    result = result_of(out)
    image = result["plan"]["kernel"]["path"]
    payload = work / "vmlinux"
    subprocess.run([SCRIPTS / "extract-vmlinux", image, payload], check=True, stdout=subprocess.DEVNULL)
    rows = list(variants(base_command(result, payload, make_initramfs(work)), image))

    heading("Boot choices", runs, f"QEMU {result['host']['emulator_version']}.")
    times = [[] for _ in rows]
    for _ in range(runs):
        for row, taken in zip(rows, times):
            with Watched(row[2].argv, MARKER) as started:
                taken.append(started)
    walls = [[run.wall for run in taken] for taken in times]
    cpus = [[run.cpu for run in taken] for taken in times]
    base_wall, base_cpu = statistics.median(walls[0]), statistics.median(cpus[0])
    table(["undone", "how to undo it", "exec to PID 1, median (range)", "costs, wall", "costs, processor"],
          [[row[0], row[1], spread(wall), f"{statistics.median(wall) - base_wall:+.2f} s",
            f"{statistics.median(cpu) - base_cpu:+.2f} s"] for row, wall, cpu in zip(rows, walls, cpus)])


main()
