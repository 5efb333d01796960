#include "guest/init/own_symbols.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace ktstr::guest {

// The file is our own, yet a crash reporter must not crash over it: every offset is checked.
template <typename T>
const T* OwnSymbols::at(std::uint64_t offset, std::uint64_t count) const {
  if (offset > file_.size() || count > (file_.size() - offset) / sizeof(T) || offset % alignof(T) != 0)
    return nullptr;
  return reinterpret_cast<const T*>(file_.data() + offset);
}

OwnSymbols::OwnSymbols() {
  const int fd = ::open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  struct stat status {};
  if (::fstat(fd, &status) == 0 && status.st_size > 0) {
    const auto size = static_cast<std::size_t>(status.st_size);
    void* const address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (address != MAP_FAILED) file_ = {static_cast<const std::byte*>(address), size};
  }
  ::close(fd);

  const auto* header = at<Elf64_Ehdr>(0);
  if (header == nullptr || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) return;
  if (const auto* programs = at<Elf64_Phdr>(header->e_phoff, header->e_phnum)) {
    for (const Elf64_Phdr& program : std::span(programs, header->e_phnum)) {
      if (program.p_type == PT_PHDR) bias_ = ::getauxval(AT_PHDR) - program.p_vaddr;
    }
  }
  const auto* sections = at<Elf64_Shdr>(header->e_shoff, header->e_shnum);
  if (sections == nullptr) return;
  for (const Elf64_Shdr& section : std::span(sections, header->e_shnum)) {
    if (section.sh_type == SHT_SYMTAB && section.sh_link < header->e_shnum) {
      const Elf64_Shdr& strings = sections[section.sh_link];
      const char* text = at<char>(strings.sh_offset, strings.sh_size);
      if (text == nullptr || at<Elf64_Sym>(section.sh_offset, section.sh_size / sizeof(Elf64_Sym)) == nullptr)
        continue;
      symbols_offset_ = section.sh_offset;
      symbol_count_ = section.sh_size / sizeof(Elf64_Sym);
      names_ = {text, strings.sh_size};
    } else if (section.sh_type == SHT_NOTE) {
      const auto* note = at<Elf64_Nhdr>(section.sh_offset);
      if (note == nullptr || note->n_type != NT_GNU_BUILD_ID || note->n_namesz != 4 || note->n_descsz > 64)
        continue;
      const auto* id = at<std::byte>(section.sh_offset + sizeof(Elf64_Nhdr) + 4, note->n_descsz);
      if (id != nullptr) build_id_ = {id, note->n_descsz};
    }
  }
}

OwnSymbols::~OwnSymbols() {
  if (!file_.empty()) ::munmap(const_cast<std::byte*>(file_.data()), file_.size());
}

OwnSymbols::Symbol OwnSymbols::find(std::uintptr_t address) const {
  const std::uint64_t wanted = address - bias_;
  const auto* symbols = at<Elf64_Sym>(symbols_offset_, symbol_count_);
  if (symbols == nullptr) return {};
  for (const Elf64_Sym& symbol : std::span(symbols, symbol_count_)) {
    // GNU_IFUNC (memcpy and the like) resolve to local functions that are listed by themselves.
    if (ELF64_ST_TYPE(symbol.st_info) != STT_FUNC || symbol.st_shndx == SHN_UNDEF) continue;
    if (wanted < symbol.st_value || wanted - symbol.st_value >= symbol.st_size) continue;
    if (symbol.st_name >= names_.size()) continue;
    const std::string_view rest = names_.substr(symbol.st_name);
    return {.name = rest.substr(0, rest.find('\0')), .offset = wanted - symbol.st_value};
  }
  return {};
}

std::span<const std::byte> OwnSymbols::build_id() const {
  return build_id_;
}

}  // namespace ktstr::guest
