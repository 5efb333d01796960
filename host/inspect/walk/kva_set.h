// KvaSet: addresses that a walk has been to.
//
// Walks run while the guest stands still, thousands of nodes a millisecond, so this is one flat table with
// open addressing that allocates only when it doubles.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "host/memory/address.h"

namespace ktstr {

class KvaSet {
 public:
  // False when `kva` was there already.
  bool insert(Kva kva) {
    if ((count_ + 1) * 2 > slots_.size()) grow();
    return place(kva);
  }

  bool contains(Kva kva) const {
    if (slots_.empty()) return false;
    for (std::size_t at = slot_of(kva);; at = (at + 1) & (slots_.size() - 1)) {
      if (slots_[at] == kEmpty) return false;
      if (slots_[at] == stored(kva)) return true;
    }
  }

  std::size_t size() const { return count_; }

 private:
  static constexpr std::uint64_t kEmpty = 0;
  static constexpr std::size_t kFirstSize = 64;

  // The address itself, moved by one so that 0 means an empty slot. Addresses are those of objects that were
  // or will be read, so the one that becomes 0, the last byte of the address space, is none.
  static constexpr std::uint64_t stored(Kva kva) { return kva.value() + 1; }
  std::size_t slot_of(Kva kva) const {
    // Fibonacci hashing: objects are aligned, their low bits say little.
    return static_cast<std::size_t>(kva.value() * 0x9e3779b97f4a7c15 >> 20) & (slots_.size() - 1);
  }

  bool place(Kva kva) {
    for (std::size_t at = slot_of(kva);; at = (at + 1) & (slots_.size() - 1)) {
      if (slots_[at] == stored(kva)) return false;
      if (slots_[at] != kEmpty) continue;
      slots_[at] = stored(kva);
      ++count_;
      return true;
    }
  }

  void grow() {
    std::vector<std::uint64_t> old(slots_.empty() ? kFirstSize : slots_.size() * 2);
    old.swap(slots_);
    count_ = 0;
    for (const std::uint64_t value : old) {
      if (value != kEmpty) place(Kva(value - 1));
    }
  }

  std::vector<std::uint64_t> slots_;  // a power of two, at most half full
  std::size_t count_ = 0;
};

}  // namespace ktstr
