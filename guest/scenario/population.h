// Population: the cgroups of a step (or of the backdrop) and the workers in them, from their making to their
// removal.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <google/protobuf/repeated_field.h>

#include "common/error.h"
#include "guest/cgroup/cgroup_group.h"
#include "guest/scenario/checks.h"
#include "guest/workload/worker_group.h"
#include "proto/plan.pb.h"
#include "proto/result.pb.h"

namespace ktstr::guest {

class [[nodiscard]] Population {
 public:
  using Defs = google::protobuf::RepeatedPtrField<ktstr::v1::CgroupDef>;
  struct Surroundings {
    CgroupOps& ops;
    Supervisor& supervisor;
    std::uint32_t cpus = 1;  // of the machine
    std::uint64_t seed = 0;
    std::uint64_t jitter_seed = 0;  // 0: none
    WorkerGroup::Patience patience;
  };

  // Makes the cgroups, sets their knobs, and starts setting up the workers, which will wait at `gate`. `defs`
  // must outlive the population. On an error nothing is left behind.
  static Expected<std::unique_ptr<Population>> make(const Surroundings& surroundings, const Defs& defs,
                                                    std::shared_ptr<Gate> gate);

  WorkerGroup& workers() { return *workers_; }
  const WorkerGroup& workers() const { return *workers_; }
  // As WorkerGroup::collect; the results are kept for `judged`.
  void collect(WorkerGroup::How how, const char* because);
  const std::vector<ktstr::v1::CgroupResult>& results() const { return results_; }
  // What the checks need; valid as long as the population. Call after collect.
  JudgedStep judged(std::string step_name) const;
  // "cannot set nice -5: ..." of the workers, one line for each cgroup that has any.
  std::vector<std::string> setup_errors() const;
  // Removes the cgroups; one text for each that would not go.
  std::vector<std::string> remove_cgroups();

 private:
  Population(const Surroundings& surroundings, const Defs& defs);
  Expected<> make_cgroups(const Surroundings& surroundings);

  const Defs& defs_;
  const std::uint32_t cpus_;
  CgroupGroup cgroups_;  // before the workers, so that these are gone when it is destroyed
  std::unique_ptr<WorkerGroup> workers_;
  std::vector<ktstr::v1::CgroupResult> results_;
};

}  // namespace ktstr::guest
