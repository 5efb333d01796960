// KernelReader: something that can be read at the kernel's virtual addresses.
//
// Walkers are written against this, so that one walker reads a stopped guest (KernelMemory), what was copied
// out of one before it went on (CapturedMemory), and a test's mock.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <span>

#include "host/memory/address.h"
#include "host/memory/fault.h"
#include "host/memory/guest_memory.h"
#include "host/memory/read_budget.h"

namespace ktstr {

class KernelReader {
 public:
  virtual ~KernelReader() = default;

  // Copies out.size() bytes from `kva` on. After a fault, which names the first byte that could not be read,
  // the contents of `out` are unspecified.
  virtual FaultOr<> read(Kva kva, std::span<std::byte> out, ReadBudget& budget) = 0;

  // The bytes before the first zero, looking at no more than `limit` bytes.
  virtual FaultOr<GuestString> read_c_string(Kva kva, std::size_t limit, ReadBudget& budget) = 0;

  // A value, also of type Kva (a pointer of the kernel's). Any alignment.
  template <GuestReadable T>
  FaultOr<T> read(Kva kva, ReadBudget& budget) {
    std::array<std::byte, sizeof(T)> bytes;
    if (const auto done = read(kva, bytes, budget); !done) return std::unexpected(done.error());
    return std::bit_cast<T>(bytes);
  }
};

}  // namespace ktstr
