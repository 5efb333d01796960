// The symbols of data in a kernel whose kallsyms have functions only (CONFIG_KALLSYMS_ALL=n).
//
// What else an image tells of its symbols is told in image_symbols.cc: exports, section boundaries, per-CPU
// variables, and what the kernel's own initialised data point to. Names that none of these have are not
// known; a table made here says so when it is asked for one (SymbolSource::kImage).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "host/kernel/btf.h"
#include "host/kernel/elf_view.h"
#include "host/kernel/symbol_table.h"

namespace ktstr {

// A symbol that the image tells of. The address is link-time; of a per-CPU variable what its symbol has too.
struct ImageSymbol {
  std::string name;
  std::uint64_t address = 0;

  bool operator==(const ImageSymbol&) const = default;
};

// Whether a table of kallsyms, which has one name for each thing in the kernel, has none for anything in its
// data.
bool has_functions_only(const SymbolTable& kallsyms, const ElfView& elf);

// Everything below has symbols in no order; what lies outside the kernel, or outside its section, is left
// out.

// What modules may use: the entries of __ksymtab and __ksymtab_gpl. `btf` may be nullptr: it tells how an
// entry looks.
std::vector<ImageSymbol> exported_symbols(const ElfView& elf, const Btf* btf);
// Variables that BTF places in a section of the image (BTF_KIND_DATASEC): per-CPU ones, and others where the
// kernel's build records them.
std::vector<ImageSymbol> btf_variables(const ElfView& elf, const Btf& btf);
// Symbols that the linker script puts at the boundaries of sections: _text, _end, __per_cpu_start, ...
std::vector<ImageSymbol> section_symbols(const ElfView& elf);
// init_mm and init_top_pgt: init_task.active_mm and its pgd, as they are initialised in the image.
// `init_task` is its link-time address.
std::vector<ImageSymbol> initialised_pointers(const ElfView& elf, const Btf& btf, std::uint64_t init_task);

// ext_sched_class, fair_sched_class and so on, which tell what class a task has: the structs sched_class in
// the image, by the functions that they point to. `functions` has these.
std::vector<ImageSymbol> scheduling_classes(const ElfView& elf, const Btf& btf, const SymbolTable& functions);

// `functions` with all of the above that it does not have. nearest() answers in the kernel's text, and
// elsewhere for the exact addresses of symbols only: the next one below an address in the data may be another
// variable's. `btf` may be nullptr. Error kKernelLacks when the table becomes too large.
Expected<SymbolTable> complete_symbols(const SymbolTable& functions, const ElfView& elf, const Btf* btf,
                                       std::string_view what);

// What SymbolTable::origin() says of such a table.
std::string image_origin(std::string_view what);

// The bytes of the file that are loaded at a link-time address; empty where it has fewer than `size` for it.
std::span<const std::byte> bytes_at(const ElfView& elf, std::uint64_t address, std::size_t size);

}  // namespace ktstr
