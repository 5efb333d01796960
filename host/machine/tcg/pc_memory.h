// Where QEMU's `pc` machine puts guest RAM.
//
// A PC has a hole below 4 GiB for devices, APICs and firmware. The i440fx machine keeps RAM in one piece
// while it is smaller than 3.5 GiB. From 3.5 GiB on it splits at 3 GiB, so that both pieces are whole
// gigabytes and can be mapped with large pages; the rest goes to 4 GiB and up (QEMU hw/i386/pc_piix.c,
// pc_init1, "gigabyte_align"). Between 1012 GiB and 1 TiB lies AMD's HyperTransport hole, round which QEMU
// moves RAM; kMaxTcgMemory stays well below.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/error.h"
#include "host/machine/machine.h"
#include "host/machine/ram_layout.h"

namespace ktstr {

inline constexpr std::uint64_t kMinTcgMemory = 64 * kMiB;
inline constexpr std::uint64_t kMaxTcgMemory = 512 * kGiB;

// Where the nodes' memory, laid end to end, comes to lie; ascending by address.
std::vector<RamPiece> pc_ram_layout(std::span<const std::uint64_t> node_bytes);

// Whether the machine can have this much memory and this topology. Errors: kUsage for a topology with a zero
// or with more nodes than LLCs, for memory that is no whole number of MiB or below kMinTcgMemory; kHost for
// more vCPUs than the machine type's 255, for a topology whose APIC ids leave 8 bits (they are bit fields, so
// 3 cores take the room of 4), for a node's latency and bandwidth, for memory-only nodes before others, or
// for memory above kMaxTcgMemory.
Expected<void> check_pc_limits(const BootSpec& spec);

}  // namespace ktstr
