#include "guest/init/fault_injection.h"

#include <unistd.h>

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

}  // namespace ktstr::guest
