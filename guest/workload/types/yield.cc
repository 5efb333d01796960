// yield: a burst of compute, then sched_yield(2), for ever. Always runnable.
#include "common/scenario_check.h"
#include "guest/workload/work_type.h"

namespace ktstr::guest {
namespace {

class Yield : public WorkType {
 public:
  explicit Yield(std::chrono::nanoseconds burst) : burst_(burst) {}

  void run(WorkContext& context) override {
    while (context.compute_for(burst_)) {
      context.yield();
      context.end_iteration();
    }
  }

 private:
  std::chrono::nanoseconds burst_;
};

}  // namespace

std::unique_ptr<WorkType> make_yield(const ktstr::v1::WorkSpec& work) {
  return std::make_unique<Yield>(duration_or(work.yield().burst(), kDefaultYieldBurst));
}

}  // namespace ktstr::guest
