"""bench hold: how late a 100 ms hold ends while 64 workers spin, under the kernel's own scheduler and a sched_ext one.

PID 1 measures it on the guest's clock (steps[].hold_overshoot_ns of the result): from when the hold should have ended
to when PID 1 runs again. Twenty holds a run.
"""
import os
import pathlib

from common import arguments, finish, heading, ktstr_vm, reached, result_of, spread, table

REQUIRED_MS = 10
HOLDS = 20
SCENARIO = """
duration: "30s"
backdrop { cgroups { name: "spin" works { workers: 64 spin {} } } }
""" + 'steps { hold { fixed: "100ms" } }\n' * HOLDS


def main():
    work, runs = arguments()
    out = work / "out"
    scenario = work / "hold.textproto"
    scenario.write_text(SCENARIO)
    heading("Holds", runs, f"{HOLDS} holds of 100 ms in each, 64 spinning workers, 2 vCPUs.")
    simple = [path for path in os.environ["KTSTR_BENCH_SCHEDULERS"].split() if pathlib.Path(path).name == "scx_simple"]
    rows = []
    for program in [None, *simple]:
        late = []
        for _ in range(runs):
            with ktstr_vm(out, "--scenario", str(scenario), *(["--scheduler", program] if program else [])) as started:
                finish(started)
            late += [step.get("hold_overshoot_ns", 0) / 1e9 for step in result_of(out)["guest"]["steps"]]
        within = sum(each <= REQUIRED_MS / 1e3 for each in late)
        rows.append([pathlib.Path(program).name if program else "EEVDF", len(late), spread(late, "ms"),
                     f"at most {REQUIRED_MS} ms", f"{within} of {len(late)}", reached(within == len(late))])
    table(["scheduler", "holds", "ends late by, median (range)", "required", "within", "reached"], rows)


main()
