// spin: pure compute, never blocks, never gives the CPU away.
#include "guest/workload/work_type.h"

namespace ktstr::guest {
namespace {

class Spin : public WorkType {
 public:
  void run(WorkContext& context) override {
    while (!context.stopping()) {
      context.compute_block();
      context.end_iteration();
    }
  }
};

}  // namespace

std::unique_ptr<WorkType> make_spin(const ktstr::v1::WorkSpec& /*work*/) {
  return std::make_unique<Spin>();
}

}  // namespace ktstr::guest
