// Where the symbols of a kernel come from.
//
// There are three sources. A vmlinux with its symbol table has everything; a System.map is made from it and
// has as much; the kallsyms embedded in the image are always of the right build and nearly always there, but
// a kernel without CONFIG_KALLSYMS_ALL has only functions in them: then they are completed with what else the
// image tells (image_symbols.h), and some of its data cannot be found. The first two are files beside the
// image that may belong to another build, so they are believed only after they were compared with the image.
//
//     auto symbols = find_symbols(*kernel);
//     auto root = symbols->table.address("scx_root");
//     // symbols->table.origin() says where that comes from
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"
#include "host/kernel/elf_view.h"
#include "host/kernel/kernel_image.h"
#include "host/kernel/symbol_table.h"

namespace ktstr {

// Files that the user named; empty when he did not.
struct SymbolFiles {
  std::string vmlinux;
  std::string system_map;
};

struct KernelSymbols {
  SymbolTable table;
  // Why each better source was not used, one sentence each: "'/boot/System.map-7.2' is a stub: ...".
  std::vector<std::string> passed_over;
};

// The symbols of the image: from the image itself when it is a vmlinux with a symbol table, else from a
// vmlinux, a System.map, or the embedded kallsyms. A file that lies beside the image and does not belong to
// it is passed over; one that the user named is an error kUsage, which says how it differs (with both build
// ids where it is a vmlinux). Error kKernelLacks when no source is left, with the reason for each.
Expected<KernelSymbols> find_symbols(const KernelImage& image, const SymbolFiles& named = {});

// The ELF symbol table (.symtab). Error kUsage (beginning with `what`) when there is none or it is damaged.
Expected<SymbolTable> read_elf_symbols(const ElfView& elf, std::string_view what);

// Largest System.map that is read, bytes; a distribution's has 8 MB.
inline constexpr std::size_t kMaxSystemMap = std::size_t{128} << 20;

// A System.map: lines of address, type and name. `extent` is where the kernel lies. Error kUsage (beginning
// with `what`) when it is a stub, cut off, or no System.map.
Expected<SymbolTable> read_system_map(std::string_view text, AddressRange extent, std::string_view what);

// Compares a table with the kernel it should belong to: with `own`, what the kernel's kallsyms say (nullptr
// when there are none; thousands of symbols spread over the kernel are compared), and with the places of
// sections and the banner in its image. Error kUsage when any of these differ, or when there is too little to
// compare.
Expected<> check_symbols(const SymbolTable& table, const ElfView& elf, const SymbolTable* own);

}  // namespace ktstr
