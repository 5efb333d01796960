#include "common/scenario_check.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "common/quote.h"
#include "common/units.h"

namespace ktstr {
namespace {

using std::chrono::nanoseconds;
using v1::CgroupDef;
using v1::Scenario;
using v1::WorkSpec;

constexpr std::size_t kMaxProblems = 100;
constexpr nanoseconds kLongestDuration = std::chrono::hours(24);
constexpr nanoseconds kLongestBurst = std::chrono::hours(1);
constexpr double kMaxPerCpu = 1000;

// Length of the UTF-8 sequence that starts at `text[at]`, 0 when it is none (RFC 3629: no overlong forms, no
// surrogates, nothing above U+10FFFF). protobuf drops a message whose strings are not UTF-8 only at the
// receiver.
std::size_t utf8_sequence(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) -> unsigned { return static_cast<unsigned char>(text[at + i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  const std::size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || at + length > text.size()) return 0;
  unsigned code = lead & (0xffU >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0U) != 0x80) return 0;
    code = code << 6U | (byte(i) & 0x3fU);
  }
  const bool overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
  const bool surrogate = code >= 0xd800 && code < 0xe000;
  return overlong || surrogate || code > 0x10ffff ? 0 : length;
}

bool printable_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = utf8_sequence(text, at);
    const auto lead = static_cast<unsigned char>(text[at]);
    if (length == 0 || lead < 0x20 || lead == 0x7f) return false;
    at += length;
  }
  return true;
}

bool name_characters(std::string_view name) {
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.' || c == '-';
  });
}

// A child cgroup cannot be called like one of its parent's files ("cpu.weight").
bool looks_like_cgroup_file(std::string_view name) {
  static constexpr std::string_view kPrefixes[] = {"cgroup.",  "cpu.",  "cpuset.", "memory.",
                                                   "io.",      "pids.", "rdma.",   "misc.",
                                                   "hugetlb.", "dmem.", "irq.",    "perf_event."};
  return std::any_of(std::begin(kPrefixes), std::end(kPrefixes),
                     [&](std::string_view prefix) { return name.starts_with(prefix); });
}

bool config_name(std::string_view name) {
  constexpr std::string_view kPrefix = "CONFIG_";
  return name.size() > kPrefix.size() && name.size() <= kMaxNameLength && name.starts_with(kPrefix) &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
         });
}

// Walks a scenario once and collects what is wrong.
class Checker {
 public:
  Checker(const Scenario& scenario, std::uint32_t cpus)
      : scenario_(scenario), cpus_(std::clamp<std::uint32_t>(cpus, 1, CpuSet::kMaxCpus)) {}

  std::vector<ScenarioProblem> run() {
    check_texts();
    check_requires();
    check_backdrop();
    check_steps();
    check_checks();
    return std::move(problems_);
  }

 private:
  void problem(std::string path, std::string message, std::string hint = {}) {
    if (problems_.size() < kMaxProblems) {
      problems_.push_back({std::move(path), std::move(message), std::move(hint)});
    }
  }

  // The duration in `text`, or `fallback` when it is empty. A bad one is reported and replaced.
  nanoseconds duration(const std::string& path, const std::string& text, nanoseconds fallback,
                       nanoseconds least, nanoseconds most) {
    if (text.empty()) return fallback;
    const auto parsed = parse_duration(text);
    if (!parsed) {
      problem(path, parsed.error().message(), "write a number with a unit: \"250us\", \"10ms\", \"1.5s\"");
      return fallback;
    }
    if (*parsed < least) {
      problem(path, fmt::format("{} is too short", text), fmt::format("at least {}", format_duration(least)));
      return fallback;
    }
    if (*parsed > most) {
      problem(path, fmt::format("{} is too long", text), fmt::format("at most {}", format_duration(most)));
      return fallback;
    }
    return *parsed;
  }

