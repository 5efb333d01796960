// The masks of CPUs that a CPU is going to kick, wherever a kernel keeps them: in struct scx_rq, or (7.3) one
// set for each scheduler in its struct scx_sched_pcpu. What reads a dump asks here, so that it need not know.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "proto/dump.pb.h"

namespace ktstr {

enum class KickMask { kKick, kKickIfIdle, kPreempt, kWait, kSync };

// What a scheduler has of its own on that CPU; nullptr where there is none. `sched` has its CPUs in ascending
// order.
inline const ktstr::v1::SchedCpu* sched_cpu_of(const ktstr::v1::Sched& sched, std::uint32_t cpu) {
  const auto found =
      std::lower_bound(sched.cpus().begin(), sched.cpus().end(), cpu,
                       [](const auto& one, std::uint32_t wanted) { return one.cpu() < wanted; });
  return found != sched.cpus().end() && found->cpu() == cpu ? &*found : nullptr;
}

// A CPU list as "0-3,8". Where the CPU has no such mask it is that of `sched` (nullptr: none); "" where
// neither has one.
inline const std::string& kick_mask(const ktstr::v1::Cpu& cpu, const ktstr::v1::Sched* sched,
                                    KickMask which) {
  const auto* per_sched = sched == nullptr ? nullptr : sched_cpu_of(*sched, cpu.cpu());
  const auto& fallback = per_sched == nullptr ? ktstr::v1::SchedCpu::default_instance() : *per_sched;
  switch (which) {
    case KickMask::kKick:
      return cpu.has_cpus_to_kick() ? cpu.cpus_to_kick() : fallback.cpus_to_kick();
    case KickMask::kKickIfIdle:
      return cpu.has_cpus_to_kick_if_idle() ? cpu.cpus_to_kick_if_idle() : fallback.cpus_to_kick_if_idle();
    case KickMask::kPreempt:
      return cpu.has_cpus_to_preempt() ? cpu.cpus_to_preempt() : fallback.cpus_to_preempt();
    case KickMask::kWait:
      return cpu.has_cpus_to_wait() ? cpu.cpus_to_wait() : fallback.cpus_to_wait();
    default:
      return cpu.cpus_to_sync();
  }
}

// One of them, with its name in the kernel's dump.
struct NamedKickMask {
  const char* name;
  KickMask which;
};
inline constexpr NamedKickMask kKickMasks[] = {{"cpus_to_kick", KickMask::kKick},
                                               {"idle_to_kick", KickMask::kKickIfIdle},
                                               {"cpus_to_preempt", KickMask::kPreempt},
                                               {"cpus_to_wait", KickMask::kWait},
                                               {"cpus_to_sync", KickMask::kSync}};

}  // namespace ktstr
