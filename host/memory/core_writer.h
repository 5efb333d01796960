// Writes guest memory as an ELF core that core_file.h, drgn and crash(8) read.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"
#include "host/memory/core_file.h"
#include "host/memory/guest_memory.h"

namespace ktstr {

struct PhysicalRange {
  Gpa gpa;
  std::uint64_t size = 0;
};

struct CoreContents {
  // RAM to write; must be readable all over. Ascending and without overlap.
  std::vector<PhysicalRange> ranges;
  // One for each vCPU. Where cr3 is set, a QEMU note is written beside the NT_PRSTATUS.
  std::vector<VcpuRegistersOfCore> vcpus;
  // The text of the kernel's VMCOREINFO note; empty: no note. drgn needs it, crash uses it.
  std::string_view vmcoreinfo;
  // Start of the direct map (page_offset_base): p_vaddr is this plus the physical address.
  Kva direct_map;
};

// Pages of zeros become holes of the file, so it takes as much of the disk as the guest has used memory.
// Written under another name first and renamed when complete. Error kHost: it cannot be written (disk full,
// ...), or memory cannot be read; nothing is left then. Error kUsage: more ranges than an ELF header can
// count.
Expected<> write_core(const std::string& path, const GuestMemory& memory, const CoreContents& contents);

}  // namespace ktstr
