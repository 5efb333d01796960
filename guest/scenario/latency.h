// Percentiles over the wake latencies of many workers.
#pragma once

#include <cstdint>
#include <vector>

#include "proto/result.pb.h"

namespace ktstr::guest {

// Samples of several workers put together. A worker that saw more wake-ups than its report carries sends a
// uniform sample; each of its samples then stands for several wake-ups and weighs accordingly.
class LatencyPool {
 public:
  void add(const ktstr::v1::WorkerReport& worker);
  // Samples in the pool, each counted once.
  std::size_t size() const { return samples_.size(); }
  // The least latency that a fraction `p` (0 < p <= 1) of all wake-ups did not exceed, ns; 0 when the pool is
  // empty.
  std::uint64_t percentile(double p) const;

 private:
  struct Sample {
    std::uint64_t latency_ns;
    double weight;
  };
  std::vector<Sample> samples_;
};

}  // namespace ktstr::guest
