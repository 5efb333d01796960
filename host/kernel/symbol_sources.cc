#include "host/kernel/symbol_sources.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "common/mapping.h"
#include "common/quote.h"
#include "common/read_file.h"
#include "host/kernel/bytes.h"
#include "host/kernel/image_symbols.h"
#include "host/kernel/kallsyms_decoder.h"
#include "host/kernel/symbol_file.h"

namespace ktstr {
namespace {

constexpr std::size_t kMaxPathInMessage = 200;
constexpr std::size_t kMaxBuildId = 64;
// Shared names that must agree before a file is believed; the smallest kernel has thousands.
constexpr std::size_t kMinShared = 100;
// Names that are compared at most (twice as many): all of them would take 100 ms.
constexpr std::size_t kCompared = 4096;
// The same as kMinShared for sections, where there are no kallsyms to compare with.
constexpr std::size_t kMinMarkers = 3;

std::string quoted_path(const std::string& path) {
  return quote(path, kMaxPathInMessage);
}

std::string build_id_of(const ElfView& elf) {
  std::string text;
  if (const auto note = elf.note("GNU", NT_GNU_BUILD_ID)) {
    for (const std::byte byte : note->bytes.first(std::min(note->bytes.size(), kMaxBuildId))) {
      text += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
    }
  }
  return text;
}

// A symbol as a file has it.
struct RawSymbol {
  std::uint64_t address = 0;
  std::uint32_t rank = 0;  // among those of one address, the lowest first
  std::string_view name;
};

// Of several names of one place the most telling should come first, so that backtraces show it: the kernel's
// build prefers strong symbols to weak ones, and few leading underscores (scripts/kallsyms.c,
// compare_symbols()).
std::uint32_t rank_of(std::string_view name, bool weak) {
  const std::size_t underscores = std::min(name.find_first_not_of('_'), name.size());
  return (weak ? std::uint32_t{1} << 16 : 0) + static_cast<std::uint32_t>(underscores);
}

// Names that no one asks for: checksums of exports, labels of the assembler, what is no name at all.
bool is_wanted(std::string_view name) {
  if (name.empty() || name.size() > SymbolTable::kMaxName) return false;
  if (name.starts_with("__crc_") || name.starts_with(".L")) return false;
  return std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < 0x7f; });
}

Expected<SymbolTable> make_table(std::vector<RawSymbol> symbols, SymbolSource source, std::string origin,
                                 AddressRange extent) {
  std::stable_sort(symbols.begin(), symbols.end(), [](const RawSymbol& a, const RawSymbol& b) {
    return std::pair(a.address, a.rank) < std::pair(b.address, b.rank);
  });
  SymbolTable::Builder builder(symbols.size());
  for (const RawSymbol& symbol : symbols) {
    if (!builder.add(symbol.name, symbol.address)) {
      return fail(ErrorCode::kUsage, fmt::format("{} has more than {} symbols or {} bytes of names", origin,
                                                 SymbolTable::kMaxSymbols, SymbolTable::kMaxNameBytes));
    }
  }
  return std::move(builder).finish(source, std::move(origin), extent);
}

// One line of a System.map.
std::optional<RawSymbol> parse_line(std::string_view line) {
  RawSymbol symbol;
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), symbol.address, 16);
  if (error != std::errc()) return std::nullopt;
  line.remove_prefix(static_cast<std::size_t>(end - line.data()));
  if (line.size() < 4 || line[0] != ' ' || line[2] != ' ') return std::nullopt;
  symbol.name = line.substr(3);
  if (symbol.name.find_first_of(" \t\r") != std::string_view::npos) return std::nullopt;
  const char type = line[1];
  symbol.rank = rank_of(symbol.name, type == 'w' || type == 'W' || type == 'v' || type == 'V');
  return symbol;
}

