#include "guest/workload/work_type.h"

#include <algorithm>

#include <fmt/format.h>

namespace ktstr::guest {

using ktstr::v1::WorkSpec;

const std::vector<WorkTypeEntry>& work_types() {
  static const std::vector<WorkTypeEntry> types = {
      {WorkSpec::kSpin, "spin", make_spin},
      {WorkSpec::kYield, "yield", make_yield},
      {WorkSpec::kSleepAndRun, "sleep_and_run", make_sleep_and_run},
  };
  return types;
}

Expected<std::unique_ptr<WorkType>> make_work_type(const WorkSpec& work) {
  const auto& types = work_types();
  const auto entry = std::find_if(types.begin(), types.end(),
                                  [&](const WorkTypeEntry& type) { return type.type == work.type_case(); });
  if (entry == types.end()) {
    return fail(ErrorCode::kUsage, fmt::format("work type {} is not known to this guest", work.type_case()));
  }
  return entry->make(work);
}

}  // namespace ktstr::guest
