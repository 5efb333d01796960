// A kernel without CONFIG_KALLSYMS_ALL has the names of its functions only, for its backtraces need no more.
// What reads its memory needs variables: init_task to find the tasks, runqueues and __per_cpu_offset to find
// the CPUs. The image knows more of them than kallsyms say, in four places.
//
// Exports. A module is linked against __ksymtab and __ksymtab_gpl when it is loaded: rows of struct
// kernel_symbol (include/linux/export-internal.h), whose members are 32-bit distances from themselves, to the
// thing and to its name in __ksymtab_strings. Among the variables there are init_task, __per_cpu_offset,
// nr_cpu_ids, phys_base and page_offset_base.
//
// BTF. Types of per-CPU variables are there because BPF programs may use them: in a DATASEC with the name of
// the section, ".data..percpu", and each variable's offset in it. The section's address is 0 before 6.15, so
// that the sum is what the variable's symbol has in either case. Of other variables BTF tells only where the
// build asked for that; they come in the same form. (Documentation/bpf/btf.rst, 2.2.16)
//
// Sections. The linker script defines symbols at their beginnings and ends.
//
// Initial values. init_task.active_mm is &init_mm, and init_mm.pgd is init_top_pgt, the kernel's own page
// tables (init/init_task.c, mm/init-mm.c), which are not exported. The file has them as link-time addresses:
// the relocations of KASLR are applied when the kernel starts. The scheduling classes, by which tasks are
// told apart, are found in the same way from the other end: a struct sched_class is where the address of
// dequeue_task_scx stands, in the right place among others of that kind.
//
// Static variables are in none of these: scx_root, or dsq_hash before 6.16. They are missing, and each dump
// says so.
#include "host/kernel/image_symbols.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <tuple>
#include <utility>

#include <bpf/btf.h>
#include <fmt/format.h>

#include "host/kernel/bytes.h"
#include "host/kernel/kernel_types.h"

namespace ktstr {
namespace {

constexpr const char* kPerCpuSection = ".data..percpu";
constexpr std::uint64_t kUpperHalf = std::uint64_t{1} << 63;
constexpr std::uint64_t kPage = 4096;
// Distributions' kernels have some 30,000 exports and 1,000 per-CPU variables.
constexpr std::size_t kMaxFound = std::size_t{1} << 20;

// Whether a symbol may have this address: inside the kernel, or an offset in a per-CPU section that is linked
// at 0.
class Addresses {
 public:
  explicit Addresses(const ElfView& elf) : extent_(kernel_extent(elf)) {
    const ElfSection* section = elf.section(kPerCpuSection);
    if (section != nullptr && section->address < kUpperHalf && section->size < kUpperHalf)
      per_cpu_ = {section->address, section->address + section->size};
  }
  bool contain(std::uint64_t address) const {
    return extent_.contains(address) || per_cpu_.contains(address);
  }

