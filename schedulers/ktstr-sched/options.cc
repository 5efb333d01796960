#include "schedulers/ktstr-sched/options.h"

#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>

#include <fmt/format.h>

#include "schedulers/ktstr-sched/limits.h"

namespace ktstr::sched {
namespace {

// Longest --spin-for: half of what makes the kernel's watchdogs speak up (soft lockup: 20 s).
constexpr double kLongestSpin = 10;

enum class Unit {
  kNone,       // no value: the variable becomes 1
  kSeconds,    // to ms, decimals allowed
  kNumber,     // as it is
  kMicroToNs,  // us, stored as ns
};

// What an option does: sets a variable of the BPF code, or (variable == nullptr) something in the loader.
struct Known {
  std::string_view name;
  Unit unit;
  const char* variable;
  double least;
  double most;
  // May stand without "=value"; then it is this.
  std::optional<double> otherwise;
};

constexpr double kDay = 86400;
constexpr std::array<Known, 23> kKnown = {{
    {"stall-after", Unit::kSeconds, "stall_after_ms", 0, kDay, {}},
    {"hold-every", Unit::kNumber, "fault_hold_every", 1, 1e9, {}},
    {"hold-on", Unit::kNone, nullptr, 0, 0, {}},
    {"dsqs", Unit::kNumber, "hold_dsqs", 1, kMostHoldDsqs, {}},
    {"error-after", Unit::kSeconds, "error_after_ms", 0, kDay, {}},
    {"bad-dispatch", Unit::kSeconds, "bad_dispatch_after_ms", 0, kDay, 1.0},
    {"spin-after", Unit::kSeconds, "spin_after_ms", 0, kDay, {}},
    {"spin-for", Unit::kSeconds, "spin_for_ms", 0.001, kLongestSpin, {}},
    {"sysrq-after", Unit::kSeconds, nullptr, 0, kDay, {}},
    {"slow", Unit::kNumber, "fault_slow_us", 1, 10000, 200.0},
    {"unfair", Unit::kNone, "fault_unfair", 0, 0, {}},
    {"scatter", Unit::kNone, "fault_scatter", 0, 0, {}},
    {"race", Unit::kNone, "fault_race", 0, 0, {}},
    {"race-window", Unit::kMicroToNs, "race_window_ns", 0.001, 1e6, {}},
    {"fail-verify", Unit::kNone, "fail_verify", 0, 0, {}},
    {"exit-after", Unit::kSeconds, nullptr, 0, kDay, {}},
    {"timeout-ms", Unit::kNumber, nullptr, 0, 30000, {}},
    {"dump-size", Unit::kNumber, nullptr, 0, kDumpSize, {}},
    {"slice-us", Unit::kMicroToNs, "slice_ns", 100, 1e6, {}},
    {"seed", Unit::kNumber, "seed", 0, 1e15, {}},
    {"partial", Unit::kNone, nullptr, 0, 0, {}},
    {"help", Unit::kNone, nullptr, 0, 0, {}},
    {"h", Unit::kNone, nullptr, 0, 0, {}},
}};

const Known* find(std::string_view name) {
  for (const Known& known : kKnown) {
    if (known.name == name) return &known;
  }
  return nullptr;
}

Expected<double> parse_number(const Known& known, std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = known.unit != Unit::kNumber || value == std::floor(value);
  if (error == std::errc{} && end == text.data() + text.size() && value >= known.least &&
      value <= known.most && whole) {
    return value;
  }
  return fail(ErrorCode::kUsage,
              fmt::format("--{}: '{}' is not a {}number from {:.15g} to {:.15g}", known.name, text,
                          known.unit == Unit::kNumber ? "whole " : "", known.least, known.most));
}

std::uint64_t stored(Unit unit, double value) {
  // "--stall-after 0" is at once; 0 ms would be never.
  if (unit == Unit::kSeconds)
    return value < 0.001 ? 1 : static_cast<std::uint64_t>(std::llround(value * 1000));
  if (unit == Unit::kMicroToNs) return static_cast<std::uint64_t>(std::llround(value * 1000));
  return static_cast<std::uint64_t>(value);
}

Expected<> apply(Options& options, const Known& known, std::string_view text) {
  if (known.name == "hold-on") {
    if (text != "dsq" && text != "bpf")
      return fail(ErrorCode::kUsage, fmt::format("--hold-on: '{}' is neither dsq nor bpf", text));
    options.hold_on_dsq = text == "dsq";
    options.settings.push_back({"hold_on_bpf", text == "bpf" ? std::uint64_t{1} : 0});
    return {};
  }
  std::uint64_t value = 1;
  if (known.unit != Unit::kNone) {
    const Expected<double> number = parse_number(known, text);
    if (!number) return std::unexpected(number.error());
    value = stored(known.unit, *number);
  }
  if (known.variable != nullptr) options.settings.push_back({known.variable, value});
  if (known.name == "fail-verify") options.fail_verify = true;
  if (known.name == "exit-after") options.exit_after_ms = value;
  if (known.name == "sysrq-after") options.sysrq_after_ms = value;
  if (known.name == "timeout-ms") options.timeout_ms = static_cast<std::uint32_t>(value);
  if (known.name == "dump-size") options.dump_size = static_cast<std::uint32_t>(value);
  if (known.name == "partial") options.partial = true;
  if (known.name == "help" || known.name == "h") options.help = true;
  return {};
}

}  // namespace

std::string help_text() {
  return R"(Usage: ktstr-sched [OPTION...]

A sched_ext scheduler for Linux 6.12 and newer that fails on request. Without options it is a healthy, simple
one: a shared FIFO queue for kernel threads, and four queues (two FIFO, two by virtual time) for groups of processes.
Ends in order on SIGINT and SIGTERM. When the kernel throws it out, it prints the kernel's dump, reason and
message to standard error and exits with 1.

Faults. Those with a * are also ints in the map .data and may be changed while it runs (the name in brackets).
Kernel threads, PID 1 and ktstr-sched itself are always served, so that the kernel's watchdog works.
  --stall-after SECONDS *   hold every other task from then on  [fault_stall]
  --hold-every N *          hold every Nth enqueued task for ever  [fault_hold_every, 0 is off]
  --hold-on dsq|bpf         where: on a queue that nobody serves (default), or with BPF, on no queue at all
  --dsqs N                  how many queues that nobody serves there are (1); held tasks are dealt out to them
  --error-after SECONDS *   scx_bpf_error("ktstr_sched: error on request ...")  [fault_error]
  --bad-dispatch[=SECONDS] *
                            after this time (1) insert a task into a queue that does not exist: an error that
                            the kernel detects  [fault_bad_dispatch]
  --spin-after SECONDS *    from then on one CPU does nothing but spin in its dispatch, once: with interrupts off
                            and its run queue locked  [fault_spin; spin_cpu says which CPU]
  --spin-for SECONDS        for this long (1; at most 10)
  --slow[=US] *             spin this long (200) in each dispatch  [fault_slow_us]
  --unfair *                serve half of the tasks, chosen by pid and seed, much better  [fault_unfair]
  --scatter *               put each task on a random CPU  [fault_scatter]
  --race *                  an error only when two CPUs enqueue to one queue within the window  [fault_race]
  --race-window US          that window (2)
  --fail-verify             load a program that the kernel's verifier refuses

Other options
  --exit-after SECONDS      leave in order then, with exit code 0
  --sysrq-after SECONDS     have the kernel end it in order then, by SysRq-S
  --timeout-ms N            the watchdog's limit for a waiting task (5000; 0: the kernel's own; at most 30000)
  --dump-size BYTES         the kernel's dump is cut here (0: the kernel's own, 32768; at most 131072)
  --slice-us US             time slice (5000)
  --seed N                  of everything random (1)
  --partial                 only tasks of the policy SCHED_EXT; the others stay with the kernel's scheduler
  --help
)";
}

