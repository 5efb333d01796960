// Addresses of the guest, as types: a physical and a virtual address can be neither mixed up nor taken for a
// number.
//
// Arithmetic wraps at 2^64, as the kernel's own does (container_of on a null pointer, per-CPU offsets that
// are larger than the address they are added to). Whether the result is a place that can be read is for the
// reader to find out.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

#include <fmt/format.h>

namespace ktstr {

// An address in one address space; `Space` is only a tag. Layout: eight bytes, little-endian like the
// guest's, so that memory can be read as an Address.
template <typename Space>
class Address {
 public:
  constexpr Address() = default;
  constexpr explicit Address(std::uint64_t value) : value_(value) {}

  constexpr std::uint64_t value() const { return value_; }

  constexpr auto operator<=>(const Address&) const = default;

  constexpr Address& operator+=(std::uint64_t bytes) {
    value_ += bytes;
    return *this;
  }
  friend constexpr Address operator+(Address address, std::uint64_t bytes) {
    return Address(address.value_ + bytes);
  }
  friend constexpr Address operator-(Address address, std::uint64_t bytes) {
    return Address(address.value_ - bytes);
  }
  // Bytes from `from` up to `to`; wraps when `to` is below.
  friend constexpr std::uint64_t operator-(Address to, Address from) { return to.value_ - from.value_; }

 private:
  std::uint64_t value_ = 0;
};

struct GuestPhysicalSpace {};
struct KernelVirtualSpace {};

// Guest-physical address: what the guest's page tables lead to.
using Gpa = Address<GuestPhysicalSpace>;
// Virtual address in the guest kernel's address space.
using Kva = Address<KernelVirtualSpace>;

}  // namespace ktstr

// "0xffff888000001000"
template <typename Space>
struct fmt::formatter<ktstr::Address<Space>> {
  constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
  template <typename Context>
  auto format(ktstr::Address<Space> address, Context& context) const {
    return fmt::format_to(context.out(), "{:#x}", address.value());
  }
};

template <typename Space>
struct std::hash<ktstr::Address<Space>> {
  std::size_t operator()(ktstr::Address<Space> address) const noexcept {
    return std::hash<std::uint64_t>()(address.value());
  }
};
