// ScxObjects: which objects make up the sched_ext state of a guest, and how they hang together.
//
// This is what the walk through a stopped guest finds out: addresses and order, no contents. Contents are
// copied at the same time (CapturedMemory) and interpreted later.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "host/inspect/walk/list.h"
#include "host/memory/address.h"
#include "proto/dump.pb.h"

namespace ktstr {

// A place where links ended, or an object that could not be read.
struct Flaw {
  std::string path;  // "runnable_list of CPU 1"
  std::string text;
};

struct CpuObjects {
  std::uint32_t cpu = 0;
  Kva rq;
  Kva curr, donor, idle, sub_dispatch_prev, rescue_curr;  // tasks; 0: none, or not known
  std::vector<Kva> runnable;                              // tasks on runnable_list, in its order
  std::optional<std::string> runnable_broken;
  std::optional<std::size_t> deferred_locals, deferred_reenq_locals,
      deferred_reenq_users;  // lengths of lists
  Kva kick_syncs;            // array of nr_cpu_ids numbers; 0: none
  Kva dispatch_buffer;       // of kernels that have one per CPU, not per scheduler; struct scx_dsp_ctx
  std::optional<Kva> locked_rq, direct_dispatch_task;
};

struct SchedCpuObjects {
  std::uint32_t cpu = 0;
  Kva pcpu;         // struct scx_sched_pcpu; 0: this kernel has none
  Kva event_stats;  // struct scx_event_stats; 0: none
};

struct SchedObjects {
  Kva sched;   // struct scx_sched; in older kernels the global scx_ops
  Kva parent;  // 0 for the root
  Kva exit_info;
  std::vector<SchedCpuObjects> cpus;
};

struct DsqObjects {
  Kva dsq;
  ktstr::v1::Dsq::Kind kind = ktstr::v1::Dsq::USER;
  std::optional<std::uint32_t> index;  // CPU or node
  Kva sched;
  std::vector<Kva> tasks;  // in dispatch order
  std::size_t cursors = 0;
  std::optional<std::string> broken;
  std::size_t priq_nodes = 0;
  std::optional<std::string> priq_broken;
  // Whether the order of the tree is that of the list; only where every queued task is in the tree.
  bool priq_order_differs = false;
};

// Where a task was come across.
enum class TaskSource : std::uint8_t {
  kScxTasks = 1,
  kTaskTree = 2,
  kRunnableList = 4,
  kDsq = 8,
  kCurrent = 16,
  kIdle = 32,
  kDispatchBuffer = 64,
};

struct TaskObjects {
  Kva task;
  std::uint8_t sources = 0;  // TaskSource bits
  bool has(TaskSource source) const { return (sources & static_cast<std::uint8_t>(source)) != 0; }
};

struct ScxObjects {
  std::uint32_t nr_cpu_ids = 0;
  // The scheduler that the trap was told about; 0: none.
  std::vector<CpuObjects> cpus;
  std::vector<SchedObjects> scheds;  // parents before children
  std::vector<DsqObjects> dsqs;
  std::vector<TaskObjects> tasks;
  std::unordered_map<Kva, std::size_t> task_index;
  std::vector<Kva> task_groups;  // those of the tasks, each once
  std::vector<Flaw> flaws;
  std::size_t flaws_left_out = 0;  // more than FaultLog::kMax
  // Layers that were not walked, with the reason.
  std::vector<ktstr::v1::Absence> absent;
  bool scx_tasks_walked = false, task_tree_walked = false;
  // Limits that ended the walk, or a part of it.
  std::string incomplete;
};

}  // namespace ktstr
