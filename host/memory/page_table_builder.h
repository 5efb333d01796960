// PageTableBuilder: page tables in a MockMemory, for tests.
#pragma once

#include <cstdint>

#include "host/memory/address.h"
#include "host/memory/mock_memory.h"
#include "host/memory/page_table_walk.h"

namespace ktstr {

class PageTableBuilder {
 public:
  // Sizes of pages; the value is the level of the entry that maps one.
  enum class Page : std::uint32_t { k4KiB = 1, k2MiB = 2, k1GiB = 3 };

  static constexpr std::uint64_t kTableBytes = 4096;
  // Bits of an entry: present, writable, accessed, dirty.
  static constexpr std::uint64_t kUsual = 0x63;
  static constexpr std::uint64_t kNoExecute = std::uint64_t{1} << 63;

  // Tables are laid down in `memory` from `first_table` on, one page each as they are needed, the root first.
  // That place must be RAM already, large enough, and not used for anything else. `memory` must outlive this.
  PageTableBuilder(MockMemory& memory, Gpa first_table, PagingLevels levels);

  // Maps one page. `kva` and `gpa` are multiples of its size. `flags` are the bits of the last entry beside
  // address and PS; the tables above have kUsual. Must not go through a page that is mapped larger.
  void map(Kva kva, Gpa gpa, Page page = Page::k4KiB, std::uint64_t flags = kUsual);

  // Where the entry of `level` (1 to 5) for `kva` is stored, for tests that damage it; the tables down to
  // that level are made if they are missing.
  Gpa entry_place(Kva kva, std::uint32_t level);

  Gpa root() const { return root_; }
  PageTableWalk walk(std::uint32_t physical_bits = PageTableWalk::kMaxPhysicalBits) const {
    return PageTableWalk(root_, levels_, physical_bits);
  }

 private:
  MockMemory& memory_;
  Gpa root_;
  Gpa next_table_;
  PagingLevels levels_;
};

}  // namespace ktstr
