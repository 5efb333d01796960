// Faults on request (boot_arguments.h), for the tests of the harness itself.
#pragma once

#include <functional>

#include "guest/init/boot_arguments.h"

namespace ktstr::guest {

// Provokes the fault now. All but kNone and kKillScheduler do not return.
void inject_fault(Injection injection, const std::function<void()>& kill_scheduler);

}  // namespace ktstr::guest
