#include "guest/init/slowness.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include "guest/scenario/supervisor.h"

namespace ktstr::guest {
namespace {

constexpr std::size_t kCalls = 20000;
constexpr double kMaxSlowness = 1000;

using Memory = std::array<std::uint64_t, 1024>;
using Step = std::uint64_t (*)(Memory& memory, std::uint64_t value);

// Every step needs the one before, so neither compiler nor CPU can run them side by side.
template <std::uint64_t kFactor>
[[gnu::noinline]] std::uint64_t step(Memory& memory, std::uint64_t value) {
  std::uint64_t& word = memory[value % memory.size()];
  word += value * kFactor;
  return word + kFactor;
}

constexpr std::array<Step, 8> kSteps = {step<3>,  step<5>,  step<7>,  step<11>,
                                        step<13>, step<17>, step<19>, step<23>};

}  // namespace

std::uint64_t measure_work_ns() {
  Memory memory{};
  const std::array<Step, 8> steps = kSteps;
  // The compiler must believe that the table could be any other.
  asm volatile("" : : "r"(&steps), "r"(&memory) : "memory");
  const MonotonicTime start = monotonic_now();
  std::uint64_t value = 1;
  for (std::size_t i = 0; i < kCalls; ++i) value = steps[i % steps.size()](memory, value);
  asm volatile("" : : "r"(value), "r"(&memory) : "memory");
  return static_cast<std::uint64_t>((monotonic_now() - start).count());
}

double slowness_of(std::uint64_t work_ns) {
  return std::max(1.0, static_cast<double>(work_ns) / static_cast<double>(kReferenceWorkNs));
}

double measure_slowness() {
  std::uint64_t best = measure_work_ns();
  for (int round = 1; round < 3; ++round) best = std::min(best, measure_work_ns());
  return slowness_of(best);
}

void SlownessMeter::sample() {
  sum_ += slowness_of(measure_work_ns());
  ++samples_;
}

double SlownessMeter::value() const {
  const double mean = samples_ == 0 ? 0.0 : sum_ / static_cast<double>(samples_);
  return std::min(std::max(initial_, mean), kMaxSlowness);
}

}  // namespace ktstr::guest
