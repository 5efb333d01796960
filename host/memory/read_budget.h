// ReadBudget: how much one walk through guest memory may read.
//
// A walker bounds its own loops, but it runs inside others (tasks of every queue of every scheduler), and a
// corrupt guest can make each of them as long as it is allowed to be. The budget bounds the sum, and with it
// the time that the guest stands still.
#pragma once

#include <cstdint>

namespace ktstr {

class ReadBudget {
 public:
  // `bytes` and `reads` may be spent. A read is one copy out of guest memory: a page-table entry counts, and
  // a range over n pages counts n times.
  constexpr ReadBudget(std::uint64_t bytes, std::uint64_t reads) : bytes_(bytes), reads_(reads) {}

  // Takes one read of `bytes`. False when there is not enough left; from then on every read is refused, so
  // that a walk does not go on with the small members of what it could not read.
  constexpr bool spend(std::uint64_t bytes) {
    if (exhausted_ || reads_ == 0 || bytes > bytes_) {
      exhausted_ = true;
      return false;
    }
    bytes_ -= bytes;
    --reads_;
    return true;
  }

  constexpr bool exhausted() const { return exhausted_; }
  constexpr std::uint64_t bytes_left() const { return bytes_; }
  constexpr std::uint64_t reads_left() const { return reads_; }

 private:
  std::uint64_t bytes_;
  std::uint64_t reads_;
  bool exhausted_ = false;
};

}  // namespace ktstr
