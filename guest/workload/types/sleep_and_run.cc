// sleep_and_run: sleeps, computes, sleeps, ...: the wake-up path of a scheduler.
#include "common/scenario_check.h"
#include "guest/workload/work_type.h"

namespace ktstr::guest {
namespace {

class SleepAndRun : public WorkType {
 public:
  SleepAndRun(std::chrono::nanoseconds sleep, std::chrono::nanoseconds run) : sleep_(sleep), run_(run) {}

  void run(WorkContext& context) override {
    while (context.sleep(sleep_) && context.compute_for(run_)) context.end_iteration();
  }

 private:
  std::chrono::nanoseconds sleep_;
  std::chrono::nanoseconds run_;
};

}  // namespace

std::unique_ptr<WorkType> make_sleep_and_run(const ktstr::v1::WorkSpec& work) {
  return std::make_unique<SleepAndRun>(duration_or(work.sleep_and_run().sleep(), kDefaultSleep),
                                       duration_or(work.sleep_and_run().run(), kDefaultRun));
}

}  // namespace ktstr::guest
