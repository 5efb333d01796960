// GuestMemory: reads of guest-physical memory.
//
// The RAM of a guest is mapped shared: other vCPUs may run on while we read (a monitor's sample, a vCPU that
// was late to stop), and a value that is checked and then fetched again may be another one the second time.
// So nothing here hands out a pointer or a span into RAM. Every byte asked for is copied once, and what is
// checked is the copy. An aligned value of 1, 2, 4 or 8 bytes is copied by a single load, so that a pointer
// or a counter that the guest stores meanwhile is seen either old or new.
//
// Which ranges are RAM comes from the machine or from the headers of a core file; the machine's own layout is
// trusted, a file's is not, so both are checked by create().
#pragma once

#include <sys/types.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "common/error.h"
#include "host/memory/address.h"
#include "host/memory/fault.h"
#include "host/memory/read_budget.h"

namespace ktstr {

// A range of guest-physical addresses and where its bytes are.
struct MemoryRegion {
  Gpa gpa;
  std::span<const std::byte> bytes;
  // The process whose addresses these are, which must be a child of ours (process_vm_readv(2) needs the right
  // to trace it); 0: this one. A read of another process's memory is a system call.
  pid_t process = 0;
};

// A string that was read up to its terminating zero or up to a limit.
struct GuestString {
  std::string text;         // without the zero; any other bytes
  bool terminated = false;  // false: the limit came first, there may be more

  bool operator==(const GuestString&) const = default;
};

// What may be made from arbitrary bytes. Host pointers make no sense, a bool other than 0 and 1 is undefined
// behaviour: read a std::uint8_t.
template <typename T>
concept GuestReadable =
    std::is_trivially_copyable_v<T> && !std::is_pointer_v<T> && !std::is_same_v<std::remove_cv_t<T>, bool>;

// Copyable and cheap to copy; all copies refer to the same memory, which must outlive them. Reading does not
// change it: any number of threads may read, each with its own budget.
class GuestMemory {
 public:
  // Addresses are below 2^52: the processor has no more (Intel SDM vol. 3A, 4.1.4).
  static constexpr std::uint64_t kAddressLimit = std::uint64_t{1} << 52;
  // A string is copied in pieces of at most this many bytes: most names of the kernel are shorter.
  static constexpr std::size_t kStringPiece = 64;

  // No RAM at all: every read is a fault.
  GuestMemory() = default;

  // `regions` in any order; empty ones are left out. Error kUsage: two of them overlap, or one goes beyond
  // kAddressLimit.
  static Expected<GuestMemory> create(std::vector<MemoryRegion> regions);

  // Copies out.size() bytes from `gpa` on, over the seams of adjacent regions. After a fault, which names the
  // first byte that is not RAM, the contents of `out` are unspecified. RAM of another process that is gone is
  // not RAM any more.
  FaultOr<> read(Gpa gpa, std::span<std::byte> out, ReadBudget& budget) const;

  // A value in the guest's byte order, which is the host's (both are x86-64). Any alignment.
  template <GuestReadable T>
  FaultOr<T> read(Gpa gpa, ReadBudget& budget) const {
    std::array<std::byte, sizeof(T)> bytes;
    if (const auto done = read(gpa, bytes, budget); !done) return std::unexpected(done.error());
    return std::bit_cast<T>(bytes);
  }

  // The bytes before the first zero, looking at no more than `limit` bytes.
  FaultOr<GuestString> read_c_string(Gpa gpa, std::size_t limit, ReadBudget& budget) const;

  // Bytes of RAM from `gpa` to the end of its region; 0 when it is not RAM.
  std::uint64_t ram_left(Gpa gpa) const;

  // RAM of all regions, in bytes.
  std::uint64_t total_bytes() const;
  // One past the last byte of RAM; 0 without RAM.
  Gpa end() const;

 private:
  explicit GuestMemory(std::vector<MemoryRegion> regions) : regions_(std::move(regions)) {}
  const MemoryRegion* find(Gpa gpa) const;

  std::vector<MemoryRegion> regions_;  // ascending, not empty, without overlap
};

}  // namespace ktstr
