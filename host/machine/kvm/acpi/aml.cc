#include "host/machine/kvm/acpi/aml.h"

#include <cctype>
#include <string>

#include "host/machine/kvm/acpi/table_writer.h"

namespace ktstr::kvm::aml {
namespace {

// Opcodes (ACPI 6.5, 20.3).
constexpr std::uint8_t kZeroOp = 0x00;
constexpr std::uint8_t kOneOp = 0x01;
constexpr std::uint8_t kNameOp = 0x08;
constexpr std::uint8_t kBytePrefix = 0x0a;
constexpr std::uint8_t kWordPrefix = 0x0b;
constexpr std::uint8_t kDwordPrefix = 0x0c;
constexpr std::uint8_t kStringPrefix = 0x0d;
constexpr std::uint8_t kQwordPrefix = 0x0e;
constexpr std::uint8_t kScopeOp = 0x10;
constexpr std::uint8_t kBufferOp = 0x11;
constexpr std::uint8_t kPackageOp = 0x12;
constexpr std::uint8_t kExtOpPrefix = 0x5b;
constexpr std::uint8_t kDeviceOp = 0x82;  // after the prefix

// Resource descriptors (ACPI 6.5, 6.4.2 and 6.4.3): small ones have their length in the tag.
constexpr std::uint8_t kIoPortTag = 0x47;
constexpr std::uint8_t kEndTag = 0x79;
constexpr std::uint8_t kMemory32FixedTag = 0x86;
constexpr std::uint8_t kExtendedInterruptTag = 0x89;
constexpr std::uint8_t kDecode16 = 1;
constexpr std::uint8_t kReadWrite = 1;
constexpr std::uint8_t kConsumer = 1U << 0;
constexpr std::uint8_t kEdgeTriggered = 1U << 1;  // active high and exclusive are zeros

Bytes byte(std::uint8_t value) {
  return {std::byte{value}};
}

Bytes with_length(const Bytes& opcode, const Bytes& content) {
  return concat({opcode, package_length(content.size()), content});
}

std::uint32_t hex_digit(char c) {
  const auto upper = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return static_cast<std::uint32_t>(upper <= '9' ? upper - '0' : upper - 'A' + 10);
}

}  // namespace

Bytes concat(std::initializer_list<Bytes> terms) {
  Bytes all;
  for (const Bytes& term : terms) all.insert(all.end(), term.begin(), term.end());
  return all;
}

Bytes package_length(std::size_t content_size) {
  // One byte holds six bits; more bytes hold four bits in the first and eight in each other one.
  if (content_size + 1 < 64) return byte(static_cast<std::uint8_t>(content_size + 1));
  unsigned more = 1;
  while (content_size + 1 + more >= std::size_t{1} << (4 + 8 * more)) ++more;
  const std::size_t length = content_size + 1 + more;
  TableWriter out;
  out.u8(static_cast<std::uint8_t>(more << 6 | (length & 0xf)));
  for (unsigned i = 0; i < more; ++i) out.u8(static_cast<std::uint8_t>(length >> (4 + 8 * i)));
  return std::move(out).take();
}

Bytes integer(std::uint64_t value) {
  TableWriter out;
  if (value == 0) {
    out.u8(kZeroOp);
  } else if (value == 1) {
    out.u8(kOneOp);
  } else if (value <= 0xff) {
    out.u8(kBytePrefix).u8(static_cast<std::uint8_t>(value));
  } else if (value <= 0xffff) {
    out.u8(kWordPrefix).u16(static_cast<std::uint16_t>(value));
  } else if (value <= 0xffffffff) {
    out.u8(kDwordPrefix).u32(static_cast<std::uint32_t>(value));
  } else {
    out.u8(kQwordPrefix).u64(value);
  }
  return std::move(out).take();
}

Bytes string(std::string_view text) {
  TableWriter out;
  out.u8(kStringPrefix).text(text).u8(0);
  return std::move(out).take();
}

Bytes eisa_id(std::string_view id) {
  // Letters are five bits each ('A' is 1), digits four; the number is stored with its highest byte first.
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < 3; ++i) value = value << 5 | static_cast<std::uint32_t>(id[i] - '@');
  for (std::size_t i = 3; i < 7; ++i) value = value << 4 | hex_digit(id[i]);
  return integer(__builtin_bswap32(value));
}

Bytes package(std::initializer_list<std::uint64_t> integers) {
  Bytes content = byte(static_cast<std::uint8_t>(integers.size()));
  for (const std::uint64_t value : integers) {
    const Bytes term = integer(value);
    content.insert(content.end(), term.begin(), term.end());
  }
  return with_length(byte(kPackageOp), content);
}

Bytes name_string(std::string_view name) {
  std::string padded(name);
  const std::size_t root = name.starts_with('\\') ? 1 : 0;
  padded.resize(root + 4, '_');
  TableWriter out;
  out.text(padded);
  return std::move(out).take();
}

Bytes name(std::string_view name, const Bytes& value) {
  return concat({byte(kNameOp), name_string(name), value});
}

Bytes device(std::string_view name, const Bytes& content) {
  return with_length(concat({byte(kExtOpPrefix), byte(kDeviceOp)}), concat({name_string(name), content}));
}

Bytes scope(std::string_view name, const Bytes& content) {
  return with_length(byte(kScopeOp), concat({name_string(name), content}));
}

Bytes resource_template(std::initializer_list<Bytes> descriptors) {
  // A checksum of 0 in the end tag means "do not look".
  const Bytes resources = concat({concat(descriptors), byte(kEndTag), byte(0)});
  return with_length(byte(kBufferOp), concat({integer(resources.size()), resources}));
}

Bytes memory32_fixed(std::uint32_t base, std::uint32_t size) {
  TableWriter out;
  out.u8(kMemory32FixedTag).u16(9).u8(kReadWrite).u32(base).u32(size);
  return std::move(out).take();
}

Bytes io_ports(std::uint16_t port, std::uint8_t count) {
  TableWriter out;
  out.u8(kIoPortTag).u8(kDecode16).u16(port).u16(port).u8(1).u8(count);
  return std::move(out).take();
}

Bytes edge_interrupt(std::uint32_t gsi) {
  TableWriter out;
  out.u8(kExtendedInterruptTag).u16(6).u8(kConsumer | kEdgeTriggered).u8(1).u32(gsi);
  return std::move(out).take();
}

}  // namespace ktstr::kvm::aml
