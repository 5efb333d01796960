// TaskCapture: every task of the guest, once, with its cgroup and what is needed of its stack.
// Internal to host/inspect/scx.
#pragma once

#include <optional>

#include "host/inspect/scx/capture_context.h"
#include "host/inspect/walk/kva_set.h"

namespace ktstr {

class TaskCapture {
 public:
  explicit TaskCapture(CaptureContext& context) : in_(context) {}

  // Copies a task that was come across; one that is known gets the source added. 0 is no task.
  void add(Kva task, TaskSource source);
  // The tasks that sched_ext knows: its own list.
  void walk_scx_tasks();
  // All threads of all processes, from init_task on.
  void walk_task_tree();
  // Of tasks that do not run the stack is interesting from the saved stack pointer on.
  void keep_sleeping_stack(Kva task);
  // Of those that run, all of it: where they were interrupted may be on another stack, which is kept as well.
  void keep_running_stack(const CpuObjects& objects);

 private:
  std::optional<Kva> scx_tasks_by_ring();
  void threads_of(Kva leader);
  void keep_cgroup(Kva task);
  void keep_task_group(Kva task);

  CaptureContext& in_;
  KvaSet seen_css_sets_, seen_nodes_, seen_groups_;
};

}  // namespace ktstr
