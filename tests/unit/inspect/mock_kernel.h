// MockKernel: kernel memory by virtual address, for tests of the walkers.
//
// One stretch of memory from kBase on, all zeros until something is stored; whatever lies elsewhere is a
// fault. Structures are laid out by hand with put().
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "host/memory/kernel_reader.h"

namespace ktstr {

class MockKernel : public KernelReader {
 public:
  static constexpr Kva kBase{0xffff888000100000};

  explicit MockKernel(std::size_t bytes = 1 << 16) : bytes_(bytes) {}

  using KernelReader::read;
  FaultOr<> read(Kva kva, std::span<std::byte> out, ReadBudget& budget) override {
    const Fault fault{.kind = Fault::Kind::kNotMapped, .kva = kva, .gpa = {}, .size = out.size()};
    if (!budget.spend(out.size()))
      return std::unexpected(Fault{.kind = Fault::Kind::kBudget, .kva = kva, .gpa = {}, .size = out.size()});
    const std::uint64_t offset = kva - kBase;
    if (offset > bytes_.size() || out.size() > bytes_.size() - offset) return std::unexpected(fault);
    std::memcpy(out.data(), bytes_.data() + offset, out.size());
    ++reads_;
    return {};
  }

  FaultOr<GuestString> read_c_string(Kva kva, std::size_t limit, ReadBudget& budget) override {
    GuestString string;
    while (string.text.size() < limit) {
      const auto c = read<char>(kva + string.text.size(), budget);
      if (!c) return std::unexpected(c.error());
      if (*c == '\0') return GuestString{.text = string.text, .terminated = true};
      string.text += *c;
    }
    return string;
  }

  // Stores a value; outside the memory it is a mistake of the test (vector::at throws).
  template <typename T>
  void put(Kva kva, const T& value) {
    std::memcpy(&bytes_.at(kva - kBase), &value, sizeof value);
    static_cast<void>(bytes_.at(kva - kBase + sizeof value - 1));
  }
  void put_words(Kva kva, std::initializer_list<std::uint64_t> words) {
    for (const std::uint64_t word : words) {
      put(kva, word);
      kva += sizeof word;
    }
  }

  // The address of byte `offset`.
  static Kva at(std::uint64_t offset) { return kBase + offset; }
  std::size_t reads() const { return reads_; }

 private:
  std::vector<std::byte> bytes_;
  std::size_t reads_ = 0;
};

// More than any test needs.
inline ReadBudget ample() {
  return ReadBudget(std::uint64_t{64} << 20, std::uint64_t{1} << 20);
}

}  // namespace ktstr
