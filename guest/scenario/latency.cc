#include "guest/scenario/latency.h"

#include <algorithm>

namespace ktstr::guest {

void LatencyPool::add(const ktstr::v1::WorkerReport& worker) {
  const int kept = worker.wake_latencies_ns_size();
  if (kept == 0) return;
  const double total = std::max(static_cast<double>(worker.wake_samples_total()), static_cast<double>(kept));
  for (const std::uint64_t latency : worker.wake_latencies_ns()) samples_.push_back({latency, total / kept});
}

std::uint64_t LatencyPool::percentile(double p) const {
  if (samples_.empty()) return 0;
  std::vector<Sample> sorted = samples_;
  std::sort(sorted.begin(), sorted.end(),
            [](const Sample& a, const Sample& b) { return a.latency_ns < b.latency_ns; });
  double total = 0;
  for (const Sample& sample : sorted) total += sample.weight;
  // A hair less than the exact rank, so that rounding in the sum does not skip a sample.
  const double rank = p * total * (1 - 1e-12);
  double seen = 0;
  for (const Sample& sample : sorted) {
    seen += sample.weight;
    if (seen >= rank) return sample.latency_ns;
  }
  return sorted.back().latency_ns;
}

}  // namespace ktstr::guest
