#include "host/inspect/scx/task_capture.h"

#include <algorithm>

#include <fmt/format.h>

namespace ktstr {
namespace {

constexpr std::uint64_t kMaxCgroupDepth = 64;

}  // namespace

void TaskCapture::add(Kva task, TaskSource source) {
  if (task.value() == 0 || !in_.plan.task.layout.known()) return;
  const auto [known, fresh] = in_.objects.task_index.try_emplace(task, in_.objects.tasks.size());
  if (!fresh) {
    in_.objects.tasks[known->second].sources |= static_cast<std::uint8_t>(source);
    return;
  }
  if (in_.objects.tasks.size() >= in_.limits.max_tasks) {
    in_.objects.task_index.erase(known);
    in_.incomplete(fmt::format("more than {} tasks", in_.limits.max_tasks));
    return;
  }
  in_.objects.tasks.push_back({task, static_cast<std::uint8_t>(source)});
  if (!in_.plan.task.layout.capture(in_.captured, in_.memory, task, in_.budget))
    in_.flaw(fmt::format("task {}", task), "cannot be read whole");
  keep_cgroup(task);
  keep_task_group(task);
}

void TaskCapture::keep_task_group(Kva task) {
  if (!in_.plan.task_group.known()) return;
  const Kva group = in_.pointer(task, in_.plan.task.task_group);
  if (group.value() == 0 || !seen_groups_.insert(group)) return;
  in_.objects.task_groups.push_back(group);
  if (!in_.plan.task_group.capture(in_.captured, in_.memory, group, in_.budget))
    in_.flaw(fmt::format("task group {}", group), "cannot be read whole");
}

void TaskCapture::walk_scx_tasks() {
  auto head = in_.kernel.symbol("scx_tasks");
  if (!head) head = scx_tasks_by_ring();
  if (!head) return in_.absent("scx_tasks", in_.kernel.symbols().lacks("scx_tasks"));
  if (!in_.plan.task.tasks_node || !in_.plan.task.flags) return;
  const ListContents list = walk_list(in_.memory, in_.budget, *head, in_.limits.max_tasks);
  in_.note_break("scx_tasks", list);
  in_.objects.scx_tasks_walked = true;
  for (const Kva node : list.nodes) {
    const Kva task = node - in_.plan.task.tasks_node->offset;
    const auto flags = in_.memory.read<std::uint32_t>(task + in_.plan.task.flags->offset, in_.budget);
    if (!flags) {
      in_.flaw(fmt::format("scx_tasks entry {}", node), flags.error().to_string());
      continue;
    }
    if ((*flags & in_.plan.constants.task_cursor) != 0) continue;  // no task around it
    add(task, TaskSource::kScxTasks);
  }
}

// In an image that does not name it: every task but the idle ones is on that list, whose head is the only
// node in the kernel's image. Where the ring does not lead to such a node, nothing is found.
std::optional<Kva> TaskCapture::scx_tasks_by_ring() {
  const auto init = in_.kernel.symbol("init_task"), begin = in_.kernel.symbol("_text"),
             end = in_.kernel.symbol("_end");
  if (!in_.names_functions_only() || !init || !begin || !end || !in_.plan.task.tasks ||
      !in_.plan.task.tasks_node)
    return std::nullopt;
  const Kva first = in_.pointer(*init + in_.plan.task.tasks->offset) - in_.plan.task.tasks->offset +
                    in_.plan.task.tasks_node->offset;
  Kva node = in_.pointer(first);
  for (std::size_t i = 0; i < in_.limits.max_tasks && node.value() != 0 && node != first; ++i) {
    if (node >= *begin && node < *end) return node;
    node = in_.pointer(node);
  }
  return std::nullopt;
}

void TaskCapture::walk_task_tree() {
  const auto init = in_.kernel.symbol("init_task");
  if (!init) return in_.absent("the task tree", in_.kernel.symbols().lacks("init_task"));
  if (!in_.plan.task.tasks) return;
  add(*init, TaskSource::kTaskTree);
  const ListContents leaders =
      walk_list(in_.memory, in_.budget, *init + in_.plan.task.tasks->offset, in_.limits.max_tasks);
  in_.note_break("init_task.tasks", leaders);
  in_.objects.task_tree_walked = true;
  for (const Kva node : leaders.nodes) threads_of(node - in_.plan.task.tasks->offset);
}

void TaskCapture::threads_of(Kva leader) {
  const Kva signal = in_.plan.task.has_threads ? in_.pointer(leader, in_.plan.task.signal) : Kva();
  if (signal.value() == 0) return add(leader, TaskSource::kTaskTree);
  walk_list(in_.memory, in_.budget, signal + in_.plan.task.thread_head, in_.limits.max_tasks, in_.list);
  if (in_.list.broken) in_.flaw(fmt::format("threads of task {}", leader), in_.list.broken->to_string());
  bool leader_found = false;
  for (const Kva node : in_.list.nodes) {
    const Kva task = node - in_.plan.task.thread_node->offset;
    leader_found = leader_found || task == leader;
    add(task, TaskSource::kTaskTree);
  }
  if (!leader_found) add(leader, TaskSource::kTaskTree);
}

void TaskCapture::keep_sleeping_stack(Kva task) {
  const TaskPlan& plan = in_.plan.task;
  if (!plan.stack || !plan.thread_sp) return;
  const Kva stack = in_.pointer(task, plan.stack);
  const Kva sp = in_.pointer(task, plan.thread_sp);
  if (stack.value() == 0 || sp < stack || sp - stack >= plan.stack_bytes) return;
  in_.keep(sp, std::min(plan.stack_bytes - (sp - stack), in_.limits.stack_bytes));
}

void TaskCapture::keep_running_stack(const CpuObjects& objects) {
  const Kva stack = in_.pointer(objects.curr, in_.plan.task.stack);
  if (stack.value() != 0) in_.keep(stack, in_.plan.task.stack_bytes);
  if (objects.cpu >= in_.hints.stack_pointers.size()) return;
  const Kva sp = in_.hints.stack_pointers[objects.cpu];
  if (sp.value() == 0 || (sp >= stack && sp - stack < in_.plan.task.stack_bytes)) return;
  const std::uint64_t rest = in_.plan.task.stack_bytes - sp.value() % in_.plan.task.stack_bytes;
  if (!in_.captured.capture(in_.memory, sp, rest, in_.budget)) in_.keep(sp, 4096 - sp.value() % 4096);
}

// task -> css_set -> cgroup -> kernfs_node -> its parents, each once.
void TaskCapture::keep_cgroup(Kva task) {
  const CgroupPlan& plan = in_.plan.cgroup;
  if (!in_.plan.task.cgroups || !plan.dfl_cgrp || !plan.kn || !plan.name || !plan.parent) return;
  const Kva css_set = in_.pointer(task, in_.plan.task.cgroups);
  if (css_set.value() == 0 || !seen_css_sets_.insert(css_set)) return;
  in_.keep(css_set + plan.dfl_cgrp->offset, 8);
  const Kva cgroup = in_.pointer(css_set, plan.dfl_cgrp);
  if (cgroup.value() == 0) return;
  in_.keep(cgroup + plan.kn->offset, 8);
  Kva node = in_.pointer(cgroup, plan.kn);
  for (std::uint64_t depth = 0; node.value() != 0 && depth < kMaxCgroupDepth && seen_nodes_.insert(node);
       ++depth) {
    in_.keep(node + plan.name->offset, 8);
    in_.keep(node + plan.parent->offset, 8);
    const Kva name = in_.pointer(node, plan.name);
    const auto text = in_.memory.read_c_string(name, 256, in_.budget);
    if (text) in_.keep(name, text->text.size() + (text->terminated ? 1 : 0));
    node = in_.pointer(node, plan.parent);
  }
}

}  // namespace ktstr
