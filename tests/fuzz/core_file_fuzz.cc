// ELF cores: whatever the headers say, memory is read inside the file or as zeros.
#include <array>
#include <span>
#include <string>

#include "host/memory/core_file.h"
#include "tests/fuzz/fuzz_input.h"

using namespace ktstr;
using fuzz::check;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto core = CoreFile::parse(std::as_bytes(std::span(data, size)), "'input'");
  if (!core) {
    check(core.error().to_string().size() < 600, "an error is short");
    return 0;
  }
  check(core->vcpus().size() <= CoreFile::kMaxCpus, "CPUs are bounded");
  // Segments may name the same bytes, as those of QEMU's paging=true do.
  check(core->left_out_bytes() <= core->memory().total_bytes(), "what is left out is part of the memory");
  std::array<std::byte, 64> bytes;
  for (std::uint64_t gpa = 0; gpa < 1 << 16; gpa += 777) {
    ReadBudget budget(1 << 12, 1 << 6);
    (void)core->memory().read(Gpa(gpa), bytes, budget);
  }
  return 0;
}
