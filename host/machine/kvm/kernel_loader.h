// Puts a kernel into guest RAM, ready to be entered in 64-bit mode.
//
// Two kinds. The payload, an ELF whose program headers name physical addresses, is laid out as they say and
// entered at e_entry: startup_64 of arch/x86/kernel/head_64.S, which only wants long mode, an identity map
// and boot_params. A bzImage's protected-mode code goes to 1 MiB and up and is entered 0x200 behind its start
// (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"); it unpacks the payload itself, to a random place
// where KASLR is on.
#pragma once

#include <asm/bootparam.h>

#include <cstdint>

#include "common/error.h"
#include "host/machine/kvm/guest_ram.h"

namespace ktstr::kvm {

struct LoadedKernel {
  std::uint64_t entry = 0;           // guest-physical
  std::uint64_t start = 0, end = 0;  // RAM that the kernel takes before it knows of its own e820 map
  setup_header header = {};          // for boot_params: the image's own, or one made up for an ELF
};

// `file` is a payload ELF or a bzImage; KernelImage has validated it, but the guest's user has made it, so it
// is checked as any input is. Errors: kUsage when it cannot be loaded or does not fit into RAM; kHost.
Expected<LoadedKernel> load_kernel(GuestRam& ram, int file, bool is_elf);

}  // namespace ktstr::kvm
