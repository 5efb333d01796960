// Mapping owns one mmap(2) region.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <utility>

#include "common/error.h"

namespace ktstr {

// Owns a mapped region. Empty is size 0. Move-only; move assignment unmaps what was held before.
class [[nodiscard]] Mapping {
 public:
  Mapping() = default;
  Mapping(void* address, std::size_t size) : address_(address), size_(size) {}
  Mapping(Mapping&& other) noexcept
      : address_(std::exchange(other.address_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { reset(); }

  // Maps `size` bytes of `fd` from `offset` on. `prot` and `flags` as in mmap(2). size 0 gives an empty
  // Mapping.
  static Expected<Mapping> map(int fd, std::size_t size, int prot, int flags, off_t offset = 0);
  // Maps a whole regular file read-only and private. Error kUsage when it cannot be opened or is no regular
  // file.
  static Expected<Mapping> map_file(const char* path);

  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(address_), size_}; }
  std::span<std::byte> mutable_bytes() { return {static_cast<std::byte*>(address_), size_}; }
  std::size_t size() const { return size_; }
  void reset();

 private:
  void* address_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace ktstr
