#include "host/memory/page_table_walk.h"

#include <algorithm>

namespace ktstr {

namespace {

constexpr std::uint64_t kPresent = std::uint64_t{1} << 0;
constexpr std::uint64_t kPageSize = std::uint64_t{1} << 7;  // PS, at levels 2 and above
constexpr std::uint64_t kLargePagePat = std::uint64_t{1} << 12;
constexpr std::uint32_t kEntryBytes = 8;
constexpr std::uint32_t kPageShift = 12;
constexpr std::uint32_t kIndexBits = 9;
constexpr std::uint32_t kLargestPageLevel = 3;

// The bits below bit `count`.
constexpr std::uint64_t low_bits(std::uint32_t count) {
  return (std::uint64_t{1} << count) - 1;
}

// Bits 12 to 51: where an entry may hold an address.
constexpr std::uint64_t kAddressField = low_bits(52) & ~low_bits(kPageShift);

// The lowest bit of a virtual address that an entry at `level` does not translate.
constexpr std::uint32_t shift_of(std::uint32_t level) {
  return kPageShift + kIndexBits * (level - 1);
}

}  // namespace

PageTableWalk::PageTableWalk(Gpa root, PagingLevels levels, std::uint32_t physical_bits)
    : root_(root.value() & ~low_bits(kPageShift)),
      levels_(levels),
      physical_bits_(std::clamp(physical_bits, std::uint32_t{32}, kMaxPhysicalBits)) {}

bool PageTableWalk::canonical(Kva kva) const {
  const std::uint32_t top = shift_of(static_cast<std::uint32_t>(levels_)) + kIndexBits - 1;
  const std::uint64_t upper = kva.value() >> top;
  return upper == 0 || upper == ~std::uint64_t{0} >> top;
}

std::uint64_t PageTableWalk::beyond_width() const {
  return kAddressField & ~low_bits(physical_bits_);
}

FaultOr<Translation> PageTableWalk::translate(const GuestMemory& memory, Kva kva, ReadBudget& budget) const {
  Fault fault{.access = Fault::Access::kTableEntry, .kva = kva, .gpa = {}, .size = kEntryBytes};
  const auto failed = [&fault](Fault::Kind kind) {
    fault.kind = kind;
    return std::unexpected(fault);
  };
  if (!canonical(kva)) {
    fault.access = Fault::Access::kData;
    fault.size = 1;
    return failed(Fault::Kind::kNotCanonical);
  }
  if ((root_.value() & ~low_bits(physical_bits_)) != 0) {
    fault.gpa = root_;
    return failed(Fault::Kind::kReservedBit);
  }

  Gpa table = root_;
  for (std::uint32_t level = static_cast<std::uint32_t>(levels_); level > 0; --level) {
    const std::uint32_t shift = shift_of(level);
    const Gpa place = table + (kva.value() >> shift & low_bits(kIndexBits)) * kEntryBytes;
    fault.level = level;
    fault.gpa = place;
    const auto entry = memory.read<std::uint64_t>(place, budget);
    if (!entry) return failed(entry.error().kind);
    fault.entry = *entry;
    if ((*entry & kPresent) == 0) return failed(Fault::Kind::kNotMapped);

    const bool page_size_set = (*entry & kPageSize) != 0;
    const bool is_page = level == 1 || (page_size_set && level <= kLargestPageLevel);
    std::uint64_t reserved = beyond_width();
    if (level > kLargestPageLevel) reserved |= kPageSize;
    if (is_page) reserved |= low_bits(shift) & kAddressField & ~kLargePagePat;
    if ((*entry & reserved) != 0) return failed(Fault::Kind::kReservedBit);

    if (is_page) {
      const std::uint64_t offset = kva.value() & low_bits(shift);
      const std::uint64_t page = *entry & kAddressField & ~low_bits(shift);
      return Translation{.gpa = Gpa(page + offset),
                         .page_size = low_bits(shift) + 1,
                         .bytes_left = low_bits(shift) + 1 - offset};
    }
    table = Gpa(*entry & kAddressField);
  }
  // Not reached: an entry at level 1 is a page or a fault.
  return failed(Fault::Kind::kNotMapped);
}

}  // namespace ktstr
