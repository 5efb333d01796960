// Bytes of one ACPI table, little-endian, with the header that all tables but the RSDP begin with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace ktstr::kvm {

// The common header's length (ACPI 6.5, 5.2.6).
inline constexpr std::size_t kAcpiHeaderSize = 36;

// What makes the sum of all bytes 0 modulo 256, ACPI's checksum.
std::uint8_t acpi_checksum(std::span<const std::byte> bytes);

// A generic address structure (ACPI 6.5, 5.2.3.2) is 12 bytes; this is the one of a byte-wide I/O port.
struct AcpiIoPort {
  std::uint16_t port = 0;
};

class TableWriter {
 public:
  // Begins a table: `signature` has four characters, `revision` as the specification has it.
  TableWriter(std::string_view signature, std::uint8_t revision);
  // Begins something without the common header: the RSDP, a piece of AML.
  TableWriter() = default;

  TableWriter& u8(std::uint8_t value);
  TableWriter& u16(std::uint16_t value);
  TableWriter& u32(std::uint32_t value);
  TableWriter& u64(std::uint64_t value);
  TableWriter& zeros(std::size_t count);
  TableWriter& text(std::string_view characters);
  TableWriter& bytes(std::span<const std::byte> more);
  // `port` 0: a register that does not exist, 12 zeros.
  TableWriter& io_port(AcpiIoPort port);

  std::size_t size() const { return bytes_.size(); }
  // What was written, as it is.
  std::vector<std::byte> take() && { return std::move(bytes_); }
  // The whole table, its length and checksum filled in.
  std::vector<std::byte> finish() &&;

 private:
  TableWriter& little_endian(std::uint64_t value, unsigned count);

  std::vector<std::byte> bytes_;
};

}  // namespace ktstr::kvm
