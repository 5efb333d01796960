// The kernel arguments a tcg machine wants, and why.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "host/machine/kernel_command_line.h"

namespace ktstr {

// The host's time stamp counter. Under QEMU's tcg it is also the guest's: RDTSC gives the host's counter plus
// an offset that is the same for all vCPUs (QEMU system/cpu-timers.c, cpu_get_ticks).
struct HostTsc {
  bool steady = false;  // constant_tsc and nonstop_tsc in the flags of /proc/cpuinfo
  double hertz = 0;     // 0: not known
};

// Takes about 2 ms: the counter is compared with CLOCK_MONOTONIC_RAW.
HostTsc measure_host_tsc();

// `kernel_hz` is CONFIG_HZ, 0 when not known. `frames`: FrameLink::guest_address.
std::vector<KernelArgument> tcg_kernel_arguments(const HostTsc& tsc, std::uint32_t kernel_hz,
                                                 std::string_view frames);

}  // namespace ktstr
