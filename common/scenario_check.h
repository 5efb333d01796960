// What makes a scenario acceptable, and the numbers that follow from it. Both sides use this: the host before
// it boots anything (it turns the field paths into file:line:column), the guest again before it runs the
// plan, because what comes over a wire is hostile input.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/cpu_set.h"
#include "proto/plan.pb.h"

namespace ktstr {

// Bounds of a scenario. They keep one file from eating the guest: 4,096 forked workers are about 1 GiB of
// guest memory.
inline constexpr int kMaxSteps = 10000;
inline constexpr int kMaxCgroups = 256;             // in one step, and in the backdrop
inline constexpr int kMaxWorks = 64;                // in one cgroup
inline constexpr std::uint32_t kMaxWorkers = 4096;  // alive at the same time: a step's and the backdrop's
inline constexpr std::size_t kMaxNameLength = 64;
inline constexpr std::size_t kMaxDescriptionLength = 4096;

// Values of fields that a scenario leaves out, as plan.proto documents them.
inline constexpr std::chrono::nanoseconds kDefaultScenarioDuration = std::chrono::seconds(5);
inline constexpr std::chrono::nanoseconds kDefaultYieldBurst = std::chrono::microseconds(50);
inline constexpr std::chrono::nanoseconds kDefaultSleep = std::chrono::milliseconds(1);
inline constexpr std::chrono::nanoseconds kDefaultRun = std::chrono::milliseconds(1);
inline constexpr std::uint32_t kDefaultMinWakeSamples = 100;

// One thing that is wrong with a scenario.
struct ScenarioProblem {
  std::string
      path;  // "steps[0].cgroups[1].works[0].workers"; a field that is missing names its parent; "": whole
  std::string message;  // what is wrong: one sentence without a full stop
  std::string hint;     // what would be right; may be empty
  bool operator==(const ScenarioProblem&) const = default;
};

// Everything that is wrong with `scenario` on a machine with CPUs 0 .. cpus-1, in file order; empty: it can
// be run. At most 100 problems are listed. Whether the machine fulfils `requirements` is not judged here
// (that is exit code 11, not 2).
std::vector<ScenarioProblem> check_scenario(const ktstr::v1::Scenario& scenario, std::uint32_t cpus);

// CPUs of a topology, saturated at CpuSet::kMaxCpus; zero in any member counts as one.
std::uint32_t topology_cpus(const ktstr::v1::Topology& topology);

// "<path>: <message> (<hint>)"
std::string to_string(const ScenarioProblem& problem);

// The functions below expect a scenario that check_scenario found nothing wrong with. Given anything else
// they return some bounded value.

// Total duration that holds refer to.
std::chrono::nanoseconds scenario_duration(const ktstr::v1::Scenario& scenario);
// `text`, or `fallback` when it is empty or no duration.
std::chrono::nanoseconds duration_or(std::string_view text, std::chrono::nanoseconds fallback);
// What a hold asks for: the fixed time, the fraction, or for `full` the whole `duration`; never more than
// `duration`.
std::chrono::nanoseconds hold_length(const ktstr::v1::Hold& hold, std::chrono::nanoseconds duration);
// Name shown for step `index` (0-based): its own, or "step<index>".
std::string step_name(const ktstr::v1::Step& step, int index);
// CPUs the workers of `cgroup` may use on a machine of `cpus` CPUs.
CpuSet cgroup_cpus(const ktstr::v1::CgroupDef& cgroup, std::uint32_t cpus);
// Number of workers of `work` in a cgroup that may use `cgroup_cpus` CPUs; 0 when it does not say, at most
// kMaxWorkers + 1.
std::uint32_t worker_count(const ktstr::v1::WorkSpec& work, std::size_t cgroup_cpus);
// "spin", "yield", "sleep_and_run": the field name of the work type; "" when none is set.
std::string work_type_name(const ktstr::v1::WorkSpec& work);

}  // namespace ktstr
