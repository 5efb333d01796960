// ktstr-sched: loads the scheduler, waits for its end, says why it ended.
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include <bpf/libbpf.h>
#include <fmt/format.h>

#include "common/error.h"
#include "schedulers/ktstr-sched/bpf_scheduler.h"
#include "schedulers/ktstr-sched/options.h"

// The two builds of ktstr_sched.bpf.c, by the assembler's .incbin (embed_objects.py).
extern "C" {
extern const std::byte ktstr_sched_user_dsqs_begin[];
extern const std::byte ktstr_sched_user_dsqs_end[];
extern const std::byte ktstr_sched_builtin_dsqs_begin[];
extern const std::byte ktstr_sched_builtin_dsqs_end[];
}

namespace ktstr::sched {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kExitError = 1;
constexpr int kExitUsage = 2;
constexpr timespec kPollEvery = {.tv_sec = 0, .tv_nsec = 50'000'000};

void say(const std::string& text) {
  std::fputs((text + "\n").c_str(), stdout);
  std::fflush(stdout);
}

sigset_t end_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

Expected<BpfScheduler> prepare(const Options& options) {
  const Expected<bool> builtin_only = lacks_user_dsqs();
  if (!builtin_only) return std::unexpected(builtin_only.error());
  if (*builtin_only) {
    say("ktstr-sched: this kernel does not let programs make queues of their own (its BTF shows hidden "
        "arguments of "
        "kernel functions): running on the built-in queues; held tasks are with BPF");
  }
  Expected<BpfScheduler> scheduler =
      *builtin_only ? BpfScheduler::open({ktstr_sched_builtin_dsqs_begin, ktstr_sched_builtin_dsqs_end})
                    : BpfScheduler::open({ktstr_sched_user_dsqs_begin, ktstr_sched_user_dsqs_end});
  if (!scheduler) return scheduler;
  std::vector<Setting> settings = options.settings;
  settings.push_back({"loader_tgid", static_cast<std::uint64_t>(::getpid())});
  if (options.dump_size != 0) settings.push_back({"dump_size", options.dump_size});
  for (const Setting& setting : settings) {
    if (const Expected<> done = scheduler->set(setting.variable, setting.value); !done)
      return std::unexpected(done.error());
  }
  if (const Expected<> done = scheduler->set_ops(options.partial, options.timeout_ms, options.dump_size);
      !done)
    return std::unexpected(done.error());
  return scheduler;
}

// As the scx tools do it, so that eyes and patterns made for them work.
void report(const ExitRecord& record) {
  if (!record.dump.empty()) {
    const std::string rule(80, '=');
    std::fputs(fmt::format("\nDEBUG DUMP\n{}\n\n{}\n{}\n\n", rule, record.dump, rule).c_str(), stderr);
  }
  std::string line = fmt::format("EXIT: {}", record.reason);
  if (!record.message.empty()) line += fmt::format(" ({})", record.message);
  if (record.cpu >= 0) line += fmt::format(" on CPU {}", record.cpu);
  std::fputs(fmt::format("{}\nktstr-sched: exit kind {}, code {}\n", line, record.kind, record.code).c_str(),
             stderr);
}

// The `S` of Documentation/admin-guide/sysrq.rst: all tasks go back to the kernel's own scheduler. Root may
// write any command there, whatever the mask in /proc/sys/kernel/sysrq says.
void raise_sysrq() {
  constexpr const char* kTrigger = "/proc/sysrq-trigger";
  std::FILE* const trigger = std::fopen(kTrigger, "w");
  const bool written = trigger != nullptr && std::fputc('S', trigger) != EOF;
  const bool closed = trigger != nullptr && std::fclose(trigger) == 0;
  if (!written || !closed)
    std::fputs(fmt::format("ktstr-sched: cannot write {}: {}\n", kTrigger, strerrordesc_np(errno)).c_str(),
               stderr);
}

int run(const Options& options) {
  const sigset_t signals = end_signals();
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  Expected<BpfScheduler> scheduler = prepare(options);
  const Expected<> started = scheduler ? scheduler->start() : Expected<>(std::unexpected(scheduler.error()));
  if (!started) {
    std::fputs(fmt::format("ktstr-sched: {}\n", started.error().to_string()).c_str(), stderr);
    return kExitError;
  }
  say("ktstr-sched: attached");

  const Clock::time_point begun = Clock::now();
  const auto is_due = [&](std::uint64_t after_ms) {
    return after_ms != 0 && Clock::now() - begun >= std::chrono::milliseconds(after_ms);
  };
  bool sysrq_raised = false;
  while (!scheduler->has_exited() && sigtimedwait(&signals, nullptr, &kPollEvery) < 0 &&
         !is_due(options.exit_after_ms)) {
    if (!sysrq_raised && is_due(options.sysrq_after_ms)) {
      sysrq_raised = true;
      raise_sysrq();
    }
  }
  scheduler->stop();
  const ExitRecord record = scheduler->exit_record();
  report(record);
  return record.is_error() ? kExitError : 0;
}

}  // namespace
}  // namespace ktstr::sched

int main(int argc, char** argv) {
  using namespace ktstr::sched;
  const ktstr::Expected<Options> options = parse_options({argv + 1, argv + argc});
  if (!options) {
    std::fputs(fmt::format("ktstr-sched: {}\n", options.error().to_string()).c_str(), stderr);
    return kExitUsage;
  }
  if (options->help) {
    std::fputs(help_text().c_str(), stdout);
    return 0;
  }
  return run(*options);
}
