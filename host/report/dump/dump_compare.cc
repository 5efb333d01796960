#include "host/report/dump/dump_compare.h"

#include <algorithm>
#include <limits>
#include <optional>

#include <fmt/format.h>

#include "common/kick_masks.h"
#include "common/quote.h"
#include "host/report/dump/kernel_dump.h"
#include "host/report/dump/kernel_lines.h"
#include "host/report/dump/safe_text.h"

namespace ktstr {
namespace {

using ktstr::v1::Cpu;
using ktstr::v1::Dump;
using ktstr::v1::Task;

// A line of ours, taken apart by the same parser.
KernelFields fields_of(const std::vector<std::string>& lines) {
  KernelFields fields;
  for (const std::string& line : lines) take_fields(line, fields);
  return fields;
}

// "1/0x9" and its keys "scx_state/flags" as two fields.
void split_pairs(KernelFields& fields) {
  KernelFields split;
  for (auto at = fields.begin(); at != fields.end();) {
    const std::size_t key = at->first.find('/');
    const std::size_t value = at->second.find('/');
    if (key == std::string::npos || value == std::string::npos) {
      ++at;
      continue;
    }
    const std::string first = at->first.substr(0, key);
    split[first == "sticky" ? "sticky_cpu" : first] = at->second.substr(0, value);
    split[at->first.substr(key + 1)] = at->second.substr(value + 1);
    at = fields.erase(at);
  }
  fields.merge(split);
}

class Comparison {
 public:
  Comparison(const Dump& ours, const CompareTolerance& tolerance)
      : ours_(ours), lines_(ours), tolerance_(tolerance) {
    for (const Cpu& cpu : ours.cpus()) cpus_.emplace(cpu.cpu(), &cpu);
  }

  std::vector<DumpDifference> compare(const KernelDump& kernel) {
    for (const KernelDumpCpu& cpu : kernel.cpus) compare_cpu(cpu);
    at_cpu_ = 0;
    pid_ = 0;
    const auto* sched = lines_.dumped_sched();
    for (const auto& [name, count] : kernel.events) {
      if (sched == nullptr || sched->events().find(name) == sched->events().end()) {
        differ(name, "absent", fmt::format("{}", count));
        continue;
      }
      grown(name, fmt::format("{}", sched->events().at(name)), fmt::format("{}", count));
    }
    return std::move(differences_);
  }

 private:
  void differ(std::string_view field, std::string ours, std::string kernel) {
    differences_.push_back({at_cpu_, pid_, std::string(field), std::move(ours), std::move(kernel)});
  }
  void equal(std::string_view field, const std::string& ours, const std::string& kernel) {
    if (ours != kernel) differ(field, ours, kernel);
  }
  void grown(std::string_view field, const std::string& ours, const std::string& kernel) {
    const auto a = kernel_number<std::uint64_t>(ours);
    const auto b = kernel_number<std::uint64_t>(kernel);
    if (!a || !b || *b - *a > tolerance_.sequence) differ(field, ours, kernel);
  }
  void near(std::string_view field, const std::string& ours, const std::string& kernel) {
    const auto a = kernel_number<std::uint64_t>(ours);
    const auto b = kernel_number<std::uint64_t>(kernel);
    if (!a || !b || std::min(*a - *b, *b - *a) > tolerance_.time_ns) differ(field, ours, kernel);
  }

  // "-12us"
  void near_us(std::string_view field, const std::string& ours, const std::string& kernel) {
    const auto us = [](std::string_view text) {
      if (text.ends_with("us")) text.remove_suffix(2);
      return kernel_number<std::int64_t>(text);
    };
    const auto a = us(ours);
    const auto b = us(kernel);
    if (!a || !b ||
        std::abs(std::clamp(*a, -kFar, kFar) - std::clamp(*b, -kFar, kFar)) >
            static_cast<std::int64_t>(tolerance_.time_ns / 1000))
      differ(field, ours, kernel);
  }

  void same_but(std::uint64_t ignored, std::string_view field, const std::string& ours,
                const std::string& kernel) {
    const auto a = kernel_number<std::uint64_t>(ours);
    const auto b = kernel_number<std::uint64_t>(kernel);
    if (!a || !b || ((*a ^ *b) & ~ignored) != 0) differ(field, ours, kernel);
  }

  void compare_fields(const KernelFields& ours, const KernelFields& kernel) {
    for (const auto& [key, value] : kernel) {
      const auto mine = ours.find(key);
      if (mine == ours.end()) {
        differ(key, "absent", value);
      } else if (key == "ops_qseq" || key == "pnt_seq" || key == "ksync" || key == "qseq") {
        grown(key, mine->second, value);
      } else if (key == "flags" && pid_ == 0) {
        same_but(tolerance_.rq_flags, key, mine->second, value);
      } else if (key == "rescuing") {
        equal(key, mine->second, printable_utf8(value));
      } else if (key == "budget") {
        near_us(key, mine->second, value);
      } else if (key == "slice" || key == "dsq_vtime") {
        near(key, mine->second, value);
      } else {
        equal(key, mine->second, value);
      }
    }
  }

