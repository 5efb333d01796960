// The symbols that a kernel has of itself (CONFIG_KALLSYMS), decoded from its image. How the tables look and
// how they are found is told in kallsyms_decoder.cc.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "common/error.h"
#include "host/kernel/elf_view.h"
#include "host/kernel/symbol_table.h"

namespace ktstr {

// How kallsyms_offsets gives addresses (kernel/kallsyms.c, kallsyms_sym_address()).
enum class KallsymsFormat {
  kAbsolutePercpu,  // 6.12 to 6.14 on SMP: s32, absolute when >= 0, else relative_base - 1 - offset
  kRelativeBase,    // to 6.19: relative_base + u32
  kPcRelative,      // from 7.0: the address of the table's own entry + s32
};

// "relative base", ..., for messages and tests.
std::string_view kallsyms_format_name(KallsymsFormat format);

// The tables inside an image; everything refers to the image and has been checked to lie in it.
struct KallsymsTables {
  std::uint32_t count = 0;                   // symbols
  std::span<const std::byte> names;          // `count` compressed names; whole, each inside
  std::array<std::string_view, 256> tokens;  // what a byte of a compressed name stands for
  std::span<const std::byte> offsets;        // `count` 32-bit values
  std::uint64_t offsets_address = 0;         // link-time address of `offsets`
  KallsymsFormat format = KallsymsFormat::kRelativeBase;
  std::uint64_t relative_base = 0;  // 0 for kPcRelative
};

// Finds the tables. Error kKernelLacks (beginning with `what`) when there are none, or those found are
// damaged; the message says how far the search came.
Expected<KallsymsTables> find_kallsyms(const ElfView& elf, std::string_view what);

// Finds and decodes them: some 20 ms for the 200,000 symbols of a distribution's kernel. `what` names the
// image in messages and in the table's origin().
Expected<SymbolTable> decode_kallsyms(const ElfView& elf, std::string_view what);

// What SymbolTable::origin() says of them.
std::string kallsyms_origin(std::string_view what);

}  // namespace ktstr