// Symbols that the linker script puts at the beginning of a section (arch/x86/kernel/vmlinux.lds.S,
// include/asm-generic/vmlinux.lds.h).
struct Marker {
  const char* symbol;
  const char* section;
};
constexpr std::array kMarkers{
    Marker{"_text", ".text"},
    Marker{"__start_rodata", ".rodata"},
    Marker{"__start_BTF", ".BTF"},
    Marker{"_sdata", ".data"},
    Marker{"__start_orc_unwind_ip", ".orc_unwind_ip"},
    Marker{"__start_orc_unwind", ".orc_unwind"},
    Marker{"_sinittext", ".init.text"},
    Marker{"__bss_start", ".bss"},
    Marker{"__brk_base", ".brk"},
};

// The sources one after another, the first good one taken.
class Search {
 public:
  Search(const KernelImage& image, const SymbolFiles& named) : image_(image), named_(named) {}

  Expected<KernelSymbols> run();

 private:
  Expected<SymbolTable> from_image();
  Expected<SymbolTable> from_vmlinux(const std::string& path);
  Expected<SymbolTable> from_system_map(const std::string& path);
  Expected<> compare_with_image(const SymbolTable& table);
  const Expected<SymbolTable>& kallsyms();

  const KernelImage& image_;
  const SymbolFiles& named_;
  std::string what_ = quoted_path(image_.image_path());
  std::optional<Expected<SymbolTable>> kallsyms_;  // decoded when first needed
};

const Expected<SymbolTable>& Search::kallsyms() {
  if (kallsyms_) return *kallsyms_;
  if (auto kept = load_symbols(image_.cache_entry(), what_)) {
    kallsyms_ = std::move(*kept);
    return *kallsyms_;
  }
  kallsyms_ = decode_kallsyms(image_.elf(), what_);
  if (*kallsyms_ && has_functions_only(**kallsyms_, image_.elf()))
    kallsyms_ = complete_symbols(**kallsyms_, image_.elf(), image_.btf(), what_);
  image_.release_pages();
  if (*kallsyms_ && !image_.cache_entry().empty()) {
    keep_symbols(image_.cache_entry(), **kallsyms_);
    // Mapped, they cost less memory than those just decoded.
    if (auto kept = load_symbols(image_.cache_entry(), what_)) kallsyms_ = std::move(*kept);
  }
  return *kallsyms_;
}

Expected<> Search::compare_with_image(const SymbolTable& table) {
  const auto& own = kallsyms();
  return check_symbols(table, image_.elf(), own ? &*own : nullptr);
}

Expected<SymbolTable> Search::from_image() {
  return read_elf_symbols(image_.elf(), what_);
}

Expected<SymbolTable> Search::from_vmlinux(const std::string& path) {
  const std::string what = quoted_path(path);
  auto mapping = Mapping::map_file(path.c_str());
  if (!mapping) return std::unexpected(std::move(mapping.error()));
  auto elf = ElfView::parse(mapping->bytes(), what);
  if (!elf) return std::unexpected(std::move(elf.error()));
  const std::string id = build_id_of(*elf);
  const bool both = !id.empty() && !image_.build_id().empty();
  if (both && id != image_.build_id()) {
    return fail(ErrorCode::kUsage,
                fmt::format("{} belongs to another build: its build id is {}, that of {} is {}", what, id,
                            what_, image_.build_id()));
  }
  auto table = read_elf_symbols(*elf, what);
  if (!table || both) return table;
  if (auto ok = compare_with_image(*table); !ok) return std::unexpected(std::move(ok.error()));
  return table;
}

Expected<SymbolTable> Search::from_system_map(const std::string& path) {
  const auto text = read_file(path, kMaxSystemMap, ErrorCode::kUsage);
  if (!text) return std::unexpected(text.error());
  auto table = read_system_map(*text, kernel_extent(image_.elf()), quoted_path(path));
  if (!table) return table;
  if (auto ok = compare_with_image(*table); !ok) return std::unexpected(std::move(ok.error()));
  return table;
}