 private:
  AddressRange extent_;
  AddressRange per_cpu_;
};

// struct kernel_symbol: where its members are.
struct ExportLayout {
  std::uint64_t size = 12;
  std::uint64_t value = 0;
  std::uint64_t name = 4;
};

// nullopt when entries are not distances of 32 bits: then nothing is known of exports.
std::optional<ExportLayout> export_layout(const Btf* btf) {
  if (btf == nullptr) return ExportLayout();
  const KernelTypes types(*btf);
  const auto entry = types.find_struct("kernel_symbol");
  if (!entry) return ExportLayout();
  const auto value = types.place(*entry, "value_offset");
  const auto name = types.place(*entry, "name_offset");
  if (!value || !name || value->type.size != 4 || name->type.size != 4) return std::nullopt;
  return ExportLayout{entry->size, value->offset, name->offset};
}

void add_exports(const ElfSection& section, const ElfSection& strings, const ExportLayout& layout,
                 const Addresses& valid, std::vector<ImageSymbol>& found) {
  // What a member's distance leads to; it wraps where the section of a per-CPU variable is linked at 0.
  const auto target = [&](std::uint64_t at) -> std::optional<std::uint64_t> {
    const auto distance = load<std::int32_t>(section.bytes, at);
    if (!distance) return std::nullopt;
    return section.address + at + static_cast<std::uint64_t>(std::int64_t{*distance});
  };
  for (std::uint64_t at = 0; range_inside(at, layout.size, section.bytes.size()) && found.size() < kMaxFound;
       at += layout.size) {
    const auto value = target(at + layout.value);
    const auto name_at = target(at + layout.name);
    if (!value || !name_at || !valid.contain(*value) || *name_at < strings.address) continue;
    const auto name = load_string(strings.bytes, *name_at - strings.address, SymbolTable::kMaxName);
    if (name && !name->empty()) found.push_back({std::string(*name), *value});
  }
}

std::optional<std::uint64_t> pointer_at(const ElfView& elf, std::uint64_t address) {
  return load<std::uint64_t>(bytes_at(elf, address, sizeof(std::uint64_t)), 0);
}

// __per_cpu_load: where the initial copy of the section lies, which is not its address where that is 0.
std::optional<std::uint64_t> per_cpu_load(const ElfView& elf, const ElfSection& section) {
  if (section.address >= kUpperHalf) return section.address;
  const auto covers = [&](const Elf64_Phdr& one) {
    return one.p_type == PT_LOAD && section.address >= one.p_vaddr &&
           range_inside(section.address - one.p_vaddr, section.size, one.p_memsz);
  };
  const auto& segments = elf.segments();
  const auto own = std::ranges::find_if(segments, covers);
  const auto image = std::ranges::find_if(
      segments, [](const Elf64_Phdr& one) { return one.p_type == PT_LOAD && one.p_vaddr >= kUpperHalf; });
  if (own == segments.end() || image == segments.end()) return std::nullopt;
  const std::uint64_t to_virtual = image->p_vaddr - image->p_paddr;
  return own->p_paddr + (section.address - own->p_vaddr) + to_virtual;
}

}  // namespace

std::span<const std::byte> bytes_at(const ElfView& elf, std::uint64_t address, std::size_t size) {
  for (const Elf64_Phdr& segment : elf.segments()) {
    if (segment.p_type != PT_LOAD || address < segment.p_vaddr) continue;
    if (!range_inside(address - segment.p_vaddr, size, segment.p_filesz)) continue;
    return elf.image().subspan(segment.p_offset + (address - segment.p_vaddr), size);
  }
  return {};
}

bool has_functions_only(const SymbolTable& kallsyms, const ElfView& elf) {
  const ElfSection* data = elf.section(".data");
  if (data == nullptr || data->size == 0 || kallsyms.size() == 0) return false;
  const auto& addresses = kallsyms.parts().addresses;
  const auto first = std::ranges::lower_bound(addresses, data->address);
  return first == addresses.end() || *first - data->address >= data->size;
}

std::vector<ImageSymbol> exported_symbols(const ElfView& elf, const Btf* btf) {
  std::vector<ImageSymbol> found;
  const ElfSection* strings = elf.section("__ksymtab_strings");
  const auto layout = export_layout(btf);
  if (strings == nullptr || !layout || layout->size == 0) return found;
  const Addresses valid(elf);
  for (const char* name : {"__ksymtab", "__ksymtab_gpl"}) {
    if (const ElfSection* section = elf.section(name)) add_exports(*section, *strings, *layout, valid, found);
  }
  return found;
}

std::vector<ImageSymbol> btf_variables(const ElfView& elf, const Btf& btf) {
  std::vector<ImageSymbol> found;
  const ::btf* types = btf.get();
  const Addresses valid(elf);
  for (std::uint32_t id = 1; id < btf__type_cnt(types); ++id) {
    const btf_type* type = btf__type_by_id(types, id);
    if (type == nullptr || !btf_is_datasec(type)) continue;
    const char* section_name = btf__name_by_offset(types, type->name_off);
    const ElfSection* section = section_name != nullptr ? elf.section(section_name) : nullptr;
    if (section == nullptr) continue;
    const btf_var_secinfo* entries = btf_var_secinfos(type);
    for (std::uint32_t i = 0; i < btf_vlen(type) && found.size() < kMaxFound; ++i) {
      const btf_type* variable = btf__type_by_id(types, entries[i].type);
      if (variable == nullptr || !btf_is_var(variable)) continue;
      if (!range_inside(entries[i].offset, entries[i].size, section->size)) continue;
      const char* name = btf__name_by_offset(types, variable->name_off);
      const std::uint64_t address = section->address + entries[i].offset;
      if (name != nullptr && *name != '\0' && valid.contain(address)) found.push_back({name, address});
    }
  }
  return found;
}

std::vector<ImageSymbol> section_symbols(const ElfView& elf) {
  std::vector<ImageSymbol> found;
  const AddressRange extent = kernel_extent(elf);
  if (const ElfSection* text = elf.section(".text")) {
    found.push_back({"_text", text->address});
    found.push_back({"_etext", text->address + text->size});
  }
  // arch/x86/kernel/vmlinux.lds.S: _end is the first whole page behind .brk; the scratch memory behind that
  // is not kept.
  const ElfSection* brk = elf.section(".brk");
  const std::uint64_t end = brk != nullptr ? brk->address + brk->size : extent.end;
  if (end > extent.begin && end <= extent.end && end <= ~std::uint64_t{0} - kPage)
    found.push_back({"_end", (end + kPage - 1) / kPage * kPage});
  if (const ElfSection* section = elf.section(kPerCpuSection)) {
    found.push_back({"__per_cpu_start", section->address});
    found.push_back({"__per_cpu_end", section->address + section->size});
    if (const auto copy = per_cpu_load(elf, *section)) found.push_back({"__per_cpu_load", *copy});
  }
  return found;
}

std::vector<ImageSymbol> initialised_pointers(const ElfView& elf, const Btf& btf, std::uint64_t init_task) {
  const KernelTypes types(btf);
  const AddressRange extent = kernel_extent(elf);
  const auto mm_at = types.place("task_struct", "active_mm");
  const auto pgd_at = types.place("mm_struct", "pgd");
  if (!mm_at || !pgd_at) return {};
  const auto mm = pointer_at(elf, init_task + mm_at->offset);
  if (!mm || !extent.contains(*mm)) return {};
  std::vector<ImageSymbol> found{{"init_mm", *mm}};
  const auto pgd = pointer_at(elf, *mm + pgd_at->offset);
  if (pgd && extent.contains(*pgd) && *pgd % kPage == 0) found.push_back({"init_top_pgt", *pgd});
  return found;
}

namespace {

// How many members of the struct sched_class at `address` point to the function that is named after them
// (task_tick_scx). That the names end alike is not enough: a table of all functions, for tracers, has those
// of a class side by side.
std::size_t members_of_class(const ElfView& elf, std::span<const Place> members, const SymbolTable& functions,
                             std::string_view suffix, std::uint64_t address) {
  std::size_t count = 0;
  for (const Place& member : members) {
    if (member.type.kind != ValueKind::kPointer) continue;
    const auto target = pointer_at(elf, address + member.offset);
    const auto at = target ? functions.nearest(*target) : std::nullopt;
    if (at && at->offset == 0 && at->name.size() == member.path.size() + suffix.size() &&
        at->name.starts_with(member.path) && at->name.ends_with(suffix))
      ++count;
  }
  return count;
}

// Where an aligned word with that value stands in what is loaded; of many, some.
std::vector<std::uint64_t> words_with(const ElfView& elf, std::uint64_t value) {
  constexpr std::size_t kMost = 64;
  std::vector<std::uint64_t> found;
  for (const Elf64_Phdr& segment : elf.segments()) {
    if (segment.p_type != PT_LOAD || segment.p_vaddr < kUpperHalf || segment.p_filesz == 0) continue;
    const auto bytes = elf.image().subspan(segment.p_offset, segment.p_filesz);
    for (std::size_t from = 0; found.size() < kMost;) {
      const void* hit = ::memmem(bytes.data() + from, bytes.size() - from, &value, sizeof value);
      if (hit == nullptr) break;
      const auto at = static_cast<std::size_t>(static_cast<const std::byte*>(hit) - bytes.data());
      if ((segment.p_vaddr + at) % sizeof value == 0) found.push_back(segment.p_vaddr + at);
      from = at + 1;
    }
  }
  return found;
}

}  // namespace

std::vector<ImageSymbol> scheduling_classes(const ElfView& elf, const Btf& btf,
                                            const SymbolTable& functions) {
  constexpr std::size_t kEnough = 3;
  struct Class {
    std::string_view name, suffix;
  };
  constexpr std::array kClasses{Class{"stop_sched_class", "_stop"}, Class{"dl_sched_class", "_dl"},
                                Class{"rt_sched_class", "_rt"},     Class{"fair_sched_class", "_fair"},
                                Class{"ext_sched_class", "_scx"},   Class{"idle_sched_class", "_idle"}};
  std::vector<ImageSymbol> found;
  const KernelTypes types(btf);
  const auto type = types.find_struct("sched_class");
  if (!type) return found;
  const auto dequeue = types.place(*type, "dequeue_task");
  if (!dequeue) return found;
  const auto members = types.members(*type);
  for (const Class& one : kClasses) {
    const auto function = functions.find(fmt::format("dequeue_task{}", one.suffix));
    if (!function) continue;
    std::vector<std::uint64_t> places = words_with(elf, *function);
    for (std::uint64_t& at : places) at -= dequeue->offset;
    std::erase_if(places, [&](std::uint64_t at) {
      return members_of_class(elf, members, functions, one.suffix, at) < kEnough;
    });
    if (places.size() == 1) found.push_back({std::string(one.name), places.front()});
  }
  return found;
}

Expected<SymbolTable> complete_symbols(const SymbolTable& functions, const ElfView& elf, const Btf* btf,
                                       std::string_view what) {
  std::vector<ImageSymbol> more = section_symbols(elf);
  // What the linker script defines there is once in a kernel, and kallsyms know better where.
  std::erase_if(more, [&](const ImageSymbol& one) { return !functions.addresses(one.name).empty(); });
  const auto take = [&more](std::vector<ImageSymbol> found) {
    std::ranges::move(found, std::back_inserter(more));
  };
  take(exported_symbols(elf, btf));
  const auto init_task = std::ranges::find(more, "init_task", &ImageSymbol::name);
  if (btf != nullptr && init_task != more.end()) take(initialised_pointers(elf, *btf, init_task->address));
  if (btf != nullptr) {
    take(scheduling_classes(elf, *btf, functions));
    take(btf_variables(elf, *btf));
  }
  // What is a function, or known from two places, is there once. A name for two things stays twice:
  // ambiguous.
  std::erase_if(more, [&](const ImageSymbol& one) {
    if (one.name.size() > SymbolTable::kMaxName) return true;
    const auto known = functions.addresses(one.name);
    return std::ranges::find(known, one.address) != known.end();
  });
  std::ranges::sort(more, {}, [](const ImageSymbol& one) { return std::tie(one.address, one.name); });
  more.erase(std::unique(more.begin(), more.end()), more.end());

  SymbolTable::Builder builder(functions.size() + more.size());
  auto next = more.begin();
  bool fits = true;
  const auto add_more = [&](std::uint64_t below) {
    for (; next != more.end() && next->address < below; ++next)
      fits = builder.add(next->name, next->address) && fits;
  };
  for (std::size_t i = 0; i < functions.size(); ++i) {
    add_more(functions.address_at(i));
    fits = builder.add(functions.name(i), functions.address_at(i)) && fits;
  }
  add_more(~std::uint64_t{0});
  if (!fits) {
    return fail(ErrorCode::kKernelLacks,
                fmt::format("{} has more than {} symbols, or {} bytes of names", what,
                            SymbolTable::kMaxSymbols, SymbolTable::kMaxNameBytes));
  }
  AddressRange text = kernel_extent(elf);
  const auto at = std::ranges::find(more, "_etext", &ImageSymbol::name);
  if (const auto end = functions.find("_etext"))
    text.end = *end;
  else if (at != more.end())
    text.end = at->address;
  return std::move(builder).finish(SymbolSource::kImage, image_origin(what), text);
}

std::string image_origin(std::string_view what) {
  return fmt::format(
      "the functions, exports and per-CPU variables that {} names (it was built without "
      "CONFIG_KALLSYMS_ALL)",
      what);
}

}  // namespace ktstr
