#include "host/memory/mock_memory.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <string>

#include <fmt/format.h>

namespace ktstr {

namespace {

[[noreturn]] void misuse(const std::string& what) {
  fmt::print(stderr, "mock memory: {}\n", what);
  std::abort();
}

}  // namespace

void MockMemory::add_ram(Gpa gpa, std::size_t size) {
  if (!segments_.try_emplace(gpa, size).second) misuse(fmt::format("two segments at {}", gpa));
}

std::span<std::byte> MockMemory::inside(Gpa gpa, std::size_t size) {
  const auto after = segments_.upper_bound(gpa);
  if (after != segments_.begin()) {
    auto& [begin, bytes] = *std::prev(after);
    const std::uint64_t offset = gpa - begin;
    if (offset <= bytes.size() && size <= bytes.size() - offset)
      return std::span(bytes).subspan(offset, size);
  }
  misuse(fmt::format("no segment holds {} bytes at {}", size, gpa));
}

void MockMemory::write(Gpa gpa, std::span<const std::byte> bytes) {
  std::ranges::copy(bytes, inside(gpa, bytes.size()).begin());
}

void MockMemory::write_text(Gpa gpa, std::string_view text) {
  write(gpa, std::as_bytes(std::span(text)));
}

GuestMemory MockMemory::memory() const {
  std::vector<MemoryRegion> regions;
  for (const auto& [begin, bytes] : segments_) regions.push_back({.gpa = begin, .bytes = bytes});
  auto memory = GuestMemory::create(std::move(regions));
  if (!memory) misuse(memory.error().to_string());
  return *std::move(memory);
}

}  // namespace ktstr
