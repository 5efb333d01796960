// How slow is this machine?
//
// Limits on CPU time are meant for a CPU of our days and must stretch under emulation. A tight arithmetic
// loop says nothing there: QEMU's translator runs one at 0.7 of native speed. What it is bad at is what
// kernels and schedulers consist of: calls through pointers, returns, loads and stores through its software
// MMU. So the piece of work is a chain of 20,000 calls through a table of eight small functions, each with a
// load and a store. Ratios measured with QEMU 10 on an idle CPU: this piece 9, stat(2) 10, recursion 8,
// getppid(2) 5, xorshift over 64 KiB 1.4.
//
// A guest also counts as CPU time what its vCPU had to wait for a host CPU. The best of several rounds says
// how slow the machine is at its best; the mean over many moments says how slow it is in practice.
#pragma once

#include <cstdint>

namespace ktstr::guest {

// Time of one round on an unloaded x86-64 server CPU of 2020, ns.
inline constexpr std::uint64_t kReferenceWorkNs = 40'000;

// Runs the piece of work once; CLOCK_MONOTONIC ns.
std::uint64_t measure_work_ns();

// work_ns / kReferenceWorkNs, at least 1.
double slowness_of(std::uint64_t work_ns);
// Slowness by the best of three rounds.
double measure_slowness();

// Mean slowness over a stretch of time.
class SlownessMeter {
 public:
  // `initial` holds until there are samples that say more.
  explicit SlownessMeter(double initial) : initial_(initial) {}
  // Runs a round: some 0.04 ms times the slowness.
  void sample();
  // The mean of all samples, at least the initial value, at most 1,000.
  double value() const;

 private:
  double initial_;
  double sum_ = 0;
  std::uint64_t samples_ = 0;
};

}  // namespace ktstr::guest
