// Where the walks through a guest's scheduler begin, by arithmetic alone: no guest memory is read, so this
// can be done at any time, also while every vCPU stands still.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "host/memory/address.h"

namespace ktstr {

// The run queue of each CPU: index is the CPU's number, both of the same length.
struct RqAddresses {
  std::vector<Kva> kvas;
  std::vector<Gpa> pas;
};

// `runqueues` is what per-CPU offsets are added to: the symbol, with the slide unless the per-CPU section is
// linked at 0. `page_offset` is where the direct map begins. Everything wraps at 2^64: in kernels whose
// per-CPU section is not linked at 0 the sum always does. kvas[i] == pas[i] + page_offset. Meaningful only
// where per-CPU areas lie in the direct map, as those of x86-64 do at boot. (setup_per_cpu_areas() of
// arch/x86)
RqAddresses compute_rq_addresses(std::uint64_t runqueues, std::span<const std::uint64_t> per_cpu_offsets,
                                 std::uint64_t page_offset);

// What the kernel's symbols say.
struct ScxSymbols {
  std::uint64_t runqueues = 0;
  std::optional<Kva> scx_root;
  std::optional<Kva> scx_tasks;
};

// Address 0: the kernel lacks that symbol; what begins there is not walked, everything else is.
struct ScxAnchors {
  RqAddresses rqs;
  Kva scx_root;
  Kva scx_tasks;
};

// Without `per_cpu_offsets` (a guest that stopped early in its boot) there are no run queues, but the symbols
// are good all the same: the list of all tasks starts from one.
ScxAnchors compute_scx_anchors(const ScxSymbols& symbols,
                               std::optional<std::span<const std::uint64_t>> per_cpu_offsets,
                               std::uint64_t page_offset);

}  // namespace ktstr
