// WorkType: what a worker does all day. One class and one file below types/ each; the registry maps the
// WorkSpec's oneof to it.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "common/error.h"
#include "guest/workload/work_context.h"
#include "proto/plan.pb.h"

namespace ktstr::guest {

class WorkType {
 public:
  WorkType() = default;
  WorkType(const WorkType&) = delete;
  WorkType& operator=(const WorkType&) = delete;
  virtual ~WorkType() = default;

  // Works until context.stopping(). Runs in the worker's own process, after the gate has opened. Calls
  // context.end_iteration() once a round.
  virtual void run(WorkContext& context) = 0;
};

struct WorkTypeEntry {
  ktstr::v1::WorkSpec::TypeCase type;
  std::string_view name;  // the field's name in plan.proto
  std::unique_ptr<WorkType> (*make)(const ktstr::v1::WorkSpec& work);
};

// All work types.
const std::vector<WorkTypeEntry>& work_types();

// The work type of `work`. Error kUsage when it has none that this guest knows (a newer host's plan).
Expected<std::unique_ptr<WorkType>> make_work_type(const ktstr::v1::WorkSpec& work);

// One function for each file below types/.
std::unique_ptr<WorkType> make_spin(const ktstr::v1::WorkSpec& work);
std::unique_ptr<WorkType> make_yield(const ktstr::v1::WorkSpec& work);
std::unique_ptr<WorkType> make_sleep_and_run(const ktstr::v1::WorkSpec& work);

}  // namespace ktstr::guest
