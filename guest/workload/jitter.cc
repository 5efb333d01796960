#include "guest/workload/jitter.h"

#include <sched.h>

#include <array>
#include <cstddef>

#include "guest/workload/reservoir.h"

namespace ktstr::guest {
namespace {

// Workers draw from streams of their own, beside those of the CPUs.
constexpr std::uint64_t kWorkerStreams = 1U << 20;
constexpr std::uint64_t kMaxCpuRounds = 1U << 20;
constexpr std::uint64_t kMaxWorkerRounds = 1U << 16;

void spin(std::uint64_t rounds) {
  for (std::uint64_t i = 0; i < rounds; ++i) asm volatile("" : : : "memory");
}

}  // namespace

void jitter_cpus(std::uint64_t seed) {
  // The kernel refuses a mask that is shorter than its own; 8192 CPUs are the most it can be built for.
  constexpr std::size_t kCpus = 8192;
  static_assert(CPU_SETSIZE <= kCpus);
  std::array<cpu_set_t, kCpus / CPU_SETSIZE> all{};
  if (::sched_getaffinity(0, sizeof all, all.data()) != 0) return;
  for (std::size_t cpu = 0; cpu < kCpus; ++cpu) {
    if (!CPU_ISSET_S(cpu, sizeof all, all.data())) continue;
    std::array<cpu_set_t, all.size()> one{};
    CPU_SET_S(cpu, sizeof one, one.data());
    if (::sched_setaffinity(0, sizeof one, one.data()) == 0) spin(Xorshift(seed, cpu).below(kMaxCpuRounds));
  }
  ::sched_setaffinity(0, sizeof all, all.data());
}

void jitter_worker(std::uint64_t seed, std::uint64_t worker) {
  if (seed != 0) spin(Xorshift(seed, kWorkerStreams + worker).below(kMaxWorkerRounds));
}

}  // namespace ktstr::guest