  void compare_cpu(const KernelDumpCpu& kernel) {
    at_cpu_ = kernel.cpu;
    pid_ = 0;
    const auto found = cpus_.find(kernel.cpu);
    if (found == cpus_.end()) return differ("CPU line", "absent", "there");
    const Cpu& cpu = *found->second;
    KernelFields ours = fields_of({lines_.cpu(cpu).front()});
    if (cpu.has_rescue_budget()) take_cpu_fields(lines_.rescue(cpu), ours);
    ours["class"] = printable_utf8(cpu.curr_class());
    for (const NamedKickMask& mask : kKickMasks) {
      const std::string& cpus = kick_mask(cpu, lines_.dumped_sched(), mask.which);
      if (cpus.empty()) continue;
      ours[mask.name] = bitmap_text(cpus, lines_.nr_cpu_ids());
      if (kernel.fields.count(mask.name) == 0) differ(mask.name, ours[mask.name], "absent");
    }
    const std::vector<const Task*> tasks = lines_.tasks_of(cpu);
    KernelFields theirs = kernel.fields;
    if (tasks_left(cpu, tasks.size(), kernel)) theirs.erase("nr_run");
    compare_fields(ours, theirs);
    equal("curr", fmt::format("{}[{}]", printable_utf8(cpu.curr().comm()), cpu.curr().pid()),
          fmt::format("{}[{}]", printable_utf8(kernel.curr_comm), kernel.curr_pid));
    for (const KernelDumpTask& task : kernel.tasks) {
      pid_ = task.pid;
      compare_task(cpu, tasks, task);
    }
  }

  // True when all that the kernel counts less than we do are tasks that it does not list any more.
  bool tasks_left(const Cpu& cpu, std::size_t listed, const KernelDumpCpu& kernel) const {
    const auto nr_run = kernel.fields.find("nr_run");
    const auto count =
        nr_run == kernel.fields.end() ? std::nullopt : kernel_number<std::int64_t>(nr_run->second);
    if (!count || listed <= kernel.tasks.size()) return false;
    const auto left = static_cast<std::int64_t>(listed - kernel.tasks.size());
    return left <= tolerance_.tasks_left && *count >= 0 &&
           static_cast<std::int64_t>(cpu.nr_running()) - *count == left;
  }

  void compare_task(const Cpu& cpu, const std::vector<const Task*>& tasks, const KernelDumpTask& kernel) {
    const auto same = [&](const Task* task) { return task != nullptr && task->pid() == kernel.pid; };
    const auto found = std::find_if(tasks.begin(), tasks.end(), same);
    if (found == tasks.end()) return differ("task line", "absent", "there");
    const Task& task = **found;
    const bool current =
        KernelLines::runs_ext(cpu) && cpu.curr().pid() == kernel.pid && found == tasks.begin();
    equal("current", current ? "yes" : "no", kernel.current ? "yes" : "no");
    equal("comm", printable_utf8(task.comm()), printable_utf8(kernel.comm));
    equal("state", task.state_char(), kernel.state);
    if (!kernel.owner.empty()) equal("owner", lines_.owner(task), kernel.owner);
    const std::int64_t delta = lines_.delta_ms(task);
    // Both are within 2^62, so the difference does not overflow.
    const std::int64_t theirs = std::clamp(kernel.delta_ms, -kFar, kFar);
    if (std::abs(std::clamp(delta, -kFar, kFar) - theirs) > tolerance_.waiting_ms) {
      differ("runnable_at", fmt::format("{:+}ms", delta), fmt::format("{:+}ms", kernel.delta_ms));
    }
    std::vector<std::string> lines = lines_.task(task, current);
    lines.erase(lines.begin());
    KernelFields ours = fields_of(lines);
    KernelFields fields = kernel.fields;
    split_pairs(ours);
    split_pairs(fields);
    compare_fields(ours, fields);
  }

  static constexpr std::int64_t kFar = std::int64_t{1} << 61;

  const Dump& ours_;
  KernelLines lines_;
  const CompareTolerance& tolerance_;
  std::map<std::uint32_t, const Cpu*> cpus_;
  std::vector<DumpDifference> differences_;
  std::uint32_t at_cpu_ = 0;
  std::int32_t pid_ = 0;
};

}  // namespace

std::string DumpDifference::to_string() const {
  const std::string task = pid == 0 ? "" : fmt::format(" pid {}", pid);
  return fmt::format("CPU {}{}: {} is {}, the kernel's dump has {}", cpu, task, field, quote(ours),
                     quote(kernel));
}

std::vector<DumpDifference> compare_with_kernel(const Dump& ours, const KernelDump& kernel,
                                                const CompareTolerance& tolerance) {
  return Comparison(ours, tolerance).compare(kernel);
}

}  // namespace ktstr
