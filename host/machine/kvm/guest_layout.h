// The guest-physical map of a kvm machine, and its interrupt lines. One place, because the boot code, the
// ACPI tables and the devices have to agree.
//
//   0x0000_0500  GDT                       only for entering the kernel, which makes its own
//   0x0000_7000  boot_params               "zero page", Documentation/arch/x86/boot.rst
//   0x0000_8ff0  stack                     the 64-bit entry needs none, the bzImage's decompressor has its
//   own 0x0000_9000  PML4, then PDPT, PD       identity map of the first 4 GiB in 2 MiB pages 0x0002_0000
//   kernel command line 0x000a_0000  end of low memory; up to 1 MiB is what a PC has its firmware in:
//   reserved 0x000e_0000  ACPI tables               the RSDP first, where a BIOS has it too 0x0010_0000  RAM
//   0xc000_0000  end of low RAM: devices
//   0xd000_0000  virtio-mmio windows, 4 KiB each
//   0xfec0_0000  I/O APIC
//   0xfee0_0000  local APICs
//   0xfffb_c000  identity map page of KVM (VMX real mode), then its TSS (KVM_SET_TSS_ADDR, three pages)
//   4 GiB        the rest of RAM
#pragma once

#include <cstdint>

namespace ktstr::kvm {

inline constexpr std::uint64_t kGdtGpa = 0x500;
inline constexpr std::uint64_t kBootParamsGpa = 0x7000;
inline constexpr std::uint64_t kBootStackGpa = 0x8ff0;
inline constexpr std::uint64_t kPageTablesGpa = 0x9000;
inline constexpr std::uint64_t kCommandLineGpa = 0x20000;
inline constexpr std::uint64_t kLowMemoryEnd = 0xa0000;
inline constexpr std::uint64_t kAcpiGpa = 0xe0000;
inline constexpr std::uint64_t kAcpiEnd = 0x100000;
inline constexpr std::uint64_t kHighMemoryGpa = 0x100000;
inline constexpr std::uint64_t kLowRamEnd = 0xc0000000;
inline constexpr std::uint64_t kVirtioMmioGpa = 0xd0000000;
inline constexpr std::uint64_t kVirtioMmioSize = 0x1000;
inline constexpr std::uint64_t kIoApicGpa = 0xfec00000;
inline constexpr std::uint64_t kLocalApicGpa = 0xfee00000;
inline constexpr std::uint64_t kIdentityMapGpa = 0xfffbc000;
inline constexpr std::uint64_t kTssGpa = 0xfffbd000;
inline constexpr std::uint64_t kHighRamGpa = std::uint64_t{1} << 32;

// I/O ports.
inline constexpr std::uint16_t kSerialPort = 0x3f8;  // COM1, eight ports
inline constexpr std::uint16_t kI8042Data = 0x60;
inline constexpr std::uint16_t kI8042Command = 0x64;
inline constexpr std::uint16_t kTrapPort = 0xf4;  // written by the traps that we put into kernel code
inline constexpr std::uint16_t kAcpiSleepControl = 0x600;  // sleep control register of hardware-reduced ACPI
inline constexpr std::uint16_t kAcpiSleepStatus = 0x601;
inline constexpr std::uint16_t kAcpiReset = 0x602;  // FADT's RESET_REG
inline constexpr std::uint8_t kAcpiResetValue = 0x5a;
inline constexpr std::uint8_t kAcpiSleepType5 = 5;  // SLP_TYP of \_S5

// Global system interrupts.
inline constexpr std::uint32_t kIoApicPins = 24;
inline constexpr std::uint32_t kSerialGsi = 4;
inline constexpr std::uint32_t kSciGsi = 9;
inline constexpr std::uint32_t kFirstVirtioGsi = 5;  // edge-triggered

}  // namespace ktstr::kvm
