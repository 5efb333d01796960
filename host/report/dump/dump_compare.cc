#include "host/report/dump/dump_compare.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>

#include <fmt/format.h>

#include "common/quote.h"
#include "host/report/dump/kernel_lines.h"
#include "host/report/dump/safe_text.h"

namespace ktstr {
namespace {

using ktstr::v1::Cpu;
using ktstr::v1::Dump;
using ktstr::v1::Task;

constexpr std::size_t kMaxText = std::size_t{16} << 20;

template <typename T>
std::optional<T> number(std::string_view text) {
  int base = 10;
  if (text.starts_with("0x")) {
    text.remove_prefix(2);
    base = 16;
  }
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

// What printk puts before a line.
std::string_view without_time(std::string_view line) {
  if (!line.starts_with('[')) return line;
  const std::size_t end = line.find("] ");
  if (end == std::string_view::npos) return line;
  const std::string_view stamp = trimmed(line.substr(1, end - 1));
  const bool time = !stamp.empty() && stamp.find_first_not_of("0123456789.") == std::string_view::npos;
  return time ? line.substr(end + 2) : line;
}

// "a=1 b/c=2/3" into `fields`.
void take_fields(std::string_view line, KernelFields& fields) {
  while (!line.empty()) {
    line = trimmed(line);
    const std::size_t end = std::min(line.find(' '), line.size());
    const std::string_view word = line.substr(0, end);
    line.remove_prefix(end);
    const std::size_t equals = word.find('=');
    if (equals == std::string_view::npos || equals == 0) continue;
    fields.insert_or_assign(std::string(word.substr(0, equals)), std::string(word.substr(equals + 1)));
  }
}

// "comm[12]", where comm may hold anything.
bool take_name(std::string_view text, std::string& comm, std::int32_t& pid) {
  if (!text.ends_with(']')) return false;
  const std::size_t open = text.rfind('[');
  if (open == std::string_view::npos) return false;
  const auto id = number<std::int32_t>(text.substr(open + 1, text.size() - open - 2));
  if (!id) return false;
  comm = text.substr(0, open);
  pid = *id;
  return true;
}

// " *R comm[12] *root -123ms"
std::optional<KernelDumpTask> take_task(std::string_view line) {
  if (line.size() < 5 || line[0] != ' ' || (line[1] != ' ' && line[1] != '*') || line[2] == ' ' ||
      line[3] != ' ' || !line.ends_with("ms")) {
    return std::nullopt;
  }
  KernelDumpTask task;
  task.current = line[1] == '*';
  task.state = line.substr(2, 1);
  const std::size_t blank = line.rfind(' ');
  std::string_view delta = line.substr(blank + 1, line.size() - blank - 3);
  if (delta.empty() || (delta.front() != '+' && delta.front() != '-')) return std::nullopt;
  if (delta.front() == '+') delta.remove_prefix(1);
  const auto ms = number<std::int64_t>(delta);
  if (!ms || blank < 4) return std::nullopt;
  task.delta_ms = *ms;
  std::string_view name = line.substr(4, blank - 4);
  if (!name.ends_with(']')) {
    const std::size_t end = name.rfind(' ');
    if (end == std::string_view::npos) return std::nullopt;
    task.owner = name.substr(end + 1);
    name = name.substr(0, end);
  }
  if (!take_name(name, task.comm, task.pid)) return std::nullopt;
  return task;
}

std::optional<KernelDumpCpu> take_cpu(std::string_view line) {
  const std::size_t colon = line.find(':');
  if (colon == std::string_view::npos) return std::nullopt;
  const auto cpu = number<std::uint32_t>(trimmed(line.substr(4, colon - 4)));
  if (!cpu) return std::nullopt;
  KernelDumpCpu found;
  found.cpu = *cpu;
  take_fields(line.substr(colon + 1), found.fields);
  return found;
}

// "          curr=comm[12] class=ext_sched_class"
bool take_current(std::string_view line, KernelDumpCpu& cpu) {
  line = trimmed(line);
  const std::size_t at = line.rfind(" class=");
  if (at == std::string_view::npos || at < 5) return false;
  cpu.fields["class"] = line.substr(at + 7);
  return take_name(line.substr(5, at - 5), cpu.curr_comm, cpu.curr_pid);
}

constexpr std::string_view kTaskFields[] = {"scx_state/flags=", "sticky/holding_cpu=", "dsq_vtime=", "cpus="};
constexpr std::string_view kMasks[] = {"cpus_to_kick", "idle_to_kick", "cpus_to_preempt", "cpus_to_wait",
                                       "cpus_to_sync"};

class Parser {
 public:
  Expected<KernelDump> parse(std::string_view text) {
    if (text.size() > kMaxText) return fail(ErrorCode::kUsage, "the kernel's dump has more than 16 MiB");
    for (std::size_t at = 0; at < text.size(); ++number_) {
      const std::size_t end = std::min(text.find('\n', at), text.size());
      std::string_view line = text.substr(at, end - at);
      at = end + 1;
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (auto taken = take(without_time(line)); !taken) return std::unexpected(std::move(taken.error()));
    }
    if (part_ == Part::kBefore) {
      return fail(ErrorCode::kUsage, "this is no dump of sched_ext: it has no line \"CPU states\"");
    }
    return std::move(dump_);
  }

 private:
  enum class Part { kBefore, kCpus, kEvents };

  Expected<> take(std::string_view line) {
    if (line.find("~~~~ TRUNCATED ~~~~") != std::string_view::npos) {
      dump_.truncated = true;
      return {};
    }
    if (line == "CPU states") {
      part_ = Part::kCpus;
    } else if (line == "Event counters" && part_ == Part::kCpus) {
      part_ = Part::kEvents;
    } else if (part_ == Part::kEvents) {
      take_event(line);
    } else if (part_ == Part::kCpus) {
      return take_state(line);
    }
    return {};
  }

  Expected<> take_state(std::string_view line) {
    if (line.starts_with("CPU ") && line.find(": nr_run=") != std::string_view::npos) {
      auto cpu = take_cpu(line);
      if (!cpu) return not_understood("CPU", line);
      dump_.cpus.push_back(std::move(*cpu));
      in_task_ = false;
      return {};
    }
    if (dump_.cpus.empty()) return {};
    KernelDumpCpu& cpu = dump_.cpus.back();
    if (line.starts_with("          curr=") && cpu.fields.find("class") == cpu.fields.end()) {
      if (!take_current(line, cpu)) return not_understood("current task", line);
      return {};
    }
    if (auto task = take_task(line)) {
      cpu.tasks.push_back(std::move(*task));
      in_task_ = true;
      return {};
    }
    if (in_task_) {
      take_task_fields(line, cpu.tasks.back());
    } else {
      take_mask(line, cpu);
    }
    return {};
  }

  static void take_task_fields(std::string_view line, KernelDumpTask& task) {
    if (!line.starts_with("      ")) return;
    const std::string_view rest = line.substr(6);
    for (const std::string_view key : kTaskFields) {
      if (rest.starts_with(key)) return take_fields(rest, task.fields);
    }
  }

  static void take_mask(std::string_view line, KernelDumpCpu& cpu) {
    const std::size_t colon = line.find(": ");
    if (!line.starts_with("  ") || colon == std::string_view::npos) return;
    const std::string_view name = trimmed(line.substr(0, colon));
    for (const std::string_view mask : kMasks) {
      if (name == mask) cpu.fields.emplace(name, trimmed(line.substr(colon + 2)));
    }
  }

  void take_event(std::string_view line) {
    const std::size_t colon = line.find(": ");
    if (colon == std::string_view::npos) return;
    const auto count = number<std::uint64_t>(trimmed(line.substr(colon + 2)));
    if (count) dump_.events.insert_or_assign(std::string(trimmed(line.substr(0, colon))), *count);
  }

  std::unexpected<Error> not_understood(std::string_view what, std::string_view line) const {
    return fail(ErrorCode::kUsage,
                fmt::format("line {} of the kernel's dump is no {} line as any kernel known prints it: {}",
                            number_, what, quote(line, 120)));
  }

  KernelDump dump_;
  Part part_ = Part::kBefore;
  bool in_task_ = false;
  std::size_t number_ = 1;
};

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
    const auto a = number<std::uint64_t>(ours);
    const auto b = number<std::uint64_t>(kernel);
    if (!a || !b || *b - *a > tolerance_.sequence) differ(field, ours, kernel);
  }
  void near(std::string_view field, const std::string& ours, const std::string& kernel) {
    const auto a = number<std::uint64_t>(ours);
    const auto b = number<std::uint64_t>(kernel);
    if (!a || !b || std::min(*a - *b, *b - *a) > tolerance_.time_ns) differ(field, ours, kernel);
  }