  // A CPU list that must name at least one existing CPU; empty on any problem.
  CpuSet cpus(const std::string& path, const std::string& text) {
    auto parsed = CpuSet::parse(text, cpus_);
    if (!parsed) {
      problem(
          path, parsed.error().message(),
          cpus_ == 1 ? "the machine has only CPU 0" : fmt::format("the machine has CPUs 0-{}", cpus_ - 1));
      return {};
    }
    if (parsed->empty()) problem(path, "no CPU in the list", "leave the field out to allow all CPUs");
    return *std::move(parsed);
  }

  void check_label(const std::string& path, const std::string& text, std::size_t longest) {
    if (text.size() > longest) problem(path, fmt::format("longer than {} characters", longest));
    if (!printable_utf8(text)) problem(path, "not printable UTF-8 text");
  }

  void check_texts() {
    check_label("name", scenario_.name(), kMaxNameLength);
    check_label("description", scenario_.description(), kMaxDescriptionLength);
    duration_ = duration("duration", scenario_.duration(), kDefaultScenarioDuration,
                         std::chrono::milliseconds(1), kLongestDuration);
  }

  void check_requires() {
    for (int i = 0; i < scenario_.requirements().config_size(); ++i) {
      if (!config_name(scenario_.requirements().config(i))) {
        problem(fmt::format("requirements.config[{}]", i), "not the name of a kernel option",
                "for example \"CONFIG_CFS_BANDWIDTH\"");
      }
    }
  }

  void check_backdrop() {
    names_.clear();
    backdrop_workers_ = check_cgroups("backdrop.", scenario_.backdrop().cgroups());
    backdrop_names_ = names_;
  }

  void check_steps() {
    if (scenario_.steps().empty()) {
      problem("", "the scenario has no steps", "add one: steps { cgroups { ... } hold { full: true } }");
      return;
    }
    if (scenario_.steps_size() > kMaxSteps) {
      problem("steps", fmt::format("{} steps are too many", scenario_.steps_size()),
              fmt::format("at most {}", kMaxSteps));
      return;
    }
    nanoseconds used{0};
    std::uint64_t most_workers = backdrop_workers_;
    for (int i = 0; i < scenario_.steps_size(); ++i) {
      const v1::Step& step = scenario_.steps(i);
      const std::string path = fmt::format("steps[{}]", i);
      check_label(path + ".name", step.name(), kMaxNameLength);
      names_ = backdrop_names_;
      const std::uint64_t workers = check_cgroups(path + ".", step.cgroups());
      if (backdrop_workers_ + workers > kMaxWorkers) {
        problem(path,
                fmt::format("{} workers alive at the same time are too many", backdrop_workers_ + workers),
                fmt::format("at most {}", kMaxWorkers));
      }
      most_workers = std::max(most_workers, workers);
      const bool sound = check_hold(path, step.hold());
      if (sound && used >= duration_) {
        problem(path, "this step gets no time: the steps before it use up the scenario's duration",
                fmt::format("the scenario lasts {}; shorten the earlier holds or raise `duration`",
                            format_duration(duration_)));
      }
      used += hold_length(step.hold(), duration_);
    }
    if (most_workers == 0 && problems_.empty())
      problem("", "the scenario has no workers", "add cgroups with works to a step");
  }

  // Returns false when the hold itself is wrong.
  bool check_hold(const std::string& step, const v1::Hold& hold) {
    switch (hold.kind_case()) {
      case v1::Hold::kFixed: {
        const std::string path = step + ".hold.fixed";
        if (hold.fixed().empty()) {
          problem(path, "the duration is empty", "write a number with a unit: \"1.5s\"");
          return false;
        }
        const std::size_t before = problems_.size();
        duration(path, hold.fixed(), nanoseconds(0), std::chrono::microseconds(1), kLongestDuration);
        return problems_.size() == before;
      }
      case v1::Hold::kFrac:
        if (std::isfinite(hold.frac()) && hold.frac() > 0 && hold.frac() <= 1) return true;
        problem(step + ".hold.frac", fmt::format("{} is no fraction of the duration", hold.frac()),
                "more than 0, at most 1");
        return false;
      case v1::Hold::kFull:
        if (hold.full()) return true;
        problem(step + ".hold.full", "\"full: false\" says nothing", "use full: true, fixed or frac");
        return false;
      case v1::Hold::KIND_NOT_SET:
        return true;
    }
    return false;
  }

