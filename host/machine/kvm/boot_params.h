// What a boot loader leaves in guest RAM for the kernel: boot_params (the "zero page") with the e820 map, the
// command line, the initramfs; and what the 64-bit entry needs to run at all: page tables and a GDT.
#pragma once

#include <cstdint>
#include <string_view>

#include "common/error.h"
#include "host/machine/kvm/guest_ram.h"
#include "host/machine/kvm/kernel_loader.h"

namespace ktstr::kvm {

struct BootFiles {
  std::string_view command_line;
  int initramfs = -1;  // descriptor; -1: none
  std::uint64_t initramfs_size = 0;
};

// Errors: kUsage when the command line is too long for the kernel or the initramfs does not fit beside it;
// kHost.
Expected<void> write_boot_params(GuestRam& ram, const LoadedKernel& kernel, const BootFiles& files);

// An identity map of the first 4 GiB in 2 MiB pages at kPageTablesGpa, and a flat GDT at kGdtGpa whose
// selectors are
// __BOOT_CS and __BOOT_DS.
inline constexpr std::uint16_t kBootCs = 0x10;
inline constexpr std::uint16_t kBootDs = 0x18;
inline constexpr std::uint16_t kGdtEntries = 4;
void write_entry_tables(GuestRam& ram);

}  // namespace ktstr::kvm
