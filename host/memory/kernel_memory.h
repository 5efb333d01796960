// KernelMemory: reads at the kernel's virtual addresses.
//
// Two parts of the kernel's address space are plain shifts of physical memory
// (Documentation/arch/x86/x86_64/mm.rst):
//
//   - the direct map, all of physical memory at page_offset_base (randomised where the kernel is built so).
//   Slab
//     objects, hence most of what is worth reading, lie there;
//   - the kernel image, at physical address = virtual address - __START_KERNEL_map + phys_base. phys_base is
//     "where the image was loaded, less where it was linked" and takes the virtual slide with it, so it is
//     negative whenever the image was moved further up in virtual than in physical memory.
//
// All else (vmalloc, so kernel stacks and BPF maps; modules; the struct page array; per-CPU areas on some
// machines) goes through the page tables. The shifts are no mere optimisation: they still work when the
// tables are damaged, and the tables themselves are found by them.
//
// Translations are remembered, since walkers come back to the same pages. The memory is only as true as the
// tables are: drop_translations() before reading from a guest that has run since.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "host/memory/address.h"
#include "host/memory/fault.h"
#include "host/memory/guest_memory.h"
#include "host/memory/kernel_reader.h"
#include "host/memory/page_table_walk.h"
#include "host/memory/read_budget.h"

namespace ktstr {

// Where things are in the kernel's address space. Whatever is absent is translated by page tables.
struct KernelLayout {
  // The direct map: physical address 0 is at `base`.
  struct DirectMap {
    Kva base;                // the value of the variable page_offset_base, or the constant PAGE_OFFSET
    std::uint64_t size = 0;  // up to the end of the highest RAM
  };
  // The kernel image, [begin, begin + size), without the modules that follow it.
  struct Image {
    Kva begin;                       // _text, slide included
    std::uint64_t size = 0;          // _end - _text
    Kva map_base;                    // __START_KERNEL_map: 0xffffffff80000000
    std::int64_t physical_base = 0;  // phys_base, as VMCOREINFO's NUMBER(phys_base) has it
  };

  std::optional<DirectMap> direct_map;
  std::optional<Image> image;
  // From init_top_pgt; a vCPU's CR3 is good for a start only, under PTI it may lack the kernel.
  std::optional<PageTableWalk> page_tables;
};

// Not for use by several threads at once: reads fill the cache.
class KernelMemory : public KernelReader {
 public:
  KernelMemory(GuestMemory memory, const KernelLayout& layout);

  // Copies out.size() bytes from `kva` on, over page boundaries. After a fault, which names the first byte
  // that could not be read, the contents of `out` are unspecified. Faults: all kinds.
  FaultOr<> read(Kva kva, std::span<std::byte> out, ReadBudget& budget) override;

  using KernelReader::read;

  // The bytes before the first zero, looking at no more than `limit` bytes.
  FaultOr<GuestString> read_c_string(Kva kva, std::size_t limit, ReadBudget& budget) override;

  // The physical address behind `kva`. That it is RAM is not said.
  FaultOr<Gpa> translate(Kva kva, ReadBudget& budget);

  // Forgets all translations: the guest has run, its tables may have changed.
  void drop_translations();

  const GuestMemory& physical() const { return memory_; }
  const KernelLayout& layout() const { return layout_; }

 private:
  // Physical memory that goes on contiguously for `size` bytes, at least one.
  struct Run {
    Gpa gpa;
    std::uint64_t size = 0;
  };
  // One page of 4 KiB, whatever the size of the page that it is part of.
  struct CachedPage {
    std::uint64_t page = kNoPage;  // virtual page number
    Gpa gpa;
  };
  // No virtual page has this number: they have 52 bits.
  static constexpr std::uint64_t kNoPage = ~std::uint64_t{0};
  static constexpr std::size_t kCachedPages = 256;

  FaultOr<Run> locate(Kva kva, ReadBudget& budget);
  std::optional<Run> locate_by_shift(Kva kva) const;

  GuestMemory memory_;
  KernelLayout layout_;
  std::array<CachedPage, kCachedPages> cache_;
};

}  // namespace ktstr
