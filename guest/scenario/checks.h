// The checks that are judged in the guest: pure functions from workers' reports to reasons.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "proto/plan.pb.h"
#include "proto/result.pb.h"

namespace ktstr::guest {

// The workers of one cgroup, and how the cgroup was described.
struct JudgedCgroup {
  const ktstr::v1::CgroupDef* def = nullptr;
  const ktstr::v1::CgroupResult* result = nullptr;
};

// One step (or the backdrop) as the checks see it.
struct JudgedStep {
  std::string name;        // stands in every reason; "" for the backdrop
  std::uint32_t cpus = 1;  // of the machine
  std::vector<JudgedCgroup> cgroups;
};

// What is wrong, in words. At most one reason for each cgroup and check: the worst worker, and how many
// others.
using Reasons = std::vector<ktstr::v1::Reason>;

// "worker-lost": workers that gave no report, with what became of them.
Reasons check_reported(const JudgedStep& step);
// "starved": workers that reported and have no work units.
Reasons check_not_starved(const JudgedStep& step);
// "gap": workers that were without progress for longer than `limit`.
Reasons check_max_gap(const JudgedStep& step, std::chrono::nanoseconds limit);
// "isolation": workers that ran on CPUs outside of their cgroup's cpuset. Cgroups without a cpuset are not
// judged.
Reasons check_isolation(const JudgedStep& step);
// "spread": spin workers of one cgroup with the same CPUs and nice value whose CPU shares differ by more than
// `limit_pct` percentage points.
Reasons check_max_spread(const JudgedStep& step, double limit_pct);
// "wake-latency": the 99th percentile over all workers of the step is above `limit`. "few-samples": fewer
// than `min_samples` to judge by. A step without sleep_and_run workers is not judged.
Reasons check_p99_wake_latency(const JudgedStep& step, std::chrono::nanoseconds limit,
                               std::uint32_t min_samples);

// What the checks of a step came to.
struct Judgement {
  ktstr::v1::Verdict verdict = ktstr::v1::PASS;  // PASS, FAIL or INCONCLUSIVE
  Reasons reasons;                               // failures before what is inconclusive
  std::vector<std::string> warnings;
};

// All checks that `checks` names. Lost workers fail any check of workers; when none is named they are
// warnings.
Judgement judge(const JudgedStep& step, const ktstr::v1::Checks& checks);

}  // namespace ktstr::guest