  // Returns the number of workers.
  template <typename Cgroups>
  std::uint64_t check_cgroups(const std::string& prefix, const Cgroups& cgroups) {
    if (cgroups.size() > kMaxCgroups) {
      problem(prefix + "cgroups", fmt::format("{} cgroups are too many", cgroups.size()),
              fmt::format("at most {}", kMaxCgroups));
      return 0;
    }
    std::uint64_t workers = 0;
    for (int i = 0; i < cgroups.size(); ++i) {
      workers += check_cgroup(fmt::format("{}cgroups[{}]", prefix, i), cgroups[i]);
    }
    return workers;
  }

  void check_cgroup_name(const std::string& path, const std::string& name) {
    if (name.empty()) {
      problem(path, "the cgroup has no name", "name: \"workers\"");
      return;
    }
    if (name.size() > kMaxNameLength) {
      problem(path + ".name", fmt::format("longer than {} characters", kMaxNameLength));
    } else if (!name_characters(name)) {
      problem(path + ".name", "only letters, digits, '_', '.' and '-' may be in a cgroup's name");
    } else if (name == "." || name == ".." || looks_like_cgroup_file(name)) {
      problem(path + ".name", fmt::format("{} cannot be a cgroup's name", quote(name)),
              "the kernel uses it for its own files");
    } else if (!names_.insert(name).second) {
      problem(path + ".name",
              fmt::format("another cgroup of this step or of the backdrop is called {}", quote(name)));
    }
  }

  std::uint64_t check_cgroup(const std::string& path, const CgroupDef& cgroup) {
    check_cgroup_name(path, cgroup.name());
    CpuSet allowed = CpuSet::first(cpus_);
    if (!cgroup.cpuset().empty()) {
      any_cpuset_ = true;
      CpuSet given = cpus(path + ".cpuset", cgroup.cpuset());
      if (!given.empty()) allowed = std::move(given);
    }
    if (cgroup.has_cpu_weight() && (cgroup.cpu_weight() < 1 || cgroup.cpu_weight() > 10000)) {
      problem(path + ".cpu_weight", fmt::format("{} is no weight", cgroup.cpu_weight()),
              "1 to 10000; 100 is normal");
    }
    if (cgroup.works().empty()) {
      problem(path, "the cgroup has no workers", "works { workers: 1 spin {} }");
    }
    if (cgroup.works_size() > kMaxWorks) {
      problem(path + ".works", fmt::format("{} works are too many", cgroup.works_size()),
              fmt::format("at most {}", kMaxWorks));
      return 0;
    }
    std::uint64_t workers = 0;
    for (int i = 0; i < cgroup.works_size(); ++i) {
      workers += check_work(fmt::format("{}.works[{}]", path, i), cgroup.works(i), allowed);
    }
    return workers;
  }

  std::uint64_t check_work(const std::string& path, const WorkSpec& work, const CpuSet& allowed) {
    check_affinity(path + ".affinity", work.affinity(), allowed);
    if (work.has_nice() && (work.nice() < -20 || work.nice() > 19)) {
      problem(path + ".nice", fmt::format("{} is no nice value", work.nice()), "-20 to 19");
    }
    check_work_type(path, work);
    return check_worker_count(path, work, allowed.size());
  }

