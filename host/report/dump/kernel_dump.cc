#include "host/report/dump/kernel_dump.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "common/kick_masks.h"
#include "common/quote.h"

namespace ktstr {
namespace {

constexpr std::size_t kMaxText = std::size_t{16} << 20;
constexpr std::string_view kTaskFields[] = {"scx_state/flags=", "sticky/holding_cpu=", "dsq_vtime=", "cpus="};
// Of the kernel's own lines about a CPU; what a scheduler prints is indented by two blanks.
constexpr std::string_view kCpuIndent = "          ";

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

}  // namespace

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

void take_cpu_fields(std::string_view line, KernelFields& fields) {
  constexpr std::string_view kRescuing = " rescuing=";
  const std::size_t at = line.find(kRescuing);
  // The name of a task may have blanks.
  if (at != std::string_view::npos) {
    fields.insert_or_assign("rescuing", std::string(line.substr(at + kRescuing.size())));
    line = line.substr(0, at);
  }
  take_fields(line, fields);
}

namespace {

// "comm[12]", where comm may hold anything.
bool take_name(std::string_view text, std::string& comm, std::int32_t& pid) {
  if (!text.ends_with(']')) return false;
  const std::size_t open = text.rfind('[');
  if (open == std::string_view::npos) return false;
  const auto id = kernel_number<std::int32_t>(text.substr(open + 1, text.size() - open - 2));
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
  const auto ms = kernel_number<std::int64_t>(delta);
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
  const auto cpu = kernel_number<std::uint32_t>(trimmed(line.substr(4, colon - 4)));
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
      in_head_ = true;
      return {};
    }
    if (dump_.cpus.empty()) return {};
    KernelDumpCpu& cpu = dump_.cpus.back();
    if (line.starts_with("          curr=") && cpu.fields.find("class") == cpu.fields.end()) {
      if (!take_current(line, cpu)) return not_understood("current task", line);
      return {};
    }
    in_head_ = in_head_ && line.starts_with(kCpuIndent);
    if (in_head_) {
      take_cpu_fields(line, cpu.fields);
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
    for (const NamedKickMask& mask : kKickMasks) {
      if (name == mask.name) cpu.fields.emplace(name, trimmed(line.substr(colon + 2)));
    }
  }

  void take_event(std::string_view line) {
    const std::size_t colon = line.find(": ");
    if (colon == std::string_view::npos) return;
    const auto count = kernel_number<std::uint64_t>(trimmed(line.substr(colon + 2)));
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
  bool in_head_ = false;  // in the lines that the kernel itself has about a CPU
  std::size_t number_ = 1;
};

}  // namespace

Expected<KernelDump> parse_kernel_dump(std::string_view text) {
  return Parser().parse(text);
}

}  // namespace ktstr
