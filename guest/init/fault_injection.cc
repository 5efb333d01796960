#include "guest/init/fault_injection.h"

#include <unistd.h>

#include <chrono>
#include <stdexcept>
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
      return;
    case Injection::kPanic:
      panic_kernel();
      return;
    case Injection::kInitCrash: {
      volatile int* volatile nowhere = nullptr;
      *nowhere = 1;
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

}  // namespace ktstr::guest
