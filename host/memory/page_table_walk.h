// PageTableWalk: from a virtual address of the guest to a physical one, as the processor would do it.
//
// x86-64 translates 48 bits of a virtual address by four levels of tables, 57 bits by five (CR4.LA57). Each
// table is one page of 512 entries of eight bytes; nine bits of the address choose the entry at each level:
//
//      56     48 47     39 38     30 29     21 20     12 11         0
//     |  PML5   |  PML4   |  PDPT   |   PD    |   PT    |   offset   |
//       level 5   level 4   level 3   level 2   level 1
//
// The bits above are copies of the highest translated one (a canonical address). An entry that is present
// holds the physical address of the next table. At level 3 and 2 bit 7 (PS) makes it the address of a page
// instead, of 1 GiB and 2 MiB; at level 1 it always is one, of 4 KiB, and bit 7 means something else (PAT).
// In an entry:
//
//     0      present; if clear, the other 63 bits mean nothing to the processor (Linux keeps swap entries
//     there) 1-6    rights, cache control, accessed, dirty: of no interest to a reader 7      PS; must be
//     zero at level 5 and 4 8-11   global, free for software 12     PAT in a large page's entry; an address
//     bit otherwise 13-    address, up to the physical address width of the processor (36 to 52 bits). In a
//     large page's entry
//            the bits below the page size must be zero: 13-20 for 2 MiB, 13-29 for 1 GiB
//     -51    between that width and bit 51: must be zero
//     52-58  free for software; 59-62 protection key or free; 63 no-execute
//
// "Must be zero" means that the processor raises a page fault with the RSVD flag. Here it is a fault too: no
// kernel sets such bits, so tables that have them are damaged or are no tables at all, and what lies behind
// is not to be believed. (Intel SDM vol. 3A, 4.5 and tables 4-14 to 4-20; AMD64 APM vol. 2, 5.3.)
//
// Rights are ignored: a page the kernel may not write or execute can still be looked at. So is NX where
// EFER.NXE is off. Nested or encrypted (SME C-bit) tables are not ours: machines here never offer them.
//
// Tables come from a guest that may be corrupt. The walk makes as many steps as there are levels, whatever
// the entries say; an entry that points at its own table is nothing special (some systems do that on
// purpose). Each entry is copied once and judged by the copy.
#pragma once

#include <cstdint>

#include "host/memory/address.h"
#include "host/memory/fault.h"
#include "host/memory/guest_memory.h"
#include "host/memory/read_budget.h"

namespace ktstr {

// Levels of page tables: VMCOREINFO's NUMBER(pgtable_l5_enabled), or CR4.LA57 (bit 12) of a vCPU.
enum class PagingLevels : std::uint32_t { kFour = 4, kFive = 5 };

// Where a virtual address leads to.
struct Translation {
  Gpa gpa;
  std::uint64_t page_size = 0;   // 4 KiB, 2 MiB or 1 GiB
  std::uint64_t bytes_left = 0;  // from `gpa` to the end of the page, at least 1

  bool operator==(const Translation&) const = default;
};

class PageTableWalk {
 public:
  // The architecture's largest physical address width, for when the guest's own is not known.
  static constexpr std::uint32_t kMaxPhysicalBits = 52;

  // `root` is the physical address of the top table, or a CR3: its low 12 bits (PCID, cache control) are
  // ignored. `physical_bits` is what the guest sees in CPUID 80000008h EAX[7:0]; taken as 32 to 52.
  PageTableWalk(Gpa root, PagingLevels levels, std::uint32_t physical_bits = kMaxPhysicalBits);

  // Translates `kva` by tables in `memory`. Faults: kNotCanonical, kNotMapped, kReservedBit, kNotRam (a table
  // lies outside RAM), kBudget. Whether the page itself is RAM is found out by reading it.
  FaultOr<Translation> translate(const GuestMemory& memory, Kva kva, ReadBudget& budget) const;

  Gpa root() const { return root_; }
  PagingLevels levels() const { return levels_; }
  // Whether the processor could use `kva` at all with this number of levels.
  bool canonical(Kva kva) const;

 private:
  // The address bits of an entry or of CR3, and those of them that must be zero.
  std::uint64_t beyond_width() const;

  Gpa root_;
  PagingLevels levels_;
  std::uint32_t physical_bits_;
};

}  // namespace ktstr
