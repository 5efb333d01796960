// ELF files and ld.so caches with anything in them. Random bytes hardly ever make an ELF file, so the input
// is a string table and a list of changes to a small, valid shared library.
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <iterator>
#include <span>
#include <string>

#include "common/unique_fd.h"
#include "host/boot/elf_closure.h"
#include "host/boot/elf_file.h"
#include "host/boot/ld_cache.h"
#include "tests/fuzz/fuzz_input.h"

using ktstr::ErrorCode;
using ktstr::fuzz::check;
using ktstr::fuzz::FuzzInput;

namespace {

constexpr std::size_t kDynamicOffset = sizeof(Elf64_Ehdr) + 3 * sizeof(Elf64_Phdr);

// Header, PT_LOAD of the whole file at address 0, PT_INTERP, PT_DYNAMIC, the string table.
std::string make_elf(std::string_view strings) {
  const Elf64_Dyn dynamic[] = {
      {.d_tag = DT_STRTAB, .d_un = {}},    {.d_tag = DT_STRSZ, .d_un = {strings.size()}},
      {.d_tag = DT_NEEDED, .d_un = {1}},   {.d_tag = DT_NEEDED, .d_un = {8}},
      {.d_tag = DT_SONAME, .d_un = {16}},  {.d_tag = DT_RPATH, .d_un = {24}},
      {.d_tag = DT_RUNPATH, .d_un = {32}}, {.d_tag = DT_NULL, .d_un = {}}};
  const std::size_t strings_offset = kDynamicOffset + sizeof dynamic;
  Elf64_Ehdr header = {};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_DYN;
  header.e_machine = EM_X86_64;
  header.e_version = EV_CURRENT;
  header.e_phoff = sizeof header;
  header.e_ehsize = sizeof header;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = 3;
  Elf64_Phdr segments[3] = {};
  segments[0] = {.p_type = PT_LOAD,
                 .p_flags = PF_R,
                 .p_offset = 0,
                 .p_vaddr = 0,
                 .p_paddr = 0,
                 .p_filesz = strings_offset + strings.size(),
                 .p_memsz = strings_offset + strings.size(),
                 .p_align = 1};
  segments[1] = {.p_type = PT_DYNAMIC,
                 .p_flags = PF_R,
                 .p_offset = kDynamicOffset,
                 .p_vaddr = kDynamicOffset,
                 .p_paddr = 0,
                 .p_filesz = sizeof dynamic,
                 .p_memsz = sizeof dynamic,
                 .p_align = 8};
  segments[2] = {.p_type = PT_NOTE,
                 .p_flags = PF_R,
                 .p_offset = strings_offset,
                 .p_vaddr = 0,
                 .p_paddr = 0,
                 .p_filesz = strings.size(),
                 .p_memsz = 0,
                 .p_align = 1};
  std::string file;
  file.append(reinterpret_cast<const char*>(&header), sizeof header);
  file.append(reinterpret_cast<const char*>(segments), sizeof segments);
  file.append(reinterpret_cast<const char*>(dynamic), sizeof dynamic);
  std::memcpy(file.data() + kDynamicOffset + 8, &strings_offset, sizeof strings_offset);
  return file.append(strings);
}

void try_cache(std::string_view bytes) {
  const auto cache = ktstr::LdCache::parse(std::as_bytes(std::span(bytes)), "cache");
  if (!cache) check(cache.error().code() == ErrorCode::kHost, "a damaged cache is the host's trouble");
  if (cache) (void)cache->find("libc.so.6");
}

void try_elf(const std::string& bytes) {
  const auto elf = ktstr::ElfFile::from_bytes(std::as_bytes(std::span(bytes)), "input");
  if (elf) {
    const auto dynamic = elf->read_dynamic();
    if (!dynamic)
      check(dynamic.error().code() == ErrorCode::kStartFailed, "a damaged file cannot be started");
    (void)elf->read_section(".modinfo", 4096);
  }
  const ktstr::UniqueFd file(::memfd_create("fuzz", MFD_CLOEXEC));
  check(::write(file.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()),
        "the input is written");
  ktstr::LibrarySearch search;
  search.cache_path.clear();
  search.default_directories = {"/nonexistent"};
  search.working_directory = "/nonexistent";
  const auto closure = ktstr::elf_closure("/proc/self/fd/" + std::to_string(file.get()), search);
  if (!closure) {
    check(closure.error().code() == ErrorCode::kStartFailed, "what cannot be resolved cannot be started");
    check(closure.error().to_string().size() < 100'000, "the message has an end");
    return;
  }
  for (const auto& entry : closure->files) {
    check(entry.guest_path.starts_with('/'), "guest paths are absolute");
    check(!(entry.guest_path + "/").contains("/../"), "guest paths hold no '..'");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzInput input(data, size);
  const std::uint64_t kind = input.number(1);
  if (kind % 4 == 0) {
    try_cache(input.rest());
    return 0;
  }
  std::string strings(1, '\0');
  strings += input.take(input.number(1));
  strings += '\0';
  std::string file = make_elf(strings);
  while (!input.empty()) {
    const std::size_t at = input.number(2) % file.size();
    const std::string_view change = input.take(1 + input.number(1) % 8);
    std::memcpy(file.data() + at, change.data(), std::min(change.size(), file.size() - at));
  }
  if (kind % 4 == 1) file.resize(file.size() - kind % file.size());
  try_elf(file);
  return 0;
}
