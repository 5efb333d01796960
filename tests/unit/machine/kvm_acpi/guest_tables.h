// ACPI tables as a guest finds them: from the RSDP at the start of the area, through the XSDT.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "host/machine/kvm/acpi/acpi_tables.h"

namespace ktstr::kvm::testing {

using View = std::span<const std::byte>;

// Little-endian number of `size` bytes at `offset`; throws std::out_of_range beyond the end.
std::uint64_t number(View bytes, std::size_t offset, std::size_t size);
inline std::uint8_t u8(View bytes, std::size_t offset) {
  return static_cast<std::uint8_t>(number(bytes, offset, 1));
}
inline std::uint16_t u16(View bytes, std::size_t offset) {
  return static_cast<std::uint16_t>(number(bytes, offset, 2));
}
inline std::uint32_t u32(View bytes, std::size_t offset) {
  return static_cast<std::uint32_t>(number(bytes, offset, 4));
}
inline std::uint64_t u64(View bytes, std::size_t offset) {
  return number(bytes, offset, 8);
}
// Sum of all bytes modulo 256.
std::uint8_t byte_sum(View bytes);

// Signature to table, with the DSDT, which only the FADT points to. Fails the test when a checksum, a length
// or a pointer is wrong, or two tables overlap.
std::map<std::string, std::vector<std::byte>> guest_tables(const AcpiTables& tables);

// The entries of a MADT or SRAT (type and length in a byte each), from `offset` to the end.
std::vector<View> entries(View table, std::size_t offset);

// A machine with this topology and `mib` of memory, with two virtio devices.
struct Machine {
  CpuTopology topology;
  AcpiPlan plan;
  explicit Machine(CpuTopology shape, std::uint64_t mib = 1024);
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
};

// 2 nodes with CPUs and a memory-only one behind them, with HMAT data and own distances.
CpuTopology cxl_topology();

}  // namespace ktstr::kvm::testing
