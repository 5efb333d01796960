#include "host/run/own_memory.h"

#include <charconv>
#include <string_view>

#include "common/read_file.h"

namespace ktstr {
namespace {

constexpr std::size_t kMaxStatus = 16384;

std::uint64_t kilobytes_of(std::string_view status, std::string_view key) {
  const std::size_t at = status.find(key);
  if (at == std::string_view::npos) return 0;
  std::string_view rest = status.substr(at + key.size());
  rest.remove_prefix(std::min(rest.find_first_not_of(" \t"), rest.size()));
  std::uint64_t value = 0;
  std::from_chars(rest.data(), rest.data() + rest.size(), value);
  return value;
}

}  // namespace

std::uint64_t own_memory_bytes() {
  const auto status = read_file("/proc/self/status", kMaxStatus);
  if (!status) return 0;
  return (kilobytes_of(*status, "\nRssAnon:") + kilobytes_of(*status, "\nRssFile:")) * 1024;
}

std::uint64_t peak_own_memory_bytes() {
  const auto status = read_file("/proc/self/status", kMaxStatus);
  if (!status) return 0;
  return kilobytes_of(*status, "\nVmHWM:") * 1024;
}

}  // namespace ktstr
