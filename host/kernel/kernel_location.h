// KernelLocation: where the kernel runs, found from outside.
//
// A kernel is linked for one address and, with KASLR, runs at another. Three numbers tell all of it:
//
//   - the slide: what was added to every link-time address. A multiple of 2 MiB below 1 GiB.
//   - phys_base: physical address = virtual address - __START_KERNEL_map + phys_base, for addresses in the
//     image. Virtual and physical place are chosen independently, and the virtual address has the slide in
//     it, so phys_base is signed: 0xffffffffeb000000 was seen.
//   - page_offset_base: where the direct map of all physical memory begins.
//
// Witnesses of the slide, as far as they are there:
//
//   - the IDT. Gates 0 and 14 hold the addresses of asm_exc_divide_error and asm_exc_page_fault. The IDT is
//     mapped in both halves of page-table isolation, so it can be read wherever a vCPU stopped. In early boot
//     a vCPU has other IDTs, one of them with the final limit but stub gates: only limit 0xfff with both
//     gates agreeing counts, so the witness appears by itself some 0.2 to 0.6 s after the first message;
//   - MSR LSTAR, the address of entry_SYSCALL_64, where the accelerator tells it (kvm);
//   - VMCOREINFO's KERNELOFFSET, once the guest has told where the note is;
//   - a known address of _text.
//
// Those that are there must agree. phys_base follows from translating _text: by a CR3 where a vCPU is in the
// kernel half (bit 12 of CR3 selects the user half under page-table isolation, which lacks the kernel), or is
// said by VMCOREINFO. Then everything is verified against the guest's memory: translating by init_top_pgt
// must give the same places, the variable phys_base must have the same value, and the banner and whatever
// bytes of the image the caller gives must be there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/error.h"
#include "host/kernel/symbol_table.h"
#include "host/kernel/vmcoreinfo.h"
#include "host/memory/address.h"
#include "host/memory/guest_memory.h"
#include "host/memory/kernel_memory.h"
#include "host/memory/page_table_walk.h"

namespace ktstr {

// __START_KERNEL_map: where the image's part of the address space begins.
inline constexpr Kva kStartKernelMap{0xffffffff80000000};

// What a vCPU's registers say.
struct VcpuWitness {
  std::uint64_t cr3 = 0;
  std::uint64_t cr4 = 0;
  std::uint64_t idt_base = 0;
  std::uint32_t idt_limit = 0;
  std::optional<std::uint64_t> lstar;  // where the machine can tell
};

// Bytes of the kernel image that must be found in the guest. Read-only data is good for that; text is not,
// the kernel patches its own.
struct ImageBytes {
  std::uint64_t address = 0;  // link-time
  std::span<const std::byte> bytes;
};

// All references must outlive the call.
struct KernelClues {
  const GuestMemory& memory;
  const SymbolTable& symbols;
  std::span<const VcpuWitness> vcpus;      // by CPU number; those that were not stopped are left zero
  const Vmcoreinfo* vmcoreinfo = nullptr;  // optional
  std::optional<Kva> text;                 // where _text runs, if that is known
  std::span<const ImageBytes> expected;    // may be empty
  std::uint32_t physical_bits = PageTableWalk::kMaxPhysicalBits;
};

struct KernelLocation {
  std::uint64_t slide = 0;         // link-time address + slide = address in the guest
  std::int64_t physical_base = 0;  // phys_base
  PagingLevels levels = PagingLevels::kFour;
  Kva page_offset_base;
  Gpa init_top_pgt;  // physical address of the kernel's own top page table
  // How it was found, one sentence: "the IDT of vCPU 0 and VMCOREINFO agree on the slide; ...".
  std::string evidence;

  Kva kva(std::uint64_t link_address) const { return Kva(link_address + slide); }
  // Of an address in the image.
  Gpa gpa(Kva kva) const { return Gpa(kva - kStartKernelMap + static_cast<std::uint64_t>(physical_base)); }

  bool operator==(const KernelLocation&) const = default;
};

// Finds and verifies. Errors: kNoBoot when no witness is usable yet, because the kernel has not come far
// enough (the message says what each lacks); kKernelLacks when a symbol is missing; kUsage when witnesses
// disagree, or the guest's memory is not that of this kernel (the message names both).
Expected<KernelLocation> find_kernel(const KernelClues& clues);

// The layout to read that kernel with. `ram_end` is the end of the highest RAM: the size of the direct map.
// Error kKernelLacks when the symbols _text and _end are missing or do not delimit an image.
Expected<KernelLayout> make_layout(const KernelLocation& location, const SymbolTable& symbols, Gpa ram_end,
                                   std::uint32_t physical_bits = PageTableWalk::kMaxPhysicalBits);

}  // namespace ktstr
