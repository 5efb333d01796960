// KernelLines: a dump's CPUs and tasks in the words of the kernel's own dump (scx_dump_state(),
// scx_dump_cpu() and scx_dump_task() of kernel/sched/ext.c up to 7.1, of kernel/sched/ext/ext.c since).
//
// What those lines say differs between kernels; which of them this is, is seen from what the dump has:
// event counters (then also slice and weight of tasks), levels of schedulers (then tasks name theirs), and
// the sequence numbers of CPUs.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "proto/dump.pb.h"

namespace ktstr {

// "ff,ffffffff": a CPU list ("0-39") as the kernel's %*pb shows a mask of `bits` bits. What is no CPU list
// comes back as it is.
std::string bitmap_text(std::string_view cpu_list, std::uint32_t bits);

// Refers to the dump, which must outlive it unchanged.
class KernelLines {
 public:
  explicit KernelLines(const ktstr::v1::Dump& dump);

  // "CPU 0   : nr_run=1 ...", "          rescue=..." where the kernel rescues tasks, "          curr=...",
  // and a line for each mask that is not empty. No newlines.
  std::vector<std::string> cpu(const ktstr::v1::Cpu& cpu) const;
  // "          rescue=0 budget=0us rescuing=none[-1]" (scx_rescue_dump() since 7.3).
  std::string rescue(const ktstr::v1::Cpu& cpu) const;
  // " *R comm[pid] +0ms" and the lines below it, without stack.
  std::vector<std::string> task(const ktstr::v1::Task& task, bool current) const;

  // The task by address, or by pid where the address is 0; nullptr where the dump has none.
  const ktstr::v1::Task* find(std::uint64_t address, std::int32_t pid) const;
  // Current (first, where it is of the ext class) and tasks of the runnable list: what the kernel shows for a
  // CPU. nullptr for a pid of which the dump has no task.
  std::vector<const ktstr::v1::Task*> tasks_of(const ktstr::v1::Cpu& cpu) const;
  static bool runs_ext(const ktstr::v1::Cpu& cpu) { return cpu.curr_class() == "ext_sched_class"; }
  // Whether the kernel's dump leaves this CPU out.
  static bool skipped(const ktstr::v1::Cpu& cpu);

  // Milliseconds that runnable_at lies ahead; negative: it has waited so long. In the kernel's rounding.
  std::int64_t delta_ms(const ktstr::v1::Task& task) const;
  // State of struct sched_ext_entity's flags, and the flags without it.
  std::uint32_t scx_state(const ktstr::v1::Task& task) const;
  std::uint32_t flags_without_state(const ktstr::v1::Task& task) const;
  // "root", "sub1-24"; with a star before it when that scheduler is the one this dump is about.
  std::string owner(const ktstr::v1::Task& task) const;
  // "0x8000000000000002", or "(n/a)" when the task is on no DSQ.
  static std::string dsq_id(const ktstr::v1::Task& task);
  std::uint32_t nr_cpu_ids() const { return nr_cpu_ids_; }
  // The scheduler that the dump is about; nullptr where there is none.
  const ktstr::v1::Sched* dumped_sched() const { return dumped_; }

 private:
  std::uint32_t state_mask(const ktstr::v1::Task& task) const;

  const ktstr::v1::Dump& dump_;
  std::uint32_t nr_cpu_ids_ = 0;
  std::uint32_t state_mask_ = 0;  // 0: not known
  bool shows_owner_ = false;
  bool shows_slice_ = false;
  const ktstr::v1::Sched* dumped_ = nullptr;
  std::unordered_map<std::uint64_t, const ktstr::v1::Task*> by_address_;
  std::unordered_map<std::int32_t, const ktstr::v1::Task*> by_pid_;
  std::unordered_map<std::uint64_t, std::string> places_;
  std::unordered_map<std::uint32_t, std::uint32_t> rescues_;  // length of the rescue DSQ, by CPU
};

}  // namespace ktstr
