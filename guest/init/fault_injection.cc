#include "guest/init/fault_injection.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>

#include "common/read_file.h"

namespace ktstr::guest {
namespace {

[[noreturn]] void throw_error() {
  throw std::runtime_error("injected by ktstr.inject=init-throw");
}

// An exception that nobody can catch: the scenario executor would turn it into a reason of its own.
void terminate_with_exception() noexcept {
  throw_error();
}

void panic_kernel() {
  // SysRq-C (drivers/tty/sysrq.c); the trigger file works whatever kernel.sysrq says.
  if (!write_attribute("/proc/sysrq-trigger", "c")) ::_exit(1);
}

}  // namespace

void inject_fault(Injection injection, const std::function<void()>& kill_scheduler) {
  switch (injection) {
    case Injection::kNone:
    case Injection::kLateOutput:  // not in the middle of a scenario: send_late_output()
    case Injection::kTopology:    // before it: with_small_llcs()
      return;
    case Injection::kPanic:
      panic_kernel();
      return;
    case Injection::kInitCrash: {
      volatile int* volatile nowhere = nullptr;
      *nowhere = 1;  // NOLINT(clang-analyzer-core.NullDereference): the crash that was asked for
      return;
    }
    case Injection::kInitThrow:
      terminate_with_exception();
      return;
    case Injection::kExit:
      ::_exit(3);
    case Injection::kSilent:
      while (true) std::this_thread::sleep_for(std::chrono::hours(1));
    case Injection::kKillScheduler:
      kill_scheduler();
      return;
  }
}

void send_late_output(Supervisor& supervisor) {
  constexpr int kLines = 64;
  std::string line(std::size_t{16} << 10, '.');
  line.back() = '\n';
  for (int i = 1; i <= kLines; ++i) {
    ktstr::v1::Frame frame;
    frame.mutable_output()->set_stream(ktstr::v1::Output::SCHEDULER);
    frame.mutable_output()->set_data(i < kLines ? line : "the last line\n");
    supervisor.send(std::move(frame));
  }
}

ktstr::v1::Topology with_small_llcs(const ktstr::v1::Topology& planned) {
  ktstr::v1::Topology wrong = planned;
  const std::uint32_t cores = std::max(planned.cores_per_llc(), 1U);
  const std::uint32_t threads = std::max(planned.threads_per_core(), 1U);
  wrong.set_cores_per_llc(1);
  wrong.set_threads_per_core(1);
  wrong.set_llcs(planned.llcs() * cores * threads);
  for (auto& node : *wrong.mutable_nodes()) node.set_llcs(node.llcs() * cores * threads);
  return wrong;
}

}  // namespace ktstr::guest
