"""bench clone_rank: whether clones measure the same as guests that have booted.

The same scenario runs in both by turns; what the workers report is compared with the rank test of Mann and Whitney, which
asks nothing of the distributions. A p below 0.05 says that the difference is more than chance would make of it.
"""
import math
import os
import pathlib
import statistics

from clone_runs import keep, run
from common import arguments, heading, reached, table

SECONDS = 5


def ranks(values):
    """Rank of each value from 1; equal ones share the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    result = [0.0] * len(values)
    at = 0
    while at < len(order):
        end = at
        while end < len(order) and values[order[end]] == values[order[at]]:
            end += 1
        for index in order[at:end]:
            result[index] = (at + 1 + end) / 2
        at = end
    return result


def rank_test(one, other):
    """Two-sided p of the Mann-Whitney U test by its normal approximation, which does from 8 values each on."""
    count, others = len(one), len(other)
    statistic = sum(ranks(one + other)[:count]) - count * (count + 1) / 2
    deviation = math.sqrt(count * others * (count + others + 1) / 12)
    distance = max(abs(statistic - count * others / 2) - 0.5, 0) / deviation
    return math.erfc(distance / math.sqrt(2))


def workers(result):
    return [worker for step in result["guest"]["steps"] for cgroup in step["cgroups"] for worker in cgroup["workers"]]


def measurements(result):
    all_workers = workers(result)
    late = sorted(int(each) for worker in all_workers for each in worker.get("wake_latencies_ns", []))
    seconds = statistics.median(int(worker["wall_time_ns"]) for worker in all_workers) / 1e9
    found = {"throughput, M units/s": sum(int(worker["work_units"]) for worker in all_workers) / seconds / 1e6}
    if late:
        found["wake latency, median, us"] = late[len(late) // 2] / 1e3
        found["wake latency, 99 %, us"] = late[len(late) * 99 // 100] / 1e3
    return found


def compare(folder, runs, scheduler):
    options = ["--scheduler", scheduler]
    keep(folder, options)
    found = {"never": [], "always": []}
    for _ in range(runs):
        for mode, results in found.items():
            results.append(measurements(run(folder, mode, options, SECONDS)))
    rows = []
    for what in found["never"][0]:
        booted, cloned = ([each[what] for each in found[mode]] for mode in found)
        chance = rank_test(booted, cloned)
        rows.append([pathlib.Path(scheduler).name, what, f"{statistics.median(booted):.1f}", f"{statistics.median(cloned):.1f}",
                     f"{statistics.median(cloned) / statistics.median(booted):.3f}", f"{chance:.2f}", reached(chance >= 0.05)])
    return rows


def main():
    folder, runs = arguments()
    heading("do clones measure the same as booted guests? (tcg)", runs, f"2 vCPUs, scenario steady for {SECONDS} s, by turns; rank test.")
    rows = []
    for scheduler in os.environ["KTSTR_BENCH_SCHEDULERS"].split():
        if pathlib.Path(scheduler).name.startswith("scx_"):
            rows += compare(folder, runs, scheduler)
    table(["scheduler", "", "booted", "clone", "clone / booted", "p", "the same"], rows)


main()