Expected<KernelSymbols> Search::run() {
  KernelSymbols result;
  // True when the search is over, with a table or with an error about a file that the user named.
  std::optional<Error> fatal;
  const auto settle = [&](Expected<SymbolTable> table, bool by_user) {
    if (table) {
      result.table = std::move(*table);
      return true;
    }
    if (by_user) {
      fatal = std::move(table.error()).while_doing("reading the symbols of " + what_);
      return true;
    }
    result.passed_over.push_back(table.error().to_string());
    return false;
  };
  const auto search = [&] {
    if (!named_.vmlinux.empty()) return settle(from_vmlinux(named_.vmlinux), true);
    if (!named_.system_map.empty()) return settle(from_system_map(named_.system_map), true);
    if (image_.kind() == ImageKind::kVmlinux && settle(from_image(), false)) return true;
    const KernelFiles& files = image_.files();
    if (!files.vmlinux.empty() && settle(from_vmlinux(files.vmlinux), false)) return true;
    if (!files.system_map.empty() && settle(from_system_map(files.system_map), false)) return true;
    static_cast<void>(kallsyms());
    return settle(std::move(*kallsyms_), false);
  };
  const bool found = search();
  if (fatal) return std::unexpected(std::move(*fatal));
  if (found) return result;
  std::string reasons;
  for (const std::string& reason : result.passed_over) reasons += (reasons.empty() ? "" : "; ") + reason;
  return fail(ErrorCode::kKernelLacks,
              fmt::format("no symbols of {} can be read; give its vmlinux or System.map, or build it with "
                          "CONFIG_KALLSYMS=y ({})",
                          what_, reasons));
}

}  // namespace

Expected<KernelSymbols> find_symbols(const KernelImage& image, const SymbolFiles& named) {
  return Search(image, named).run();
}

Expected<SymbolTable> read_elf_symbols(const ElfView& elf, std::string_view what) {
  const ElfSection* table = elf.section(".symtab");
  const ElfSection* strings = elf.section(".strtab");
  if (table == nullptr || strings == nullptr || table->type != SHT_SYMTAB) {
    return fail(ErrorCode::kUsage, fmt::format("{} has no symbol table: it was stripped", what));
  }
  const std::size_t count = table->bytes.size() / sizeof(Elf64_Sym);
  std::vector<RawSymbol> symbols;
  symbols.reserve(count);
  for (std::size_t i = 1; i < count; ++i) {
    const auto symbol = *load<Elf64_Sym>(table->bytes, i * sizeof(Elf64_Sym));
    const auto type = ELF64_ST_TYPE(symbol.st_info);
    if (symbol.st_shndx == SHN_UNDEF || type == STT_FILE || type == STT_SECTION) continue;
    const auto name = load_string(strings->bytes, symbol.st_name, SymbolTable::kMaxName);
    if (!name) {
      return fail(ErrorCode::kUsage,
                  fmt::format("{}: the symbol table is damaged: symbol {} of {} has no name, or one of more "
                              "than {} characters",
                              what, i, count, SymbolTable::kMaxName));
    }
    if (!is_wanted(*name)) continue;
    const bool weak = ELF64_ST_BIND(symbol.st_info) == STB_WEAK;
    symbols.push_back({.address = symbol.st_value, .rank = rank_of(*name, weak), .name = *name});
  }
  if (symbols.empty()) return fail(ErrorCode::kUsage, fmt::format("{} has an empty symbol table", what));
  return make_table(std::move(symbols), SymbolSource::kVmlinux, fmt::format("the symbol table of {}", what),
                    kernel_extent(elf));
}

