// The kernel's dump text: any text is parsed or refused, and can be compared.
#include <string>
#include <string_view>

#include "host/report/dump/dump_compare.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/unit/report/sample_dump.h"

using namespace ktstr;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const ktstr::v1::Dump dump = sample_dump();
  const auto kernel = parse_kernel_dump(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!kernel) return 0;
  for (const DumpDifference& difference : compare_with_kernel(dump, *kernel, {}))
    (void)difference.to_string();
  return 0;
}
