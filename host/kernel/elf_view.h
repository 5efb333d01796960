// ElfView: a bounds-checked reader of an ELF64 little-endian file that lies in memory.
//
// Kernel payloads come from files that users hand us and may be cut off or damaged anywhere, and libelf is
// known to walk past the end of some truncated images, so headers are read here by hand: every offset, size
// and count is checked against the bytes there are before it is used. What does not fit is absent, never
// read.
//
// Only what a kernel image needs is offered: sections by name, program headers, notes. Layouts are those of
// <elf.h> (System V ABI, generic part, chapters 4 and 5).
#pragma once

#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"

namespace ktstr {

// A section that has bytes in the file.
struct ElfSection {
  std::string_view name;             // refers to the image
  std::uint32_t type = 0;            // SHT_*
  std::uint64_t address = 0;         // sh_addr, a kernel virtual address
  std::uint64_t offset = 0;          // where `bytes` begins in the file
  std::span<const std::byte> bytes;  // empty for SHT_NOBITS
  std::uint64_t size = 0;            // sh_size: what it occupies when it is loaded
};

// One ELF note.
struct ElfNote {
  std::string_view name;             // without the terminating zero; refers to the image
  std::uint32_t type = 0;            // meaning depends on `name`
  std::span<const std::byte> bytes;  // the descriptor
};

// Human name of an ELF machine number: "aarch64", "32-bit x86", ..., or "ELF machine 1234".
std::string elf_machine_name(std::uint16_t machine);

// Error unless `image` starts like an ELF64 little-endian x86-64 file. kUsage; the message begins with `what`
// and names the architecture found ("'/x/Image': is for aarch64; ...").
Expected<> require_x86_64_elf(std::span<const std::byte> image, std::string_view what);

// Refers to the bytes given at parse(): they must outlive the view and everything taken from it.
class ElfView {
 public:
  // Most sections and program headers that are looked at; a kernel has about 60 and 5.
  static constexpr std::size_t kMaxSections = 65536;
  static constexpr std::size_t kMaxSegments = 4096;

  ElfView() = default;

  // Reads the headers. Error kUsage (beginning with `what`) when require_x86_64_elf() fails or a header table
  // lies outside the file. A section or segment whose contents do not lie inside the file is an error too:
  // that is a truncated image.
  static Expected<ElfView> parse(std::span<const std::byte> image, std::string_view what);

  std::span<const std::byte> image() const { return image_; }
  // ET_EXEC for a kernel; a module is ET_REL.
  std::uint16_t type() const { return type_; }
  // Entry point; for a kernel a physical address.
  std::uint64_t entry() const { return entry_; }
  const std::vector<ElfSection>& sections() const { return sections_; }
  // Program headers whose file contents lie inside the file.
  const std::vector<Elf64_Phdr>& segments() const { return segments_; }

  // The first section of that name; nullptr when there is none.
  const ElfSection* section(std::string_view name) const;
  // The first note with that name and type, from SHT_NOTE sections, or from PT_NOTE segments where there are
  // no sections. nullopt when there is none or the notes are damaged before it.
  std::optional<ElfNote> note(std::string_view name, std::uint32_t type) const;

 private:
  Expected<> read_sections(const Elf64_Ehdr& header, std::string_view what);
  Expected<> read_segments(const Elf64_Ehdr& header, std::string_view what);

  std::span<const std::byte> image_;
  std::uint16_t type_ = 0;
  std::uint64_t entry_ = 0;
  std::vector<ElfSection> sections_;
  std::vector<Elf64_Phdr> segments_;
};

}  // namespace ktstr
