"""bench deterministic: what an instruction clock costs, beside the ordinary tcg machine.

Both machines alternate within one run, same kernel, 2 vCPUs: exec to Hello, and a whole 5 s steady scenario. Idle time:
a 60 s hold of workers that sleep. Explore: seeds an hour with one job and with two.
"""
import statistics
import subprocess
import sys
import time

from common import arguments, finish, heading, KERNEL, KTSTR_VM, ktstr_vm, reached, result_of, spread, table

BOOT_LIMIT, STEADY_LIMIT, IDLE_LIMIT_S, JOBS_GAIN = 2.0, 2.5, 5.0, 1.7
SLEEPERS = """
duration: "60s"
steps { cgroups { name: "s" works { workers: 8 sleep_and_run { sleep: "100ms" run: "10us" } } } hold { full: true } }
"""
# Seeds whose clocks have either rate.
MACHINES = {"ordinary": [], "deterministic, 4 ns an instruction": ["--deterministic=2"],
            "deterministic, 8 ns an instruction": ["--deterministic=1"]}


def one_run(out, *options):
    """(seconds to Hello, seconds of the scenario phase, seconds from exec to the end)"""
    begin = time.monotonic()
    with ktstr_vm(out, *options) as started:
        hello = started.wall
        finish(started)
    whole = time.monotonic() - begin
    phases = {phase["name"]: phase["ns"] / 1e9 for phase in result_of(out)["host"]["phases"]}
    return hello, phases["scenario"], whole


def explore(work, jobs, seeds):
    """Wall seconds of so many seeds."""
    begin = time.monotonic()
    done = subprocess.run([KTSTR_VM, "explore", "--kernel", KERNEL, "--duration", "1s", "--seeds", str(seeds), "--jobs",
                           str(jobs), "--out", str(work / f"explore{jobs}")], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"bench: explore ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return time.monotonic() - begin


def main():
    work, runs = arguments()
    out = work / "out"
    heading("Deterministic runs", runs)
    times = {name: [] for name in MACHINES}
    for _ in range(runs):
        for name, options in MACHINES.items():
            times[name].append(one_run(out, *options))
    base = [statistics.median(column) for column in zip(*times["ordinary"])]
    rows = []
    for name in MACHINES:
        hello, scenario, whole = zip(*times[name])
        ratios = [statistics.median(hello) / base[0], statistics.median(whole) / base[2]]
        good = ratios[0] <= BOOT_LIMIT and ratios[1] <= STEADY_LIMIT
        rows.append([name, spread(hello), f"{ratios[0]:.2f}", spread(scenario), spread(whole), f"{ratios[1]:.2f}",
                     "" if name == "ordinary" else reached(good)])
    table(["machine", "exec to Hello", f"ratio (at most {BOOT_LIMIT})", "scenario of 5 s", "exec to end, steady",
           f"ratio (at most {STEADY_LIMIT})", "reached"], rows)

    scenario = work / "sleepers.textproto"
    scenario.write_text(SLEEPERS)
    holds = [one_run(out, "--deterministic=1", "--scenario", str(scenario))[1] for _ in range(min(runs, 3))]
    table(["60 s of guest time in which 8 workers mostly sleep", "required", "reached"],
          [[spread(holds), f"at most {IDLE_LIMIT_S:.0f} s", reached(statistics.median(holds) <= IDLE_LIMIT_S)]])

    seeds = 4 * min(runs, 5)
    alone, pair = explore(work, 1, seeds), explore(work, 2, seeds)
    table(["explore", "seeds", "wall", "seeds an hour", "gain", "required", "reached"],
          [["1 job", seeds, f"{alone:.1f} s", f"{seeds / alone * 3600:.0f}", "", "", ""],
           ["2 jobs", seeds, f"{pair:.1f} s", f"{seeds / pair * 3600:.0f}", f"{alone / pair:.2f}",
            f"at least {JOBS_GAIN}", reached(alone / pair >= JOBS_GAIN)]])


main()
