// SymbolTable: names and link-time addresses of the kernel's symbols.
//
// Addresses are those the kernel was linked for: where it runs, KASLR has added a slide to them. Symbols of
// per-CPU variables are offsets into the per-CPU area in kernels whose per-CPU section is linked at 0 (x86-64
// before 6.15), and addresses of the initial copy in those after.
//
// A name may belong to several symbols (static functions of the same name); which of them is meant nobody can
// tell, so asking for the address of such a name is an error that lists them, never a guess. Symbol types
// ('t', 'D', ...) are not kept: they come from section flags, which mislead (scx_tasks, a variable, is 't').
//
// One text holds all names, in the order of addresses, and a table of hash buckets finds them: about 45 bytes
// a symbol, 9 MB for a distribution's kernel. These lie in the heap, or in a file that is mapped
// (symbol_file.h). Copies share them. Lookups are reads: any number of threads may share a table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"
#include "host/kernel/elf_view.h"

namespace ktstr {

enum class SymbolSource {
  kVmlinux,    // an ELF symbol table
  kSystemMap,  // a System.map file
  kKallsyms,   // the table that the kernel has of itself
  kImage,      // that table has functions only; of data there is what else the image tells (image_symbols.h)
};

// Kernel virtual addresses [begin, end).
struct AddressRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  bool contains(std::uint64_t address) const { return address >= begin && address < end; }
};

// Where the kernel lies when it is not relocated: what the ELF's loaded segments in the upper half of the
// address space cover. Empty when there are none.
AddressRange kernel_extent(const ElfView& elf);

// The symbol that an address belongs to. The name refers to the table.
struct SymbolAt {
  std::string_view name;
  std::uint64_t address = 0;  // of the symbol
  std::uint64_t offset = 0;   // of the address asked for, from there
};

class SymbolTable {
 public:
  // The kernel's own limit, KSYM_NAME_LEN.
  static constexpr std::size_t kMaxName = 512;
  // A kernel with everything built in has about a million symbols and 40 MB of names.
  static constexpr std::size_t kMaxSymbols = std::size_t{1} << 22;
  static constexpr std::size_t kMaxNameBytes = std::size_t{1} << 27;

  class Builder;

  SymbolTable() = default;

  // How many symbols there are; a name that stands for several addresses counts as often.
  std::size_t size() const { return parts_.addresses.size(); }
  SymbolSource source() const { return source_; }
  // For messages and reports: "the kallsyms embedded in '/boot/vmlinuz-7.2'".
  const std::string& origin() const { return origin_; }

  // The address of the symbol. Error kKernelLacks when there is no symbol of that name, or when it stands for
  // several addresses, which the message lists.
  Expected<std::uint64_t> address(std::string_view name) const;
  // One sentence: that there is no symbol `name` (or none of several, separated by ", "), and why that may
  // be; or that there is more than one of that name.
  std::string lacks(std::string_view name) const;
  // The same as address(), nullopt in both cases.
  std::optional<std::uint64_t> find(std::string_view name) const;
  // Every address that the name stands for, ascending, each once.
  std::vector<std::uint64_t> addresses(std::string_view name) const;
  // Symbols of which the compiler made the function `name` when it changed its signature or copied it:
  // "name.isra.0", "name.constprop.0". Parts that were split off ("name.cold", "name.isra.0.cold") are left
  // out. Looks at every name: some milliseconds.
  std::vector<SymbolAt> variants(std::string_view name) const;

  // The last symbol at or below a link-time address within the kernel's extent; of several at one place, the
  // one that the source has first, as the kernel itself does. nullopt outside the extent, which is that of
  // functions where the source is kImage; behind it only symbols that begin at `address` are found.
  std::optional<SymbolAt> nearest(std::uint64_t address) const;

  // The symbols in the order of their addresses; index < size().
  std::string_view name(std::size_t index) const;
  std::uint64_t address_at(std::size_t index) const { return parts_.addresses[index]; }

  // How many names stand for more than one address. Looks at every name: some tens of milliseconds.
  std::size_t count_ambiguous() const;
  // What the table occupies, bytes.
  std::size_t memory() const;
  // For after a few hundred lookups: what they have read of a mapped file no longer counts as this process's
  // memory, and is read again from the page cache when it is needed.
  void give_back_pages() const;

  // What a table consists of, for symbol_file.h.
  struct Parts {
    std::span<const std::uint64_t> addresses;  // ascending
    std::span<const std::uint32_t> names;      // where each begins in text; one more than there are symbols
    std::span<const std::uint32_t> buckets;    // where each begins in order; one more than there are buckets
    std::span<const std::uint32_t> order;      // indices of symbols, ascending within a bucket
    std::string_view text;                     // all names, without separators
    AddressRange extent;
  };
  const Parts& parts() const { return parts_; }
  // `owner`, a mapping of a file that has them one after another, keeps the parts alive. nullopt unless they
  // fit together so that no lookup leaves them.
  static std::optional<SymbolTable> from_parts(const Parts& parts, std::shared_ptr<const void> owner,
                                               SymbolSource source, std::string origin);

 private:
  // Indices of the symbols in the bucket of `hash`: [first, second) of parts_.order.
  std::pair<std::size_t, std::size_t> bucket(std::uint32_t hash) const;

  SymbolSource source_ = SymbolSource::kKallsyms;
  bool mapped_ = false;  // parts_ lie in a file, one after another, as Parts has them
  std::string origin_;
  Parts parts_;
  std::shared_ptr<const void> owner_;  // of what parts_ refers to
};

// Takes symbols in the order of their addresses, then makes the table.
class SymbolTable::Builder {
 public:
  // `count` is how many symbols are expected; it is not trusted.
  explicit Builder(std::size_t count);

  // False, and nothing is added, when the address is below the one before, the name is empty or longer than
  // kMaxName, or the table is full.
  bool add(std::string_view name, std::uint64_t address);
  // The builder is used up. `extent` is where nearest() answers.
  SymbolTable finish(SymbolSource source, std::string origin, AddressRange extent) &&;

 private:
  // Named as in Parts.
  struct Storage {
    std::string text;
    std::vector<std::uint32_t> names;
    std::vector<std::uint64_t> addresses;
    std::vector<std::uint32_t> buckets;
    std::vector<std::uint32_t> order;
  };
  std::shared_ptr<Storage> storage_;
  std::vector<std::uint32_t> hashes_;
};

}  // namespace ktstr
