// VcpuClock: how much host CPU time the vCPU threads of a process got and how long they had to wait for it.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string_view>
#include <vector>

#include "host/machine/machine.h"

namespace ktstr {

// "<ns on a CPU> <ns waiting on a run queue> <times run>" (Documentation/scheduler/sched-stats.rst,
// "schedstat").
std::optional<Machine::VcpuTime> parse_schedstat(std::string_view text);

// Reads /proc/<pid>/task/<tid>/schedstat of each thread. With one thread for all vCPUs there is one.
class VcpuClock {
 public:
  VcpuClock() = default;
  // Thread ids may be named more than once; the first time counts.
  VcpuClock(pid_t pid, const std::vector<pid_t>& threads);

  // Sum of the time used, largest of the times waited. A thread that is gone counts as when it was last seen.
  Machine::VcpuTime read();
  // Each thread's, in the order in which they were named; no counters.
  std::vector<MachineStatistics::Vcpu> read_each();

 private:
  void look();

  struct Thread {
    pid_t tid = 0;
    Machine::VcpuTime last;
  };
  pid_t pid_ = 0;
  std::vector<Thread> threads_;
};

}  // namespace ktstr