Expected<SymbolTable> read_system_map(std::string_view text, AddressRange extent, std::string_view what) {
  constexpr std::size_t kShortestLine = sizeof "ffffffff81000000 T a";
  std::vector<RawSymbol> symbols;
  symbols.reserve(std::min(text.size() / kShortestLine, SymbolTable::kMaxSymbols) + 1);
  bool has_text = false;
  bool has_end = false;
  std::size_t number = 0;
  std::string_view rest = text;
  while (!rest.empty()) {
    ++number;
    const std::size_t end = rest.find('\n');
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    const auto symbol = parse_line(line);
    if (!symbol) {
      // Debian's says: ffffffffffffffff B The real System.map is in the linux-image-...-dbg package
      if (number == 1 && line.find("System.map") != std::string_view::npos) {
        return fail(ErrorCode::kUsage,
                    fmt::format("{} is a stub without symbols: {}", what, quote(line, 120)));
      }
      return fail(
          ErrorCode::kUsage,
          fmt::format("{} is no System.map, or cut off: line {} should be address, type and name, and is {}",
                      what, number, quote(line)));
    }
    has_text |= symbol->name == "_text";
    has_end |= symbol->name == "_end";
    if (!is_wanted(symbol->name)) continue;
    if (symbols.size() >= SymbolTable::kMaxSymbols) {
      return fail(ErrorCode::kUsage,
                  fmt::format("{} has more than {} symbols", what, SymbolTable::kMaxSymbols));
    }
    symbols.push_back(*symbol);
  }
  // The file is sorted by address: where the last symbols are, the ones before are too.
  if (!has_text || !has_end || text.back() != '\n') {
    return fail(ErrorCode::kUsage,
                fmt::format("{} is cut off after {} lines, or no System.map of a kernel: it must have _text, "
                            "_end, and a newline at the end",
                            what, number));
  }
  return make_table(std::move(symbols), SymbolSource::kSystemMap, std::string(what), extent);
}

Expected<> check_symbols(const SymbolTable& table, const ElfView& elf, const SymbolTable* own) {
  const auto differs = [&table](std::string_view name, std::uint64_t there, std::uint64_t here) {
    return fail(ErrorCode::kUsage,
                fmt::format("{} belongs to another build: it has {} at {:#x}, the kernel has it at {:#x}",
                            table.origin(), quote(name), there, here));
  };
  std::size_t markers = 0;
  for (const Marker& marker : kMarkers) {
    const ElfSection* section = elf.section(marker.section);
    const auto address = table.find(marker.symbol);
    if (section == nullptr || !address) continue;
    if (*address != section->address) return differs(marker.symbol, *address, section->address);
    ++markers;
  }
  if (const auto banner = table.find("linux_banner")) {
    constexpr std::string_view kBanner = "Linux version ";
    if (as_text(bytes_at(elf, *banner, kBanner.size())) != kBanner) {
      return fail(ErrorCode::kUsage,
                  fmt::format("{} belongs to another build: the kernel has no banner at {:#x}, where it has "
                              "'linux_banner'",
                              table.origin(), *banner));
    }
    ++markers;
  }
  if (own == nullptr) {
    if (markers >= kMinMarkers) return {};
    return fail(ErrorCode::kUsage,
                fmt::format("{} can not be compared with the kernel: it has {} of the symbols that mark "
                            "sections, at least {} are needed",
                            table.origin(), markers, kMinMarkers));
  }
  // Spread evenly over the kernel: where code differs, everything behind it has moved.
  const std::size_t step = std::max(own->size() / kCompared, std::size_t{1});
  std::size_t shared = 0;
  for (std::size_t i = 0; i < own->size(); i += step) {
    const auto there = table.find(own->name(i));
    if (!there) continue;
    const std::uint64_t here = own->address_at(i);
    // A name that is ambiguous in one of the two proves nothing.
    if (*there == here) {
      ++shared;
    } else if (own->find(own->name(i))) {
      return differs(own->name(i), *there, here);
    }
  }
  if (shared >= std::min(kMinShared, own->size())) return {};
  return fail(
      ErrorCode::kUsage,
      fmt::format("{} belongs to another kernel: only {} of {} symbols that were compared are in both",
                  table.origin(), shared, own->size()));
}

}  // namespace ktstr