  void check_affinity(const std::string& path, const std::string& text, const CpuSet& allowed) {
    if (text.empty()) return;
    const CpuSet affinity = cpus(path, text);
    if (affinity.empty()) return;
    if (!affinity.is_subset_of(allowed)) {
      problem(path, fmt::format("CPUs {} are not all in the cgroup's cpuset", affinity.to_string()),
              fmt::format("the cgroup may use {}", allowed.to_string()));
    }
  }

  std::uint64_t check_worker_count(const std::string& path, const WorkSpec& work, std::size_t cgroup_cpus) {
    if (work.has_workers() == work.has_workers_per_cpu()) {
      problem(path,
              work.has_workers() ? "both `workers` and `workers_per_cpu` are given" : "how many workers?",
              "workers: 4, or workers_per_cpu: 1");
      return 0;
    }
    if (work.has_workers_per_cpu()) {
      const double per_cpu = work.workers_per_cpu();
      if (!std::isfinite(per_cpu) || per_cpu <= 0 || per_cpu > kMaxPerCpu) {
        problem(path + ".workers_per_cpu", fmt::format("{} workers for each CPU make no sense", per_cpu),
                fmt::format("more than 0, at most {}", kMaxPerCpu));
        return 0;
      }
    } else if (work.workers() == 0) {
      problem(path + ".workers", "zero workers", "at least 1");
    } else if (work.workers() > kMaxWorkers) {
      problem(path + ".workers", fmt::format("{} workers are too many", work.workers()),
              fmt::format("at most {}", kMaxWorkers));
      return 0;
    }
    return worker_count(work, cgroup_cpus);
  }

  void check_work_type(const std::string& path, const WorkSpec& work) {
    switch (work.type_case()) {
      case WorkSpec::kSpin:
        any_spin_ = true;
        break;
      case WorkSpec::kYield:
        duration(path + ".yield.burst", work.yield().burst(), kDefaultYieldBurst, nanoseconds(0),
                 kLongestBurst);
        break;
      case WorkSpec::kSleepAndRun:
        any_sleep_ = true;
        duration(path + ".sleep_and_run.sleep", work.sleep_and_run().sleep(), kDefaultSleep, nanoseconds(1),
                 kLongestBurst);
        duration(path + ".sleep_and_run.run", work.sleep_and_run().run(), kDefaultRun, nanoseconds(0),
                 kLongestBurst);
        break;
      case WorkSpec::TYPE_NOT_SET:
        problem(path, "what do the workers do?", "one of spin {}, yield {}, sleep_and_run {}");
        break;
    }
  }

  void check_checks() {
    const v1::Checks& checks = scenario_.checks();
    const nanoseconds least(1);
    duration("checks.max_gap", checks.max_gap(), nanoseconds(0), least, kLongestDuration);
    duration("checks.max_p99_wake_latency", checks.max_p99_wake_latency(), nanoseconds(0), least,
             kLongestDuration);
    if (!checks.max_p99_wake_latency().empty() && !any_sleep_) {
      problem("checks.max_p99_wake_latency", "nothing to judge: no worker ever sleeps",
              "add works with sleep_and_run, or leave the check out");
    }
    if (checks.has_min_wake_samples() && checks.min_wake_samples() == 0) {
      problem("checks.min_wake_samples", "no percentile can be told from zero samples", "at least 1");
    }
    if (checks.isolation() && !any_cpuset_) {
      problem("checks.isolation", "nothing to judge: no cgroup has a cpuset",
              "add cpuset: \"0\" to a cgroup");
    }
    if (checks.has_max_spread_pct()) {
      const double spread = checks.max_spread_pct();
      if (!std::isfinite(spread) || spread <= 0 || spread > 100) {
        problem("checks.max_spread_pct", fmt::format("{} percentage points make no sense", spread),
                "more than 0, at most 100");
      } else if (!any_spin_) {
        problem("checks.max_spread_pct", "nothing to judge: no worker spins",
                "add works with spin, or leave the check out");
      }
    }
  }

