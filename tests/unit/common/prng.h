// SplitMix64: a small generator whose numbers are the same on every machine and with every library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace ktstr::test {

class Prng {
 public:
  explicit Prng(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    state_ += 0x9e3779b97f4a7c15;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }

  // 0 to bound - 1; the bias is of no matter here.
  std::size_t below(std::size_t bound) { return static_cast<std::size_t>(next() % bound); }

  std::string bytes(std::size_t size) {
    std::string text(size, '\0');
    for (char& c : text) c = static_cast<char>(next() & 0xff);
    return text;
  }

 private:
  std::uint64_t state_;
};

}  // namespace ktstr::test
