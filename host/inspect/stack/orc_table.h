// OrcTable: how to find the caller of any place in the kernel's text.
//
// Kernels built with CONFIG_UNWINDER_ORC carry two tables of equal length
// (Documentation/arch/x86/orc-unwinder.rst, arch/x86/include/asm/orc_types.h). `.orc_unwind_ip` has, in
// ascending order, the address where a rule begins, as a signed 32-bit distance from the table's own word;
// `.orc_unwind` has the rules, six bytes each: where the stack pointer of the caller is, as a register plus
// an offset, the same for rbp, and what lies there (a return address, a whole pt_regs, the end).
//
// The numbers of the registers have changed once (6.12 has SP = 5, 7.2 has SP = 3). Sections carry a hash of
// the header they were built with, which tells builds apart but not which numbering; the rules themselves do:
// of some half a million nearly all are based on SP, and their rbp is saved relative to PREV_SP.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "common/error.h"
#include "host/kernel/elf_view.h"

namespace ktstr {

struct OrcRule {
  enum class Register : std::uint8_t {
    kUndefined,
    kPrevSp,
    kAx,
    kDx,
    kDi,
    kBp,
    kSp,
    kR10,
    kR13,
    kSpIndirect,
    kBpIndirect,
    kUnknown,
  };
  enum class Type : std::uint8_t { kUndefined, kEndOfStack, kCall, kRegs, kRegsPartial, kUnknown };

  std::int16_t sp_offset = 0;
  std::int16_t bp_offset = 0;
  Register sp_register = Register::kUndefined;
  Register bp_register = Register::kUndefined;
  Type type = Type::kUndefined;
  bool signal = false;  // entry code: the address found is that of an instruction, not of a return

  bool operator==(const OrcRule&) const = default;
};

// Refers to the bytes of the image, which must outlive it.
class OrcTable {
 public:
  // Rules that are accepted; a distribution's kernel has about 500,000.
  static constexpr std::size_t kMaxRules = std::size_t{1} << 23;

  // Error kKernelLacks when the image has no ORC sections; kUsage (beginning with `what`) when they do not
  // fit together or are not sorted.
  static Expected<OrcTable> parse(const ElfView& elf, std::string_view what);

  // The rule for a link-time address; nullopt outside the range of the table.
  std::optional<OrcRule> find(std::uint64_t link_address) const;

  // Whether an address lies between the first rule and the last.
  bool covers(std::uint64_t link_address) const {
    return count_ != 0 && link_address >= first_ && link_address < last_;
  }
  std::size_t size() const { return count_; }
  // Whether the registers are numbered as in kernels before the change.
  bool old_numbering() const { return old_numbering_; }

 private:
  std::uint64_t begin_of(std::size_t index) const;
  void choose_numbering();

  std::span<const std::byte> ips_;
  std::span<const std::byte> rules_;
  std::uint64_t ips_address_ = 0;  // link-time address of the first word
  std::size_t count_ = 0;
  std::uint64_t first_ = 0;
  std::uint64_t last_ = 0;
  bool old_numbering_ = false;
};

}  // namespace ktstr
