// Xxh3: XXH3-128, a fast fingerprint of bytes that nobody forges (xxHash, doc/xxhash_spec.md).
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "common/error.h"

namespace ktstr {

class Xxh3 {
 public:
  // In canonical order: the same on every machine.
  using Digest = std::array<unsigned char, 16>;

  // Throws std::bad_alloc.
  Xxh3();
  ~Xxh3();
  Xxh3(Xxh3&&) noexcept;
  Xxh3& operator=(Xxh3&&) noexcept;

  void update(std::span<const std::byte> bytes);
  void update(std::string_view text) { update(std::as_bytes(std::span(text))); }
  // Of everything so far; more may follow.
  Digest digest() const;
  // The digest as 32 hexadecimal digits.
  std::string hex() const;

  static std::string hex_of(std::span<const std::byte> bytes);
  static std::string hex_of(std::string_view text) { return hex_of(std::as_bytes(std::span(text))); }
  // Of the first `size` bytes of the file `fd`, read piece by piece. Error kHost when reading fails, kUsage
  // when the file is shorter.
  static Expected<std::string> hex_of_file(int fd, std::uint64_t size);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace ktstr
