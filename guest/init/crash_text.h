// Text in a fixed buffer, for code that must not allocate.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace ktstr::guest {

// What does not fit is cut off. Bytes outside printable ASCII and newline become '?'.
template <std::size_t kSize>
class CrashText {
 public:
  CrashText& operator<<(std::string_view text) {
    for (const char c : text) put((c >= 0x20 && c < 0x7f) || c == '\n' ? c : '?');
    return *this;
  }
  CrashText& hex(std::uint64_t value) { return *this << "0x", digits(value, 16); }
  CrashText& dec(std::uint64_t value) { return digits(value, 10); }

  std::string_view view() const { return {buffer_.data(), length_}; }
  void clear() { length_ = 0; }

 private:
  void put(char c) {
    if (length_ < kSize) buffer_[length_++] = c;
  }
  CrashText& digits(std::uint64_t value, std::uint64_t base) {
    std::array<char, 20> reversed{};
    std::size_t count = 0;
    do {
      reversed[count++] = "0123456789abcdef"[value % base];
      value /= base;
    } while (value != 0);
    while (count > 0) put(reversed[--count]);
    return *this;
  }

  std::array<char, kSize> buffer_{};
  std::size_t length_ = 0;
};

}  // namespace ktstr::guest