Expected<Options> parse_options(const std::vector<std::string>& arguments) {
  Options options;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    std::string_view name = arguments[i];
    if (!name.starts_with("--") && name != "-h")
      return fail(ErrorCode::kUsage, fmt::format("'{}' is no option; see --help", name));
    name.remove_prefix(name == "-h" ? 1 : 2);
    std::optional<std::string_view> value;
    if (const std::size_t equals = name.find('='); equals != std::string_view::npos) {
      value = name.substr(equals + 1);
      name = name.substr(0, equals);
    }
    const Known* known = find(name);
    if (known == nullptr)
      return fail(ErrorCode::kUsage, fmt::format("unknown option --{}; see --help", name));
    const bool takes_value = known->unit != Unit::kNone || known->name == "hold-on";
    if (!takes_value && value) return fail(ErrorCode::kUsage, fmt::format("--{} takes no value", name));
    std::string otherwise;
    if (takes_value && !value) {
      if (known->otherwise) {
        otherwise = fmt::format("{}", *known->otherwise);
        value = otherwise;
      } else if (++i < arguments.size()) {
        value = arguments[i];
      } else {
        return fail(ErrorCode::kUsage, fmt::format("--{} needs a value", name));
      }
    }
    if (const Expected<> done = apply(options, *known, value.value_or("")); !done)
      return std::unexpected(done.error());
  }
  return options;
}

}  // namespace ktstr::sched
