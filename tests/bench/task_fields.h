// Reads chosen members of every task, and nothing else: what a debugger's script does, for comparison.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "common/error.h"
#include "host/kernel/guest_kernel.h"
#include "host/kernel/kernel_types.h"
#include "host/memory/kernel_memory.h"

namespace ktstr {

class TaskFields {
 public:
  // `fields` are access paths from task_struct: "pid", "scx.dsq". Error kKernelLacks: the kernel lacks one.
  static Expected<TaskFields> create(const KernelTypes& types, const std::vector<std::string>& fields);

  struct Values {
    std::size_t tasks = 0;
    // One for each field of each task, in the order of the fields. A member that is no number is the sum of
    // its bytes.
    std::vector<std::uint64_t> numbers;
  };
  // All threads of init_task's list, and the idle tasks. The per-CPU offsets must have been loaded. Error
  // kHost: a task could not be read.
  Expected<Values> read(const GuestKernel& kernel, KernelMemory& memory) const;

 private:
  struct Span {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
  };
  TaskFields() = default;
  Expected<> read_task(Kva task, KernelMemory& memory, ReadBudget& budget, std::vector<std::byte>& copy,
                       Values& to) const;

  std::vector<Place> places_;
  std::vector<Span> spans_;  // what to copy of a task
  std::uint64_t size_ = 0;   // bytes of a task up to the last of them
  Place tasks_, thread_node_, signal_, thread_head_, idle_;
};

}  // namespace ktstr