  void same_but(std::uint64_t ignored, std::string_view field, const std::string& ours,
                const std::string& kernel) {
    const auto a = number<std::uint64_t>(ours);
    const auto b = number<std::uint64_t>(kernel);
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
    ours["class"] = printable_utf8(cpu.curr_class());
    const auto mask = [&](const char* name, const std::string& cpus) {
      if (!cpus.empty()) ours[name] = bitmap_text(cpus, lines_.nr_cpu_ids());
    };
    mask("cpus_to_kick", cpu.cpus_to_kick());
    mask("idle_to_kick", cpu.cpus_to_kick_if_idle());
    mask("cpus_to_preempt", cpu.cpus_to_preempt());
    mask("cpus_to_wait", cpu.cpus_to_wait());
    mask("cpus_to_sync", cpu.cpus_to_sync());
    compare_fields(ours, kernel.fields);
    for (const char* name : kMaskNames) {
      if (ours.count(name) != 0 && kernel.fields.count(name) == 0) differ(name, ours[name], "absent");
    }
    equal("curr", fmt::format("{}[{}]", printable_utf8(cpu.curr().comm()), cpu.curr().pid()),
          fmt::format("{}[{}]", printable_utf8(kernel.curr_comm), kernel.curr_pid));
    const std::vector<const Task*> tasks = lines_.tasks_of(cpu);
    for (const KernelDumpTask& task : kernel.tasks) {
      pid_ = task.pid;
      compare_task(cpu, tasks, task);
    }
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
  static constexpr const char* kMaskNames[] = {"cpus_to_kick", "idle_to_kick", "cpus_to_preempt",
                                               "cpus_to_wait", "cpus_to_sync"};

  const Dump& ours_;
  KernelLines lines_;
  const CompareTolerance& tolerance_;
  std::map<std::uint32_t, const Cpu*> cpus_;
  std::vector<DumpDifference> differences_;
  std::uint32_t at_cpu_ = 0;
  std::int32_t pid_ = 0;
};

}  // namespace

Expected<KernelDump> parse_kernel_dump(std::string_view text) {
  return Parser().parse(text);
}

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
