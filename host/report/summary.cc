#include "host/report/summary.h"

#include <algorithm>
#include <cctype>
#include <vector>

#include <fmt/format.h>

#include "host/report/verdict_text.h"

namespace ktstr {
namespace {

using ktstr::v1::RunResult;
using ktstr::v1::WorkerReport;

constexpr int kMaxReasonsShown = 5;
constexpr int kMaxStepsShown = 12;
// A second, and a quarter of the time they ran.
constexpr std::uint64_t kRemarkableWaitNs = 1000000000;
constexpr std::uint64_t kRemarkableWaitPart = 4;

std::string headline(const RunResult& result, bool color) {
  std::string verdict = verdict_name(result.verdict());
  std::transform(verdict.begin(), verdict.end(), verdict.begin(),
                 [](unsigned char c) { return std::toupper(c); });
  if (color) {
    const bool good = result.verdict() == ktstr::v1::PASS;
    const bool unknown = result.verdict() >= ktstr::v1::NO_BOOT;
    verdict = fmt::format("\033[1;{}m{}\033[0m", good ? 32 : unknown ? 33 : 31, verdict);
  }
  const auto& plan = result.plan();
  const std::string scheduler = plan.has_scheduler() ? plan.scheduler().name() : "EEVDF";
  std::string line = fmt::format("{}  {} under {}", verdict, plan.scenario().name(), scheduler);
  if (!plan.kernel().release().empty()) line += fmt::format(", kernel {}", plan.kernel().release());
  const auto& topology = plan.machine().topology();
  const std::uint32_t cpus = topology.llcs() * topology.cores_per_llc() * topology.threads_per_core();
  if (cpus > 0) line += fmt::format(", {} vCPU{}", cpus, cpus == 1 ? "" : "s");
  if (!result.host().machine().empty()) line += fmt::format(", {}", result.host().machine());
  return line + "\n";
}

std::string indent_lines(std::string_view text, std::string_view indent) {
  std::string out;
  for (const char c : text) {
    out += c;
    if (c == '\n') out += indent;
  }
  return out;
}

std::string reason_lines(const RunResult& result) {
  std::string text;
  const int shown = std::min(result.reasons_size(), kMaxReasonsShown);
  for (int i = 0; i < shown; ++i) {
    const auto& reason = result.reasons(i);
    const std::string step = reason.step().empty() ? "" : fmt::format(" (step '{}')", reason.step());
    text += fmt::format("  {}{}: {}\n", reason.kind(), step, indent_lines(reason.text(), "    "));
  }
  if (result.reasons_size() > shown)
    text += fmt::format("  ... and {} more reasons in result.json\n", result.reasons_size() - shown);
  return text;
}

// What one step came to, over all its workers.
struct StepFigures {
  std::size_t workers = 0;
  std::size_t silent = 0;
  std::uint64_t cpu_ns = 0;
  std::uint64_t worst_gap_ns = 0;
  std::uint64_t migrations = 0;
  std::vector<std::uint64_t> wakes;
};

StepFigures figures_of(const ktstr::v1::StepResult& step) {
  StepFigures figures;
  for (const auto& cgroup : step.cgroups()) {
    for (const WorkerReport& worker : cgroup.workers()) {
      ++figures.workers;
      if (!worker.completed()) ++figures.silent;
      figures.cpu_ns += worker.cpu_time_ns();
      figures.worst_gap_ns = std::max(figures.worst_gap_ns, worker.max_gap_ns());
      figures.migrations += worker.migrations();
      figures.wakes.insert(figures.wakes.end(), worker.wake_latencies_ns().begin(),
                           worker.wake_latencies_ns().end());
    }
  }
  return figures;
}

std::string step_line(const ktstr::v1::StepResult& step) {
  StepFigures figures = figures_of(step);
  const std::uint64_t length = step.end_ns() > step.start_ns() ? step.end_ns() - step.start_ns() : 0;
  std::string line = fmt::format("  step {}: {}, {} workers, {} CPU, worst gap {}, {} migrations",
                                 step.name(), short_time(length), figures.workers, short_time(figures.cpu_ns),
                                 short_time(figures.worst_gap_ns), figures.migrations);
  if (!figures.wakes.empty()) {
    const auto index = figures.wakes.size() * 99 / 100;
    std::nth_element(figures.wakes.begin(), figures.wakes.begin() + static_cast<std::ptrdiff_t>(index),
                     figures.wakes.end());
    line += fmt::format(", wake p99 {} of {}", short_time(figures.wakes[index]), figures.wakes.size());
  }
  if (figures.silent > 0) line += fmt::format(", {} without a report", figures.silent);
  return line + "\n";
}

std::string phase_line(const RunResult& result) {
  std::string text;
  for (const auto& phase : result.host().phases()) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", phase.name(), short_time(phase.ns()));
  }
  return text.empty() ? "" : fmt::format("  time: {}\n", text);
}

// Where the guest came from, when it was not booted by this run.
std::string clone_line(const RunResult& result) {
  const auto& clone = result.clone();
  std::string text;
  if (!clone.snapshot().empty()) {
    text = fmt::format("  clone of {} ({}), {} old\n", clone.snapshot().substr(0, 8), clone.point(),
                       short_time(clone.age_s() * 1'000'000'000U));
    if (!clone.inherited().empty()) text += fmt::format("    {}\n", clone.inherited());
  }
  for (const auto& saved : clone.saved()) {
    if (saved.failed().empty())
      text += fmt::format("  kept for clones: {} ({}), stood still for {}\n", saved.key().substr(0, 8),
                          saved.point(), short_time(saved.stood_still_ns()));
  }
  return text;
}

// The first dump, which is that of the failure where there was one, and its first finding.
std::string dump_lines(const RunResult& result) {
  if (result.dumps_size() == 0) return {};
  const auto& dump = result.dumps(0);
  std::string text = fmt::format("  dump {}: {}, {} tasks, frozen for {}", dump.number(),
                                 dump.trap().empty() ? dump.reason() : dump.trap(), dump.tasks(),
                                 short_time(dump.frozen_ns()));
  if (!dump.incomplete().empty()) text += "; incomplete: " + dump.incomplete();
  text += "\n";
  if (dump.findings_size() > 0) text += fmt::format("    {}\n", indent_lines(dump.findings(0), "    "));
  if (result.dumps_size() > 1) text += fmt::format("  ... and {} more dumps\n", result.dumps_size() - 1);
  return text;
}

// vCPUs that had to wait for host CPUs, which the guest's tasks saw as delays nobody in the guest caused.
std::string waiting_line(const RunResult& result) {
  std::uint64_t ran = 0;
  std::uint64_t waited = 0;
  for (const auto& vcpu : result.host().statistics().vcpus()) {
    ran += vcpu.ran_ns();
    waited += vcpu.waited_ns();
  }
  if (waited < kRemarkableWaitNs || waited < ran / kRemarkableWaitPart) return {};
  return fmt::format("  host: the vCPUs ran for {} and waited {} for a host CPU{}\n", short_time(ran),
                     short_time(waited),
                     result.host().overcommitted() ? "; they are more than the host has for them" : "");
}

}  // namespace

std::string short_time(std::uint64_t ns) {
  static constexpr struct {
    double scale;
    const char* unit;
  } kUnits[] = {{1e9, "s"}, {1e6, "ms"}, {1e3, "us"}};
  for (const auto& unit : kUnits) {
    const double value = static_cast<double>(ns) / unit.scale;
    if (value < 0.9995) continue;
    const int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
    return fmt::format("{:.{}f} {}", value, decimals, unit.unit);
  }
  return fmt::format("{} ns", ns);
}

std::string summary(const RunResult& result, const std::string& result_path, bool color) {
  std::string text = headline(result, color) + reason_lines(result);
  text += dump_lines(result);
  const int steps = result.guest().steps_size();
  for (int i = 0; i < std::min(steps, kMaxStepsShown); ++i) text += step_line(result.guest().steps(i));
  if (steps > kMaxStepsShown) text += fmt::format("  ... and {} more steps\n", steps - kMaxStepsShown);
  for (const auto& list : {result.guest().warnings(), result.host().warnings()}) {
    for (int i = 0; i < std::min(list.size(), kMaxReasonsShown); ++i) {
      text += fmt::format("  warning: {}\n", indent_lines(list.Get(i), "    "));
    }
    if (list.size() > kMaxReasonsShown)
      text += fmt::format("  ... and {} more warnings\n", list.size() - kMaxReasonsShown);
  }
  text += clone_line(result);
  text += waiting_line(result);
  text += phase_line(result);
  if (!result_path.empty()) text += fmt::format("  results: {}\n", result_path);
  return text;
}

}  // namespace ktstr
