// CPU lists: any text, any limit. What is accepted keeps to the limit and survives being written and read
// again.
#include "common/cpu_set.h"
#include "tests/fuzz/fuzz_input.h"

using ktstr::CpuSet;
using ktstr::fuzz::check;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  ktstr::fuzz::FuzzInput input(data, size);
  const auto limit = static_cast<std::uint32_t>(input.number(2));
  const auto set = CpuSet::parse(input.rest(), limit);
  if (!set) {
    check(set.error().code() == ktstr::ErrorCode::kUsage, "an error is a usage error");
    check(set.error().to_string().size() < 400, "the message is short");
    return 0;
  }
  check(set->empty() || *set->cpus().rbegin() < limit, "every CPU is below the limit");
  const auto again = CpuSet::parse(set->to_string(), limit);
  check(again.has_value() && *again == *set, "text and set agree");
  return 0;
}
