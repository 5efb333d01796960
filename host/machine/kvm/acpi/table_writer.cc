#include "host/machine/kvm/acpi/table_writer.h"

namespace ktstr::kvm {
namespace {

constexpr std::size_t kLengthOffset = 4;
constexpr std::size_t kChecksumOffset = 9;

constexpr std::string_view kOemId = "KTSTR ";         // six characters
constexpr std::string_view kOemTableId = "KTSTRVM ";  // eight
constexpr std::string_view kCreatorId = "KTSV";       // four
constexpr std::uint32_t kOemRevision = 1;
constexpr std::uint32_t kCreatorRevision = 1;

constexpr std::uint8_t kSystemIo = 1;    // address space of a generic address structure
constexpr std::uint8_t kByteAccess = 1;  // access size of the same

}  // namespace

std::uint8_t acpi_checksum(std::span<const std::byte> bytes) {
  unsigned sum = 0;
  for (const std::byte b : bytes) sum += std::to_integer<unsigned>(b);
  return static_cast<std::uint8_t>(0U - sum);
}

TableWriter::TableWriter(std::string_view signature, std::uint8_t revision) {
  text(signature).u32(0).u8(revision).u8(0);
  text(kOemId).text(kOemTableId).u32(kOemRevision).text(kCreatorId).u32(kCreatorRevision);
}

TableWriter& TableWriter::little_endian(std::uint64_t value, unsigned count) {
  for (unsigned i = 0; i < count; ++i) bytes_.push_back(static_cast<std::byte>(value >> (8 * i)));
  return *this;
}

TableWriter& TableWriter::u8(std::uint8_t value) {
  return little_endian(value, 1);
}
TableWriter& TableWriter::u16(std::uint16_t value) {
  return little_endian(value, 2);
}
TableWriter& TableWriter::u32(std::uint32_t value) {
  return little_endian(value, 4);
}
TableWriter& TableWriter::u64(std::uint64_t value) {
  return little_endian(value, 8);
}

TableWriter& TableWriter::zeros(std::size_t count) {
  bytes_.insert(bytes_.end(), count, std::byte{0});
  return *this;
}

TableWriter& TableWriter::text(std::string_view characters) {
  return bytes(std::as_bytes(std::span(characters)));
}

TableWriter& TableWriter::bytes(std::span<const std::byte> more) {
  bytes_.insert(bytes_.end(), more.begin(), more.end());
  return *this;
}

TableWriter& TableWriter::io_port(AcpiIoPort port) {
  if (port.port == 0) return zeros(12);
  return u8(kSystemIo).u8(8).u8(0).u8(kByteAccess).u64(port.port);
}

std::vector<std::byte> TableWriter::finish() && {
  const std::size_t length = bytes_.size();
  for (unsigned i = 0; i < 4; ++i) bytes_[kLengthOffset + i] = static_cast<std::byte>(length >> (8 * i));
  bytes_[kChecksumOffset] = std::byte{acpi_checksum(bytes_)};
  return std::move(bytes_);
}

}  // namespace ktstr::kvm
