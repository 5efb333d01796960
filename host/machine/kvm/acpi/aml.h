// ACPI machine language, as much of it as a DSDT of named constants and devices needs (ACPI 6.5, chapter
// 20). Every function returns the bytes of one term; terms are concatenated and wrapped in others.
//
// Three oddities of the encoding: a name is exactly four characters, padded with '_'; a term that holds
// others begins with its own length, which counts its own one to four bytes; a hardware id such as
// "PNP0501" is a compressed 32-bit number in big-endian order, whereas "LNRO0005" has four letters and so can
// only be a string.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

namespace ktstr::kvm::aml {

using Bytes = std::vector<std::byte>;

Bytes concat(std::initializer_list<Bytes> terms);

// PkgLength: the length of `content_size` bytes together with its own encoding. At most 2^28 - 1 in all.
Bytes package_length(std::size_t content_size);

// Shortest encoding of an integer.
Bytes integer(std::uint64_t value);
Bytes string(std::string_view text);
// EISA id: three capital letters and four hexadecimal digits.
Bytes eisa_id(std::string_view id);
Bytes package(std::initializer_list<std::uint64_t> integers);

// `name`: one to four characters, or a root path such as "\_S5" with its backslash.
Bytes name_string(std::string_view name);
// Name (name, value)
Bytes name(std::string_view name, const Bytes& value);
Bytes device(std::string_view name, const Bytes& content);
Bytes scope(std::string_view name, const Bytes& content);

// ResourceTemplate () { ... } of resource descriptors (ACPI 6.5, 6.4), which end with an end tag.
Bytes resource_template(std::initializer_list<Bytes> descriptors);
Bytes memory32_fixed(std::uint32_t base, std::uint32_t size);
// IO (Decode16, port, port, 1, count)
Bytes io_ports(std::uint16_t port, std::uint8_t count);
// Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { gsi }
Bytes edge_interrupt(std::uint32_t gsi);

}  // namespace ktstr::kvm::aml
