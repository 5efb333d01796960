"""A script for drgn: reads from a core what a dump of ours has of sched_ext, the way drgn is meant to be used.

    drgn -q -c CORE -s VMLINUX drgn_scx.py values     all of it as JSON, to compare with a dump
    drgn -q -c CORE -s VMLINUX drgn_scx.py time N     processor time in ms of N readings of the task fields alone and of
                                                      everything, after one that is not counted, as JSON; with the
                                                      names of the fields and the sum of all their values

Types and helpers are loaded in the reading that is not counted, so the times are those of reading and nothing else.
A member that this kernel does not have is an error, so nothing is left out unseen.
"""
import json
import sys
import time

from drgn import cast, container_of, Object
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.percpu import per_cpu, per_cpu_ptr
from drgn.helpers.linux.pid import for_each_task

# 26 fields of each task: 10 of its own, 16 of its sched_ext entity.
OF_TASK = ("pid", "tgid", "comm", "__state", "exit_state", "prio", "static_prio", "policy", "nr_cpus_allowed", "on_rq")
OF_ENTITY = ("dsq", "ops_state", "ddsp_dsq_id", "ddsp_enq_flags", "dsq_seq", "dsq_flags", "flags", "weight", "sticky_cpu",
             "holding_cpu", "selected_cpu", "ops_qseq", "runnable_at", "slice", "dsq_vtime", "disallow")
OF_RQ = ("nr_running", "flags", "extra_enq_flags", "nr_immed", "clock", "cpuperf_target", "in_select_cpu", "cpu_released",
         "kick_sync", "kick_sync_pending")


def number(value):
    """The value of a number, a pointer, a bool or an atomic_long_t."""
    value = value.value_()
    return int(value["counter"] if isinstance(value, dict) else value)


def read_task(task):
    fields = {"address": task.value_()}
    for name in OF_TASK:
        member = getattr(task, name)
        fields[name] = member.string_().decode(errors="replace") if name == "comm" else number(member)
    entity = task.scx
    for name in OF_ENTITY:
        fields[name] = number(getattr(entity, name))
    return fields


def read_tasks():
    return [read_task(task) for task in for_each_task(prog, idle=True)]


def read_queue(queue):
    # Entries with a flag are cursors of BPF iterators, not tasks.
    nodes = [node for node in list_for_each_entry("struct scx_dsq_list_node", queue.list.address_of_(), "node")
             if not node.flags.value_()]
    return {"address": queue.address_, "id": queue.id.value_(), "nr": queue.nr.value_(), "seq": queue.seq.value_(),
            "tasks": [container_of(node, "struct task_struct", "scx.dsq_list").value_() for node in nodes]}


def hashed_queues(table):
    """Queues in a rhashtable; the lowest bit of a bucket is its lock, that of a link marks the end of a chain."""
    if table.tbl.nest:
        sys.exit("drgn_scx: nested hash tables are not read here")
    for index in range(table.tbl.size.value_()):
        at = cast("unsigned long", table.tbl.buckets[index]).value_() & ~1
        while at and not at & 1:
            node = Object(prog, "struct rhash_head *", value=at)
            yield container_of(node, "struct scx_dispatch_q", "hash_node")
            at = node.next.value_()


def read_all():
    root = prog["scx_root"]
    cpus, queues = [], []
    for cpu in for_each_possible_cpu(prog):
        rq = per_cpu(prog["runqueues"], cpu)
        fields = {"cpu": cpu, "address": rq.address_, "curr": rq.curr.pid.value_(), "rq_nr_running": rq.nr_running.value_()}
        for name in OF_RQ:
            fields[name] = number(getattr(rq.scx, name))
        cpus.append(fields)
        queues.append(read_queue(rq.scx.local_dsq))
        queues.append(read_queue(per_cpu_ptr(root.pcpu, cpu).bypass_dsq))
    for node in range(prog["nr_node_ids"].value_() if "nr_node_ids" in prog else 1):
        queues.append(read_queue(root.pnode[node].global_dsq))
    for queue in hashed_queues(root.dsq_hash):
        queues.append(read_queue(queue[0]))
    return {"tasks": read_tasks(), "cpus": cpus, "dsqs": queues}


def timed(work):
    begin = time.process_time()
    work()
    return (time.process_time() - begin) * 1000


def main():
    if sys.argv[1] == "values":
        print(json.dumps(read_all()))
        return
    runs = int(sys.argv[2])
    tasks = read_all()["tasks"]
    values = [sum(value.encode()) if isinstance(value, str) else value
              for task in tasks for name, value in task.items() if name != "address"]
    fields = [*OF_TASK, *(f"scx.{name}" for name in OF_ENTITY)]
    print(json.dumps({"tasks": len(tasks), "fields": fields, "sum": hex(sum(values) % 2**64), "of_tasks": [timed(read_tasks) for _ in range(runs)],
                      "all": [timed(read_all) for _ in range(runs)]}))


main()
