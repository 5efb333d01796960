#include "host/kernel/elf_view.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "common/quote.h"
#include "host/kernel/bytes.h"

namespace ktstr {
namespace {

constexpr std::size_t kMaxSectionName = 256;
// A kernel has about a dozen notes; a damaged table is not worth more looking than this.
constexpr int kMaxNotes = 1024;

struct MachineName {
  std::uint16_t machine;
  const char* name;
};

constexpr std::array kMachineNames{
    MachineName{EM_386, "32-bit x86"},
    MachineName{EM_X86_64, "x86-64"},
    MachineName{EM_AARCH64, "aarch64"},
    MachineName{EM_ARM, "32-bit ARM"},
    MachineName{EM_RISCV, "RISC-V"},
    MachineName{EM_PPC64, "64-bit PowerPC"},
    MachineName{EM_PPC, "32-bit PowerPC"},
    MachineName{EM_S390, "s390"},
    MachineName{EM_MIPS, "MIPS"},
    MachineName{EM_SPARCV9, "64-bit SPARC"},
    MachineName{EM_LOONGARCH, "LoongArch"},
    MachineName{EM_IA_64, "Itanium"},
    MachineName{EM_BPF, "BPF"},
};

std::uint64_t round_up_4(std::uint32_t value) {
  return (std::uint64_t{value} + 3) & ~std::uint64_t{3};
}

// The notes in one table (System V ABI, "Note Section"); names and descriptors are padded to 4 bytes, which
// is what the kernel uses on x86-64 in spite of the 8 bytes that the ABI asks for.
std::optional<ElfNote> find_note(std::span<const std::byte> table, std::string_view name,
                                 std::uint32_t type) {
  std::uint64_t offset = 0;
  for (int i = 0; i < kMaxNotes; ++i) {
    const auto header = load<Elf64_Nhdr>(table, offset);
    if (!header) return std::nullopt;
    offset += sizeof(Elf64_Nhdr);
    if (!range_inside(offset, round_up_4(header->n_namesz), table.size())) return std::nullopt;
    std::string_view note_name = as_text(table.subspan(offset, header->n_namesz));
    note_name = note_name.substr(0, note_name.find('\0'));
    offset += round_up_4(header->n_namesz);
    if (!range_inside(offset, header->n_descsz, table.size())) return std::nullopt;
    if (header->n_type == type && note_name == name) {
      return ElfNote{.name = note_name, .type = type, .bytes = table.subspan(offset, header->n_descsz)};
    }
    offset += round_up_4(header->n_descsz);
  }
  return std::nullopt;
}

}  // namespace

std::string elf_machine_name(std::uint16_t machine) {
  const auto* found = std::find_if(kMachineNames.begin(), kMachineNames.end(),
                                   [machine](const MachineName& entry) { return entry.machine == machine; });
  if (found != kMachineNames.end()) return found->name;
  return fmt::format("ELF machine {}", machine);
}

Expected<> require_x86_64_elf(std::span<const std::byte> image, std::string_view what) {
  if (image.size() < EI_NIDENT || as_text(image).substr(0, SELFMAG) != ELFMAG) {
    return fail(ErrorCode::kUsage, fmt::format("{}: is no ELF file", what));
  }
  const auto ident = [image](std::size_t at) { return std::to_integer<unsigned>(image[at]); };
  const bool big_endian = ident(EI_DATA) == ELFDATA2MSB;
  // e_machine lies at the same place in 32-bit and 64-bit headers.
  auto machine = load<std::uint16_t>(image, offsetof(Elf64_Ehdr, e_machine));
  if (!machine) return fail(ErrorCode::kUsage, fmt::format("{}: the ELF header is cut off", what));
  if (big_endian) machine = static_cast<std::uint16_t>((*machine << 8) | (*machine >> 8));
  if (ident(EI_CLASS) != ELFCLASS64 || big_endian || *machine != EM_X86_64) {
    std::string found = elf_machine_name(*machine);
    if (*machine == EM_X86_64)
      found = ident(EI_CLASS) == ELFCLASS32 ? "32-bit x86-64 (x32)" : "no known x86-64";
    return fail(ErrorCode::kUsage, fmt::format("{}: is for {}; a 64-bit x86 kernel is needed", what, found));
  }
  return {};
}

Expected<ElfView> ElfView::parse(std::span<const std::byte> image, std::string_view what) {
  if (auto ok = require_x86_64_elf(image, what); !ok) return std::unexpected(std::move(ok.error()));
  const auto header = load<Elf64_Ehdr>(image, 0);
  if (!header) return fail(ErrorCode::kUsage, fmt::format("{}: the ELF header is cut off", what));
  ElfView view;
  view.image_ = image;
  view.type_ = header->e_type;
  view.entry_ = header->e_entry;
  if (auto ok = view.read_segments(*header, what); !ok) return std::unexpected(std::move(ok.error()));
  if (auto ok = view.read_sections(*header, what); !ok) return std::unexpected(std::move(ok.error()));
  return view;
}

Expected<> ElfView::read_segments(const Elf64_Ehdr& header, std::string_view what) {
  if (header.e_phnum == 0) return {};
  const std::uint64_t table_size = std::uint64_t{header.e_phnum} * sizeof(Elf64_Phdr);
  if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum > kMaxSegments) {
    return fail(ErrorCode::kUsage, fmt::format("{}: damaged ELF program header table", what));
  }
  if (!range_inside(header.e_phoff, table_size, image_.size())) {
    return fail(
        ErrorCode::kUsage,
        fmt::format("{}: truncated: the ELF program headers should lie at {:#x}, the file has {:#x} bytes",
                    what, header.e_phoff, image_.size()));
  }
  for (std::uint64_t i = 0; i < header.e_phnum; ++i) {
    const auto segment = load<Elf64_Phdr>(image_, header.e_phoff + i * sizeof(Elf64_Phdr));
    if (!range_inside(segment->p_offset, segment->p_filesz, image_.size())) {
      return fail(
          ErrorCode::kUsage,
          fmt::format("{}: truncated: segment {} should be {:#x} bytes at {:#x}, the file has {:#x} bytes",
                      what, i, segment->p_filesz, segment->p_offset, image_.size()));
    }
    segments_.push_back(*segment);
  }
  return {};
}