  const Scenario& scenario_;
  const std::uint32_t cpus_;
  std::vector<ScenarioProblem> problems_;
  nanoseconds duration_ = kDefaultScenarioDuration;
  std::set<std::string> names_;
  std::set<std::string> backdrop_names_;
  std::uint64_t backdrop_workers_ = 0;
  bool any_cpuset_ = false;
  bool any_spin_ = false;
  bool any_sleep_ = false;
};

}  // namespace

std::vector<ScenarioProblem> check_scenario(const Scenario& scenario, std::uint32_t cpus) {
  return Checker(scenario, cpus).run();
}

std::uint32_t topology_cpus(const v1::Topology& topology) {
  std::uint64_t cpus = 1;
  for (const std::uint64_t count : {std::uint64_t{topology.llcs()}, std::uint64_t{topology.cores_per_llc()},
                                    std::uint64_t{topology.threads_per_core()}}) {
    cpus = std::min<std::uint64_t>(cpus * std::max<std::uint64_t>(count, 1), CpuSet::kMaxCpus);
  }
  return static_cast<std::uint32_t>(cpus);
}

std::string to_string(const ScenarioProblem& problem) {
  std::string text =
      problem.path.empty() ? problem.message : fmt::format("{}: {}", problem.path, problem.message);
  if (!problem.hint.empty()) text += fmt::format(" ({})", problem.hint);
  return text;
}

nanoseconds scenario_duration(const Scenario& scenario) {
  return std::min(duration_or(scenario.duration(), kDefaultScenarioDuration), kLongestDuration);
}

nanoseconds duration_or(std::string_view text, nanoseconds fallback) {
  if (text.empty()) return fallback;
  return parse_duration(text).value_or(fallback);
}

nanoseconds hold_length(const v1::Hold& hold, nanoseconds duration) {
  switch (hold.kind_case()) {
    case v1::Hold::kFixed:
      return std::min(duration_or(hold.fixed(), nanoseconds(0)), duration);
    case v1::Hold::kFrac: {
      if (!std::isfinite(hold.frac()) || hold.frac() <= 0) return nanoseconds(0);
      if (hold.frac() >= 1) return duration;
      return nanoseconds(static_cast<nanoseconds::rep>(hold.frac() * static_cast<double>(duration.count())));
    }
    case v1::Hold::kFull:
    case v1::Hold::KIND_NOT_SET:
      return duration;
  }
  return duration;
}

std::string step_name(const v1::Step& step, int index) {
  return step.name().empty() ? fmt::format("step{}", index) : step.name();
}

CpuSet cgroup_cpus(const CgroupDef& cgroup, std::uint32_t cpus) {
  const std::uint32_t count = std::clamp<std::uint32_t>(cpus, 1, CpuSet::kMaxCpus);
  if (!cgroup.cpuset().empty()) {
    if (auto parsed = CpuSet::parse(cgroup.cpuset(), count); parsed && !parsed->empty())
      return *std::move(parsed);
  }
  return CpuSet::first(count);
}

std::uint32_t worker_count(const WorkSpec& work, std::size_t cgroup_cpus) {
  constexpr std::uint32_t kTooMany = kMaxWorkers + 1;
  if (work.has_workers()) return std::min(work.workers(), kTooMany);
  const double count = std::ceil(work.workers_per_cpu() * static_cast<double>(cgroup_cpus));
  if (!std::isfinite(count) || count <= 0) return 0;
  return count >= kTooMany ? kTooMany : static_cast<std::uint32_t>(count);
}

std::string work_type_name(const WorkSpec& work) {
  // Not by reflection: the guest's protobuf is the lite one.
  switch (work.type_case()) {
    case WorkSpec::kSpin:
      return "spin";
    case WorkSpec::kYield:
      return "yield";
    case WorkSpec::kSleepAndRun:
      return "sleep_and_run";
    case WorkSpec::TYPE_NOT_SET:
      break;
  }
  return {};
}

}  // namespace ktstr
