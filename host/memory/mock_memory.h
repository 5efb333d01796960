// MockMemory: guest memory made by hand, for tests of everything that reads guest memory.
//
// Segments at any physical address stand for RAM; tests write into them what a kernel would have there,
// damage included. Misuse (a write outside the segments, segments that overlap) is a mistake in the test and
// ends the program with a message.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "host/memory/address.h"
#include "host/memory/guest_memory.h"

namespace ktstr {

class MockMemory {
 public:
  // Makes [gpa, gpa + size) RAM, filled with zeros.
  void add_ram(Gpa gpa, std::size_t size);

  // Stores at `gpa`; all of it must lie in one segment.
  void write(Gpa gpa, std::span<const std::byte> bytes);
  // Without a terminating zero.
  void write_text(Gpa gpa, std::string_view text);
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  void write_value(Gpa gpa, const T& value) { write(gpa, std::as_bytes(std::span(&value, 1))); }

  // The value stored at `gpa`.
  template <typename T>
  requires std::is_trivially_copyable_v<T> T value_at(Gpa gpa) {
    T value;
    const auto bytes = inside(gpa, sizeof value);
    std::copy(bytes.begin(), bytes.end(), std::as_writable_bytes(std::span(&value, 1)).begin());
    return value;
  }

  // The memory as readers see it. Sees later writes, but not segments that are added later. Valid as long as
  // this object.
  GuestMemory memory() const;

  // The segments themselves, ascending: what a machine calls its RAM.
  std::map<Gpa, std::vector<std::byte>>& segments() { return segments_; }

 private:
  std::span<std::byte> inside(Gpa gpa, std::size_t size);

  std::map<Gpa, std::vector<std::byte>> segments_;
};

}  // namespace ktstr
