"""What the measurements share: running ktstr-vm and QEMU with a clock beside them, statistics, tables."""
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time

SCRIPTS = pathlib.Path(__file__).resolve().parent.parent
KTSTR_VM = os.environ["KTSTR_VM"]
KERNEL = os.environ["KTSTR_BENCH_KERNEL"]
# A run that shows no life sign after this many seconds ends the measurement.
PATIENCE = 180
# The scenarios run here last a second or two; taking longer than this to end is reported.
SLOW_END = 20
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

# SIGTERM unwinds like Ctrl-C does, so that no emulator stays behind.
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def arguments():
    """(work folder, number of runs) from the command line."""
    return pathlib.Path(sys.argv[1]), int(sys.argv[2])


def cpu_seconds(pid):
    """Processor time of a process, its threads, its children and what it has already waited for."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS_PER_SECOND + sum(cpu_seconds(int(child)) for child in children)


@dataclasses.dataclass
class Started:
    """A program that has just given its life sign."""

    process: subprocess.Popen
    wall: float  # seconds from just before fork and exec
    cpu: float  # processor seconds until then, ours and its children's


class Watched:
    """Starts a program, waits until `sign` appears in one of its output streams, and ends it in any case.
    Wall time is taken when the bytes arrive, processor time right after."""

    def __init__(self, argv, sign, stream="stdout", **popen):
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: subprocess.PIPE}
        self.sign = sign.encode()
        self.seen = b""
        self.begin = time.monotonic()
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True, **streams, **popen)
        self.fd = getattr(self.process, stream).fileno()

    def __enter__(self):
        timer = threading.Timer(PATIENCE, self.kill)
        timer.start()
        try:
            while self.sign not in self.seen:
                piece = os.read(self.fd, 65536)
                if not piece:
                    tail = self.seen[-3000:].decode(errors="replace")
                    sys.exit(f"bench: {self.process.args[0]} ended without saying {self.sign!r}; it said:\n{tail}")
                self.seen += piece
            wall = time.monotonic() - self.begin
            return Started(self.process, wall, cpu_seconds(self.process.pid))
        except BaseException:
            self.__exit__()
            raise
        finally:
            timer.cancel()

    def __exit__(self, *_):
        self.kill()
        self.process.communicate()

    def kill(self):
        """The whole process group: ktstr-vm's emulator is in it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)


def ktstr_vm(out, *options, sign="guest is up", **popen):
    # What is measured here boots, unless it says otherwise.
    clone = [] if "--clone" in options or "--deterministic" in " ".join(options) else ["--clone", "never"]
    argv = [KTSTR_VM, "--kernel", KERNEL, "--out", str(out), *clone, *options]
    return Watched(argv, sign, "stderr", **popen)


def result_of(out):
    """result.json of the run that just ended; the run's folder is removed."""
    folder = (out / "latest").resolve()
    result = json.loads((folder / "result.json").read_text())
    shutil.rmtree(folder)
    return result


def finish(started):
    """Lets a run end by itself. What it found is of no interest here, but a run that hangs is worth a word."""
    begin = time.monotonic()
    _, text = started.process.communicate(timeout=PATIENCE)
    if time.monotonic() - begin > SLOW_END:
        print(f"bench: a run took {time.monotonic() - begin:.0f} s to end:\n{text.decode()}", file=sys.stderr)


def phases_of(result):
    """Phase name -> seconds."""
    return {phase["name"]: phase["ns"] / 1e9 for phase in result["host"]["phases"]}


def spread(values, unit="s"):
    """'2.31 s (2.20 to 2.58)': median and extremes. Milliseconds for unit 'ms'; values are seconds."""
    factor, digits = {"s": (1, 2), "ms": (1000, 1)}[unit]
    shown = (statistics.median(values), min(values), max(values))
    median, low, high = (f"{value * factor:.{digits}f}" for value in shown)
    return f"{median} {unit} ({low} to {high})"


def mib(size):
    return f"{size / 2**20:.1f} MiB"


def heading(title, runs, *facts):
    release = "".join(sorted(part for part in pathlib.Path(KERNEL).parts if part[:1].isdigit())[-1:]) or KERNEL
    print(f"\n### {title}\n")
    print(f"Kernel {release}; {os.cpu_count()} host CPUs, load average {os.getloadavg()[0]:.1f}; {runs} runs; "
          f"{time.strftime('%Y-%m-%d')}.", *facts)


def table(columns, rows):
    print()
    for line in [columns, ["---"] * len(columns), *rows]:
        print("| " + " | ".join(map(str, line)) + " |")
    sys.stdout.flush()


def reached(good):
    return "yes" if good else "no"
