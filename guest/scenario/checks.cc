#include "guest/scenario/checks.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "common/cpu_set.h"
#include "common/scenario_check.h"
#include "guest/scenario/latency.h"

namespace ktstr::guest {
namespace {

using ktstr::v1::WorkerReport;
using std::chrono::nanoseconds;

ktstr::v1::Reason make_reason(const JudgedStep& step, std::string kind, std::string text) {
  ktstr::v1::Reason reason;
  reason.set_kind(std::move(kind));
  reason.set_text(std::move(text));
  reason.set_step(step.name);
  return reason;
}

std::string where(const JudgedStep& step, const JudgedCgroup& cgroup) {
  return step.name.empty() ? fmt::format("cgroup '{}' of the backdrop", cgroup.result->cgroup())
                           : fmt::format("cgroup '{}' in step '{}'", cgroup.result->cgroup(), step.name);
}

// What a worker was told to do; nullptr when its report names no work of its cgroup.
const ktstr::v1::WorkSpec* work_of(const JudgedCgroup& cgroup, const WorkerReport& worker) {
  if (worker.work_index() >= static_cast<std::uint32_t>(cgroup.def->works_size())) return nullptr;
  return &cgroup.def->works(static_cast<int>(worker.work_index()));
}

// "worker 3 (spin, tid 123)"
std::string who(const JudgedCgroup& cgroup, int worker) {
  const WorkerReport& report = cgroup.result->workers(worker);
  const ktstr::v1::WorkSpec* work = work_of(cgroup, report);
  return fmt::format("worker {} ({}tid {})", worker,
                     work == nullptr ? std::string() : work_type_name(*work) + ", ", report.tid());
}

std::string and_others(std::size_t bad, int workers) {
  return bad > 1 ? fmt::format("; {} of its {} workers are concerned", bad, workers) : std::string();
}

// A time as a person reads it: three significant digits are enough to compare.
std::string about(std::uint64_t ns) {
  const auto value = static_cast<double>(ns);
  if (ns >= 1'000'000'000U) return fmt::format("{:.3g} s", std::min(value / 1e9, 1e9));
  if (ns >= 1'000'000U) return fmt::format("{:.3g} ms", value / 1e6);
  return fmt::format("{:.3g} us", value / 1e3);
}

std::string about(nanoseconds time) {
  return about(static_cast<std::uint64_t>(std::max<nanoseconds::rep>(time.count(), 0)));
}

// Finds the workers of a cgroup that `bad` gives a positive badness, and describes the worst of them.
template <typename Badness, typename Text>
Reasons per_cgroup(const JudgedStep& step, const char* kind, Badness badness, Text text) {
  Reasons reasons;
  for (const JudgedCgroup& cgroup : step.cgroups) {
    int worst = -1;
    double worst_badness = 0;
    std::size_t bad = 0;
    for (int i = 0; i < cgroup.result->workers_size(); ++i) {
      const double badness_here = badness(cgroup, cgroup.result->workers(i));
      if (badness_here <= 0) continue;
      ++bad;
      if (badness_here > worst_badness) {
        worst = i;
        worst_badness = badness_here;
      }
    }
    if (worst < 0) continue;
    reasons.push_back(make_reason(step, kind,
                                  fmt::format("{} of {} {}{}", who(cgroup, worst), where(step, cgroup),
                                              text(cgroup, cgroup.result->workers(worst)),
                                              and_others(bad, cgroup.result->workers_size()))));
  }
  return reasons;
}

// CPUs a worker was seen on outside of its cgroup's cpuset.
CpuSet strayed(const JudgedStep& step, const JudgedCgroup& cgroup, const WorkerReport& worker) {
  const CpuSet allowed = cgroup_cpus(*cgroup.def, step.cpus);
  CpuSet outside;
  for (const std::uint32_t cpu : worker.cpus_used()) {
    if (!allowed.contains(cpu)) outside.insert(cpu);
  }
  return outside;
}

double share_pct(const WorkerReport& worker) {
  if (worker.wall_time_ns() == 0) return 0;
  return 100.0 * static_cast<double>(worker.cpu_time_ns()) / static_cast<double>(worker.wall_time_ns());
}

// Least and greatest CPU share among workers that compete on equal terms.
struct Spread {
  int low = -1;
  int high = -1;
  int workers = 0;
};

// Spin workers by what makes them equal: CPUs and nice value.
std::map<std::pair<std::string, int>, Spread> spreads(const JudgedStep& step, const JudgedCgroup& cgroup) {
  std::map<std::pair<std::string, int>, Spread> groups;
  for (int i = 0; i < cgroup.result->workers_size(); ++i) {
    const WorkerReport& worker = cgroup.result->workers(i);
    const ktstr::v1::WorkSpec* work = work_of(cgroup, worker);
    if (!worker.completed() || work == nullptr || !work->has_spin()) continue;
    CpuSet cpus = cgroup_cpus(*cgroup.def, step.cpus);
    if (!work->affinity().empty()) cpus = CpuSet::parse(work->affinity()).value_or(cpus);
    Spread& spread = groups[{cpus.to_string(), work->nice()}];
    ++spread.workers;
    if (spread.low < 0 || share_pct(worker) < share_pct(cgroup.result->workers(spread.low))) spread.low = i;
    if (spread.high < 0 || share_pct(worker) > share_pct(cgroup.result->workers(spread.high)))
      spread.high = i;
  }
  return groups;
}

bool sleeps(const JudgedCgroup& cgroup) {
  return std::any_of(cgroup.def->works().begin(), cgroup.def->works().end(),
                     [](const ktstr::v1::WorkSpec& work) { return work.has_sleep_and_run(); });
}

void append(Reasons& to, Reasons from) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

Reasons check_reported(const JudgedStep& step) {
  return per_cgroup(
      step, "worker-lost",
      [](const JudgedCgroup&, const WorkerReport& worker) { return worker.completed() ? 0 : 1; },
      [](const JudgedCgroup&, const WorkerReport& worker) {
        return fmt::format("gave no report: {}", worker.exit_info());
      });
}

Reasons check_not_starved(const JudgedStep& step) {
  return per_cgroup(
      step, "starved",
      [](const JudgedCgroup&, const WorkerReport& worker) {
        return worker.completed() && worker.work_units() == 0 ? 1 : 0;
      },
      [](const JudgedCgroup&, const WorkerReport& worker) {
        return fmt::format("did 0 units of work in {}, more than 0 are asked for",
                           about(worker.wall_time_ns()));
      });
}

Reasons check_max_gap(const JudgedStep& step, nanoseconds limit) {
  const auto limit_ns = static_cast<std::uint64_t>(limit.count());
  return per_cgroup(
      step, "gap",
      [&](const JudgedCgroup&, const WorkerReport& worker) {
        return worker.completed() && worker.max_gap_ns() > limit_ns
                   ? static_cast<double>(worker.max_gap_ns() - limit_ns)
                   : 0.0;
      },
      [&](const JudgedCgroup&, const WorkerReport& worker) {
        return fmt::format("made no progress for {} (CPU {}, {} after the start); at most {} is allowed",
                           about(worker.max_gap_ns()), worker.max_gap_cpu(), about(worker.max_gap_at_ns()),
                           about(limit));
      });
}

Reasons check_isolation(const JudgedStep& step) {
  return per_cgroup(
      step, "isolation",
      [&](const JudgedCgroup& cgroup, const WorkerReport& worker) {
        if (cgroup.def->cpuset().empty()) return 0.0;
        return static_cast<double>(strayed(step, cgroup, worker).size());
      },
      [&](const JudgedCgroup& cgroup, const WorkerReport& worker) {
        return fmt::format("ran on CPUs {}, outside of the cpuset {}",
                           strayed(step, cgroup, worker).to_string(),
                           cgroup_cpus(*cgroup.def, step.cpus).to_string());
      });
}

Reasons check_max_spread(const JudgedStep& step, double limit_pct) {
  Reasons reasons;
  for (const JudgedCgroup& cgroup : step.cgroups) {
    for (const auto& [group, spread] : spreads(step, cgroup)) {
      const double low = share_pct(cgroup.result->workers(spread.low));
      const double high = share_pct(cgroup.result->workers(spread.high));
      if (high - low <= limit_pct) continue;
      reasons.push_back(
          make_reason(step, "spread",
                      fmt::format("CPU shares of the {} spin workers of {} on CPUs {} differ by {:.1f} "
                                  "percentage points ({} had {:.1f} "
                                  "%, {} had {:.1f} %); at most {:.1f} are allowed",
                                  spread.workers, where(step, cgroup), group.first, high - low,
                                  who(cgroup, spread.low), low, who(cgroup, spread.high), high, limit_pct)));
    }
  }
  return reasons;
}

Reasons check_p99_wake_latency(const JudgedStep& step, nanoseconds limit, std::uint32_t min_samples) {
  LatencyPool pool;
  bool any_sleeps = false;
  for (const JudgedCgroup& cgroup : step.cgroups) {
    any_sleeps = any_sleeps || sleeps(cgroup);
    for (const WorkerReport& worker : cgroup.result->workers()) pool.add(worker);
  }
  if (!any_sleeps) return {};
  const std::string place = step.name.empty() ? "the backdrop" : fmt::format("step '{}'", step.name);
  if (pool.size() < min_samples) {
    return {make_reason(
        step, "few-samples",
        fmt::format("{} wake latencies in {} are too few for a 99th percentile; at least {} are needed",
                    pool.size(), place, min_samples))};
  }
  const std::uint64_t p99 = pool.percentile(0.99);
  if (p99 <= static_cast<std::uint64_t>(limit.count())) return {};
  return {
      make_reason(step, "wake-latency",
                  fmt::format("the 99th percentile of {} wake latencies in {} is {}; at most {} is allowed",
                              pool.size(), place, about(p99), about(limit)))};
}

Judgement judge(const JudgedStep& step, const ktstr::v1::Checks& checks) {
  Judgement judgement;
  Reasons inconclusive;
  const bool any = checks.not_starved() || !checks.max_gap().empty() ||
                   !checks.max_p99_wake_latency().empty() || checks.isolation() ||
                   checks.has_max_spread_pct();
  Reasons lost = check_reported(step);
  if (any) {
    append(judgement.reasons, std::move(lost));
  } else {
    for (const ktstr::v1::Reason& reason : lost) judgement.warnings.push_back(reason.text());
  }
  if (checks.not_starved()) append(judgement.reasons, check_not_starved(step));
  if (!checks.max_gap().empty()) {
    append(judgement.reasons, check_max_gap(step, duration_or(checks.max_gap(), nanoseconds(0))));
  }
  if (checks.isolation()) append(judgement.reasons, check_isolation(step));
  if (checks.has_max_spread_pct()) append(judgement.reasons, check_max_spread(step, checks.max_spread_pct()));
  if (!checks.max_p99_wake_latency().empty()) {
    const std::uint32_t least =
        checks.has_min_wake_samples() ? checks.min_wake_samples() : kDefaultMinWakeSamples;
    for (auto& reason :
         check_p99_wake_latency(step, duration_or(checks.max_p99_wake_latency(), nanoseconds(0)), least)) {
      (reason.kind() == "few-samples" ? inconclusive : judgement.reasons).push_back(std::move(reason));
    }
  }
  if (!judgement.reasons.empty()) {
    judgement.verdict = ktstr::v1::FAIL;
  } else if (!inconclusive.empty()) {
    judgement.verdict = ktstr::v1::INCONCLUSIVE;
  }
  append(judgement.reasons, std::move(inconclusive));
  return judgement;
}

}  // namespace ktstr::guest
