// ScxPlan: everything about a kernel that has to be known before its sched_ext state can be read.
//
// Made once for a kernel, from its types: the layouts of the structures that a dump shows, and the members
// that walkers follow. No version numbers: a member that this kernel lacks is absent, and so is the layer
// that hangs on it, each with a reason in `absent`. Kernels before 6.16 keep in globals what later ones have
// in struct scx_sched; `Legacy` says so.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "host/inspect/struct_layout.h"
#include "host/inspect/walk/rhashtable.h"
#include "host/kernel/kernel_types.h"

namespace ktstr {

// Bounds of what a kernel may have; the guest's own numbers are cut to them.
inline constexpr std::uint32_t kMaxNumaNodes = 1024;        // MAX_NUMNODES
inline constexpr std::uint32_t kMaxDispatchEntries = 1024;  // SCX_DSP_MAX_BATCH and more
inline constexpr std::uint64_t kMaxBacktrace = 64;          // SCX_EXIT_BT_LEN
// What the pair of idle masks is called: since 6.14, before.
inline constexpr std::array<std::string_view, 2> kIdleMasks = {"scx_idle_global_masks", "idle_masks"};

// One global of ScxGlobals.
struct GlobalField {
  const google::protobuf::FieldDescriptor* field = nullptr;
  struct Choice {
    std::string symbol;
    std::uint32_t size = 0;  // bytes
    bool is_signed = false;
  };
  std::vector<Choice> choices;  // in the order they are tried
};

// struct rq and what it contains.
struct RqPlan {
  StructLayout layout;
  std::optional<Place> curr, donor, idle, runnable_list, ddsp_deferred_locals, deferred_reenq_locals,
      deferred_reenq_users, sub_dispatch_prev, rescue_curr;
  // Dispatch queues inside of it.
  std::optional<Place> local_dsq, bypass_dsq, reject_dsq, rescue_dsq;
};

// struct scx_sched, or struct sched_ext_ops where there is none.
struct SchedPlan {
  StructLayout layout;
  bool legacy = false;  // scheduler state is in globals
  std::optional<Place> exit_info, exit_kind, dsq_hash, global_dsqs, pnode, pcpu, event_stats_cpu, children,
      sibling, all;
  // Callbacks in struct sched_ext_ops, by name, with places from the beginning of `layout`'s object.
  std::vector<Place> callbacks;
};

struct SchedCpuPlan {
  StructLayout layout;
  std::optional<Place> bypass_dsq, event_stats, dispatch_context;
};

struct DsqPlan {
  StructLayout layout;
  std::optional<Place> list, priq, hash_node, id;
};

struct TaskPlan {
  StructLayout layout;
  std::optional<Place> tasks, thread_node, signal, stack, thread_sp, cgroups, task_group;
  std::optional<Place> tasks_node, runnable_node, dsq_node, dsq_node_flags, dsq_priq, flags;
  std::uint64_t thread_head = 0;  // of struct signal_struct
  bool has_threads = false;
  std::uint64_t stack_bytes = 0;  // THREAD_SIZE
};

// From a task to the path of its cgroup.
struct CgroupPlan {
  std::optional<Place> dfl_cgrp, kn, name, parent;
};

// struct scx_dsp_ctx: what a CPU has decided to dispatch and not yet dispatched.
struct DispatchBufferPlan {
  std::uint64_t cursor = 0;   // entries in use, u32
  std::uint64_t entries = 0;  // the first
  StructLayout entry;         // its size is the distance to the next
  std::uint64_t task = 0;     // in an entry
};

// Values that differ between kernels, from their enums.
struct ScxConstants {
  std::uint64_t task_cursor = 0;    // SCX_TASK_CURSOR, in sched_ext_entity.flags
  std::uint64_t lnode_cursor = 0;   // SCX_DSQ_LNODE_ITER_CURSOR
  std::uint64_t opss_mask = 3;      // SCX_OPSS_STATE_MASK
  std::uint32_t opss_shift = 2;     // SCX_OPSS_QSEQ_SHIFT
  std::uint64_t state_mask = 0;     // SCX_TASK_STATE_MASK
  std::uint32_t state_shift = 0;    // SCX_TASK_STATE_SHIFT
  std::uint64_t exit_error = 1024;  // SCX_EXIT_ERROR
  std::vector<Enumerator> opss;     // SCX_OPSS_*
  std::vector<Enumerator> states;   // SCX_TASK_* states, as they stand in the masked flags or shifted down
  std::vector<Enumerator> exit_kinds;
};

struct ScxPlan {
  std::uint32_t max_cpus = 0;
  std::vector<GlobalField> globals;
  RqPlan rq;
  SchedPlan sched;
  SchedCpuPlan sched_cpu;
  DsqPlan dsq;
  TaskPlan task;
  StructLayout task_group;  // struct task_group
  CgroupPlan cgroup;
  StructLayout exit_info;
  std::optional<DispatchBufferPlan> dispatch_buffer;
  std::optional<Place> exit_bt, exit_bt_len, exit_dump, pnode_global_dsq;
  // Counters of struct scx_event_stats, by name.
  std::vector<Place> event_counters;
  std::uint64_t event_stats_size = 0;
  std::optional<RhashtableOffsets> dsq_table;
  // Members of struct scx_idle_cpus; cpumask_var_t may be a pointer or the mask itself.
  std::uint64_t idle_cpu = 0, idle_smt = 0;
  bool masks_are_pointers = true;
  // Where in the object behind scx_kick_syncs (or as it is called) the numbers begin.
  std::uint64_t kick_syncs_offset = 0;
  ScxConstants constants;
  // For the renderer: names of the bits of flags.
  std::vector<ktstr::v1::EnumTable> enum_tables;

  std::size_t mask_bytes() const { return (max_cpus + 63) / 64 * 8; }
  // Layers that this kernel does not have; and why its dispatch buffers are not in its schedulers.
  std::vector<ktstr::v1::Absence> layers_absent;
  std::string no_dispatch_context;

  // All that the layouts lack, and the layers.
  std::vector<ktstr::v1::Absence> absent() const;
  std::vector<ktstr::v1::Access> access() const;
};

// Parts of it.
ScxConstants make_constants(const KernelTypes& types);
void add_enum_tables(const KernelTypes& types, const google::protobuf::Descriptor* message,
                     std::vector<ktstr::v1::EnumTable>& tables);

// `max_cpus`: no CPU of the guest has a number as high; 1 to 8192.
ScxPlan make_scx_plan(const KernelTypes& types, std::uint32_t max_cpus);

}  // namespace ktstr
