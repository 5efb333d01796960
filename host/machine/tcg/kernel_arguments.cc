#include "host/machine/tcg/kernel_arguments.h"

#include <x86intrin.h>

#include <chrono>
#include <cmath>
#include <ctime>
#include <thread>

#include <fmt/core.h>

#include "host/machine/host_resources.h"

namespace ktstr {
namespace {

struct Reading {
  std::uint64_t ticks = 0;
  double seconds = 0;
};

// Counter and clock at one instant: the tightest of a few tries, so that an interruption between the two does
// no harm.
Reading read_both() {
  Reading best;
  std::uint64_t best_width = UINT64_MAX;
  for (int i = 0; i < 8; ++i) {
    timespec now{};
    const std::uint64_t before = __rdtsc();
    clock_gettime(CLOCK_MONOTONIC_RAW, &now);
    const std::uint64_t after = __rdtsc();
    if (after - before >= best_width) continue;
    best_width = after - before;
    best = {before + best_width / 2,
            static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9};
  }
  return best;
}

}  // namespace

HostTsc measure_host_tsc() {
  const auto flags = host_cpu_flags();
  if (!flags.contains("constant_tsc") || !flags.contains("nonstop_tsc")) return {};
  const Reading first = read_both();
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  const Reading second = read_both();
  const double ticks = static_cast<double>(second.ticks - first.ticks);
  return {.steady = true, .hertz = ticks / (second.seconds - first.seconds)};
}

std::vector<KernelArgument> tcg_kernel_arguments(const HostTsc& tsc, std::uint32_t kernel_hz,
                                                 std::string_view frames) {
  std::vector<KernelArgument> arguments = {
      {"console=ttyS0", "the console that works from the first message on", true},
      {fmt::format("ktstr.frames={}", frames), "where PID 1 finds its end of the frame stream", true},
      {"panic=-1", "a panic reboots at once, which ends the machine"},
      {"no_timer_check", "on a loaded host the timer check can fail and panic the kernel"},
      {"cryptomgr.notests=1", "saves 0.4 s of a boot: no self-tests of crypto algorithms"},
      {"initcall_blacklist=load_system_certificate_list",
       "saves up to 0.1 s of a boot: no RSA on built-in certificates; signed modules then load as unsigned "
       "ones"},
  };
  if (tsc.steady) {
    arguments.push_back(
        {"tsc=reliable",
         "the guest's TSC is the host's, which is steady; without it a loaded host makes the guest "
         "distrust it and use a much slower clock"});
  }
  if (tsc.hertz > 0 && kernel_hz > 0) {
    arguments.push_back({fmt::format("lpj={}", std::llround(tsc.hertz / kernel_hz)),
                         "every vCPU but the first would measure it for 0.1 s or more, one after the other: "
                         "8 vCPUs boot in 2.7 s "
                         "instead of 4.4 s"});
  }
  return arguments;
}

}  // namespace ktstr
