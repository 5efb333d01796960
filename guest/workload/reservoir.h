// Reservoir: a uniform sample of bounded size out of a stream of unknown length (Vitter's Algorithm R).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ktstr::guest {

// xorshift64* (Vigna): a draw costs about 1 ns. A std::mt19937_64 with a std::uniform_int_distribution cost
// 13 to 32 ns a sample, which shows in a worker that wakes up 20,000 times a second.
class Xorshift {
 public:
  // Worker `index` of a scenario with `seed`: neighbours get unrelated streams (splitmix64).
  Xorshift(std::uint64_t seed, std::uint64_t index) {
    std::uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27U)) * 0x94d049bb133111ebU;
    state_ = z ^ (z >> 31U);
    if (state_ == 0) state_ = 1;
  }

  std::uint64_t next() {
    state_ ^= state_ >> 12U;
    state_ ^= state_ << 25U;
    state_ ^= state_ >> 27U;
    return state_ * 0x2545f4914f6cdd1dU;
  }
  // Uniform in [0, bound), bound > 0, by the high half of a product: no division.
  std::uint64_t below(std::uint64_t bound) {
    __extension__ using Wide = unsigned __int128;
    return static_cast<std::uint64_t>((Wide{next()} * bound) >> 64U);
  }

 private:
  std::uint64_t state_ = 1;
};

class Reservoir {
 public:
  // Most samples a WorkerReport carries of one kind (result.proto).
  static constexpr std::size_t kCapacity = 10000;

  explicit Reservoir(Xorshift random, std::size_t capacity = kCapacity)
      : random_(random), capacity_(capacity) {}

  void add(std::uint64_t sample) {
    ++total_;
    if (samples_.size() < capacity_) {
      samples_.push_back(sample);
      return;
    }
    const std::uint64_t at = random_.below(total_);
    if (at < capacity_) samples_[at] = sample;
  }
  // In no particular order once more than the capacity was seen.
  const std::vector<std::uint64_t>& samples() const { return samples_; }
  // All samples ever seen.
  std::uint64_t total() const { return total_; }

 private:
  Xorshift random_;
  std::size_t capacity_;
  std::vector<std::uint64_t> samples_;
  std::uint64_t total_ = 0;
};

}  // namespace ktstr::guest
