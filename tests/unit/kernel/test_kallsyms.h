// Kallsyms tables for tests, in each of the formats that kernels have.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "host/kernel/kallsyms_decoder.h"
#include "tests/unit/kernel/test_image.h"

namespace ktstr::test {

constexpr std::uint64_t kTextAddress = 0xffffffff81000000;  // where make_elf() puts the kernel

// Where the tables begin in what make_kallsyms() returns.
struct KallsymsLayout {
  std::size_t num_syms = 0;
  std::size_t names = 0;
  std::size_t markers = 0;
  std::size_t token_table = 0;
  std::size_t token_index = 0;
  std::size_t offsets = 0;
  std::size_t end = 0;
};

// The tables for `symbols` (sorted by address), to be placed at `address`.
std::string make_kallsyms(const std::vector<TestSymbol>& symbols, KallsymsFormat format,
                          std::uint64_t address, KallsymsLayout* layout = nullptr);

// 600 symbols in the kernel of make_elf(), and two per-CPU variables at their offsets when the format has
// such. Among them: "same", at two addresses; "_text"; "scx_work.isra.0" and its ".cold" part; a name of 300
// characters; "alias_a" and "alias_b" at one address.
std::vector<TestSymbol> many_symbols(KallsymsFormat format);

// make_elf() with many_symbols() in its .rodata.
std::string make_elf_with_kallsyms(KallsymsFormat format, ElfOptions options = {});

}  // namespace ktstr::test
