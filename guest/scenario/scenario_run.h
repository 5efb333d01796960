// ScenarioRun: one scenario from validation to the last removed cgroup. run_scenario (executor.h) gives it
// the real cgroups; tests give it recorded ones.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "guest/cgroup/cgroup_ops.h"
#include "guest/scenario/executor.h"
#include "guest/scenario/outcome.h"
#include "guest/scenario/population.h"
#include "guest/scenario/supervisor.h"
#include "proto/plan.pb.h"

namespace ktstr::guest {

// The order of things:
//   validate; controllers; ScenarioStart; backdrop set up (its workers wait);
//   each step: cgroups, knobs, workers; all ready; gate opens; StepStart; hold; StepEnd with the iteration
//   counters of that instant; stop and collect; judge; StepReport frames; cgroups removed; backdrop
//   collected, judged and reported; ScenarioEnd; its cgroups removed.
// The scenario's clock starts when the first step's gate opens, at which the backdrop's workers wait too:
// setting up costs no measured time. ScenarioEnd is sent whenever ScenarioStart was. What earlier steps found
// is kept whatever happens later.
class ScenarioRun {
 public:
  // Everything must outlive the run. `cpus`: CPUs 0 .. cpus-1 are online.
  ScenarioRun(const ktstr::v1::Scenario& scenario, std::uint32_t cpus, CgroupOps& ops, Supervisor& supervisor,
              std::uint64_t jitter_seed = 0, WorkerGroup::Patience patience = {});
  ScenarioRun(const ScenarioRun&) = delete;
  ScenarioRun& operator=(const ScenarioRun&) = delete;
  ~ScenarioRun();

  // Call once.
  ScenarioOutcome run();

 private:
  // How a step, or a part of one, went on.
  enum class Course {
    kGood,           // go on
    kSchedulerGone,  // end: kill everything
    kStopRequested,  // end, in good order
    kBroken,         // end: something could not be done, and has been said
  };

  bool valid();
  Course set_up();
  Course run_steps();
  Course run_step(int index);
  Course make_ready(Population& population, const std::string& step);
  Course hold(int index, std::chrono::nanoseconds length, ktstr::v1::StepResult& result);
  void finish_step(int index, Course course, const ktstr::v1::StepResult& result);
  void finish_backdrop(Course course);
  Course ended(Supervisor::Wake wake, const std::string& during);
  std::chrono::nanoseconds remaining() const;
  std::uint64_t iterations() const;
  void note(Population& population, Course course, const std::string& step);
  void remove_cgroups(std::unique_ptr<Population>& population);

  const ktstr::v1::Scenario& scenario_;
  CgroupOps& ops_;
  Supervisor& supervisor_;
  const Population::Surroundings surroundings_;
  const std::chrono::nanoseconds duration_;
  OutcomeBuilder outcome_;
  std::shared_ptr<Gate> first_gate_;  // backdrop and first step
  std::shared_ptr<Gate> gate_;        // of the present step
  std::unique_ptr<Population> backdrop_;
  std::unique_ptr<Population> step_;
};

}  // namespace ktstr::guest
