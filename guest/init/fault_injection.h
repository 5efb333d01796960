// Faults on request (boot_arguments.h), for the tests of the harness itself.
#pragma once

#include <functional>

#include "guest/init/boot_arguments.h"
#include "guest/scenario/supervisor.h"
#include "proto/plan.pb.h"

namespace ktstr::guest {

// Provokes the fault now, if it is one that comes in the middle of a scenario. All but kNone and
// kKillScheduler do not return.
void inject_fault(Injection injection, const std::function<void()>& kill_scheduler);

// Injection::kLateOutput: 63 lines of 16 KiB and "the last line".
void send_late_output(Supervisor& supervisor);

// Injection::kTopology: `planned` as it would be if each CPU had an LLC of its own.
ktstr::v1::Topology with_small_llcs(const ktstr::v1::Topology& planned);

}  // namespace ktstr::guest
