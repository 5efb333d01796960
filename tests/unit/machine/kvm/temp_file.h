// Files in memory, with given bytes.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "common/unique_fd.h"

namespace ktstr::kvm::tiny {

inline UniqueFd file_of(const std::vector<std::uint8_t>& bytes) {
  UniqueFd fd(memfd_create("test", MFD_CLOEXEC));
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t written = write(fd.get(), bytes.data() + done, bytes.size() - done);
    if (written <= 0) return {};
    done += static_cast<std::size_t>(written);
  }
  return fd;
}

// Bytes that differ from place to place.
inline std::vector<std::uint8_t> pattern(std::size_t size) {
  std::vector<std::uint8_t> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::uint8_t>(i * 7 + i / 251 + 1);
  return bytes;
}

template <typename T>
void put_value(std::vector<std::uint8_t>& bytes, std::size_t at, const T& value) {
  if (bytes.size() < at + sizeof(value)) bytes.resize(at + sizeof(value));
  std::memcpy(bytes.data() + at, &value, sizeof(value));
}

}  // namespace ktstr::kvm::tiny
