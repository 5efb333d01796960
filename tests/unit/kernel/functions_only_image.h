// A small kernel whose kallsyms have functions only, with all that image_symbols.h reads instead.
#pragma once

#include <cstdint>
#include <string>

#include "tests/unit/kernel/test_kallsyms.h"

namespace ktstr::test {

struct FunctionsOnlyImage {
  std::string elf;
  // Link-time addresses. init_task, nr_cpu_ids and __per_cpu_offset are exported.
  std::uint64_t init_task = 0;
  std::uint64_t init_mm = 0;
  std::uint64_t init_top_pgt = 0;
  std::uint64_t ext_sched_class = 0;
  std::uint64_t nr_cpu_ids = 0;
  std::uint64_t per_cpu_offset = 0;
  std::uint64_t per_cpu_section =
      0;  // has runqueues at 0x40, "twice" at 0x80 and at 0xc0, the exported cpu_number at 0x100
};

// Bytes of the per-CPU section.
constexpr std::uint64_t kPerCpuBytes = 0x200;

// `zero_based`: the per-CPU section is linked at 0, as before 6.15.
FunctionsOnlyImage make_functions_only(bool zero_based);

}  // namespace ktstr::test
