// Fault: guest memory could not be read there.
//
// Not an Error. An Error ends what the user asked for and carries an exit code; a fault is a finding about a
// guest that may be corrupt: the walker records it with the path it came by and goes on elsewhere. So it is a
// plain value, cheap to make by the thousand, without text until somebody prints it.
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <string>

#include "host/memory/address.h"

namespace ktstr {

struct Fault {
  enum class Kind {
    kNotRam,        // the physical address belongs to no RAM
    kNotMapped,     // a page-table entry on the way is not present
    kReservedBit,   // a page-table entry (or the root) has bits set which the processor would refuse
    kNotCanonical,  // the upper bits of the virtual address are not copies of its sign bit
    kWraps,         // the range goes past the last address, 2^64 - 1
    kNoPageTables,  // the address needs page tables, and where they are is not known
    kBudget,        // the walk has used up its ReadBudget
    kNotCaptured,   // the reader has copies only, and none of this
  };
  // What was being read.
  enum class Access { kData, kString, kTableEntry };

  Kind kind = Kind::kNotRam;
  Access access = Access::kData;
  // The first address that could not be read; absent when the reader was given a physical one.
  std::optional<Kva> kva;
  // The physical place that could not be read, or that of the page-table entry that is to blame; absent when
  // no translation got so far.
  std::optional<Gpa> gpa;
  // Bytes that were asked for, all together; for a string the limit.
  std::uint64_t size = 0;
  // For kTableEntry: 1 (page table) to 5 (PML5), and the entry's value where one was read. Level 0 is the
  // root.
  std::uint32_t level = 0;
  std::uint64_t entry = 0;

  bool operator==(const Fault&) const = default;

  // One line: "8 bytes at 0xffff888000001000 (physical 0x1000): not RAM".
  std::string to_string() const;
};

// A value read from the guest, or why there is none.
template <typename T = void>
using FaultOr = std::expected<T, Fault>;

}  // namespace ktstr