Expected<> ElfView::read_sections(const Elf64_Ehdr& header, std::string_view what) {
  if (header.e_shoff == 0) return {};
  if (header.e_shentsize != sizeof(Elf64_Shdr)) {
    return fail(ErrorCode::kUsage, fmt::format("{}: damaged ELF section header table", what));
  }
  const auto header_at = [&](std::uint64_t index) {
    return load<Elf64_Shdr>(image_, header.e_shoff + index * sizeof(Elf64_Shdr));
  };
  if (!range_inside(header.e_shoff, sizeof(Elf64_Shdr), image_.size())) {
    return fail(
        ErrorCode::kUsage,
        fmt::format("{}: truncated: the ELF section headers should lie at {:#x}, the file has {:#x} bytes",
                    what, header.e_shoff, image_.size()));
  }
  // Counts that do not fit their field stand in the first header instead.
  const std::uint64_t count = header.e_shnum != 0 ? header.e_shnum : header_at(0)->sh_size;
  const std::uint64_t names_index =
      header.e_shstrndx != SHN_XINDEX ? header.e_shstrndx : header_at(0)->sh_link;
  if (count > kMaxSections || names_index >= count) {
    return fail(ErrorCode::kUsage, fmt::format("{}: damaged ELF section header table", what));
  }
  if (!range_inside(header.e_shoff, count * sizeof(Elf64_Shdr), image_.size())) {
    return fail(
        ErrorCode::kUsage,
        fmt::format("{}: truncated: {} ELF section headers should lie at {:#x}, the file has {:#x} bytes",
                    what, count, header.e_shoff, image_.size()));
  }
  const auto names_header = *header_at(names_index);
  if (!range_inside(names_header.sh_offset, names_header.sh_size, image_.size())) {
    return fail(ErrorCode::kUsage,
                fmt::format("{}: truncated: the section names lie outside the file", what));
  }
  const auto names = image_.subspan(names_header.sh_offset, names_header.sh_size);
  sections_.reserve(count);
  for (std::uint64_t i = 1; i < count; ++i) {
    const auto raw = *header_at(i);
    ElfSection section;
    section.name = load_string(names, raw.sh_name, kMaxSectionName).value_or("");
    section.type = raw.sh_type;
    section.address = raw.sh_addr;
    section.offset = raw.sh_offset;
    section.size = raw.sh_size;
    if (raw.sh_type != SHT_NOBITS && raw.sh_type != SHT_NULL) {
      if (!range_inside(raw.sh_offset, raw.sh_size, image_.size())) {
        return fail(
            ErrorCode::kUsage,
            fmt::format("{}: truncated: section {} should be {:#x} bytes at {:#x}, the file has {:#x} bytes",
                        what, quote(section.name), raw.sh_size, raw.sh_offset, image_.size()));
      }
      section.bytes = image_.subspan(raw.sh_offset, raw.sh_size);
    }
    sections_.push_back(section);
  }
  return {};
}

const ElfSection* ElfView::section(std::string_view name) const {
  const auto found = std::find_if(sections_.begin(), sections_.end(),
                                  [name](const ElfSection& entry) { return entry.name == name; });
  return found == sections_.end() ? nullptr : &*found;
}

std::optional<ElfNote> ElfView::note(std::string_view name, std::uint32_t type) const {
  for (const ElfSection& section : sections_) {
    if (section.type != SHT_NOTE) continue;
    if (auto found = find_note(section.bytes, name, type)) return found;
  }
  if (!sections_.empty()) return std::nullopt;
  for (const Elf64_Phdr& segment : segments_) {
    if (segment.p_type != PT_NOTE) continue;
    if (auto found = find_note(image_.subspan(segment.p_offset, segment.p_filesz), name, type)) return found;
  }
  return std::nullopt;
}

}  // namespace ktstr
