#include "host/boot/elf_file.h"

#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "common/quote.h"

namespace ktstr {
namespace {

// The kernel refuses programs whose program headers exceed 64 KiB (fs/binfmt_elf.c, load_elf_phdrs); 56 bytes
// each.
constexpr std::size_t kMaxProgramHeaders = 65536 / 56;
// Real dynamic sections have 20 to 400 entries; the longest seen in Debian 12 is below 300.
constexpr std::uint64_t kMaxDynamicEntries = 16384;
constexpr std::size_t kMaxNeeded = 2048;
// PATH_MAX with its final zero: no usable name can be longer.
constexpr std::uint64_t kMaxName = 4096;
// A search path is several names.
constexpr std::uint64_t kMaxSearchPath = 16 * kMaxName;
constexpr std::size_t kStartBytes = 256;
constexpr std::size_t kMaxShownPath = 512;

struct MachineName {
  std::uint16_t machine;
  std::string_view name;
};
constexpr std::array kMachineNames = {
    MachineName{EM_386, "32-bit x86"},      MachineName{EM_X86_64, "x86-64"},
    MachineName{EM_AARCH64, "AArch64"},     MachineName{EM_ARM, "32-bit ARM"},
    MachineName{EM_RISCV, "RISC-V"},        MachineName{EM_PPC64, "64-bit PowerPC"},
    MachineName{EM_S390, "s390"},           MachineName{EM_PPC, "32-bit PowerPC"},
    MachineName{EM_MIPS, "MIPS"},           MachineName{EM_SPARCV9, "SPARC"},
    MachineName{EM_LOONGARCH, "LoongArch"}, MachineName{EM_BPF, "BPF"}};

// What a file that is not ELF seems to be, as the end of a sentence "'x' ...".
std::string describe_other_content(std::string_view start) {
  if (start.empty()) return "is empty";
  if (start.starts_with("#!")) {
    std::string_view line = start.substr(2, start.find('\n') - 2);
    while (line.starts_with(' ') || line.starts_with('\t')) line.remove_prefix(1);
    return fmt::format(
        "is a script for {}, not an ELF program; give the program itself (a script can be packed with "
        "--include)",
        quote(line, 128));
  }
  if (start.starts_with("!<arch>\n")) return "is a static library archive, not a program";
  return "is not an ELF file";
}

}  // namespace

void ElfFile::ElfEnd::operator()(Elf* elf) const {
  elf_end(elf);
}

Error ElfFile::damaged(const std::string& what) const {
  return {ErrorCode::kStartFailed,
          fmt::format("{} is a damaged ELF file: {}", quote(name_, kMaxShownPath), what)};
}

Expected<ElfFile> ElfFile::open(const std::string& path) {
  // Asked before opening: to open a device can have effects. O_NONBLOCK: a FIFO must not make us wait.
  struct stat st = {};
  if (::stat(path.c_str(), &st) == 0 && !S_ISREG(st.st_mode)) {
    return fail(ErrorCode::kUsage, fmt::format("{} is not a regular file", quote(path, kMaxShownPath)));
  }
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) return fail_errno(ErrorCode::kUsage, fmt::format("cannot open {}", quote(path, kMaxShownPath)));
  return from_fd(std::move(fd), path);
}

Expected<ElfFile> ElfFile::from_fd(UniqueFd fd, std::string name) {
  struct stat st = {};
  if (::fstat(fd.get(), &st) != 0) {
    return fail_errno(ErrorCode::kHost, fmt::format("cannot stat {}", quote(name, kMaxShownPath)));
  }
  if (!S_ISREG(st.st_mode)) {
    return fail(ErrorCode::kUsage, fmt::format("{} is not a regular file", quote(name, kMaxShownPath)));
  }
  std::array<char, kStartBytes> start = {};
  const ssize_t got = ::pread(fd.get(), start.data(), start.size(), 0);
  if (got < 0)
    return fail_errno(ErrorCode::kUsage, fmt::format("cannot read {}", quote(name, kMaxShownPath)));

  ElfFile file;
  file.name_ = std::move(name);
  file.size_ = static_cast<std::uint64_t>(st.st_size);
  file.device_ = st.st_dev;
  file.inode_ = st.st_ino;
  file.fd_ = std::move(fd);
  elf_version(EV_CURRENT);
  file.elf_.reset(elf_begin(file.fd_.get(), ELF_C_READ, nullptr));
  auto identified = file.identify(std::string_view(start.data(), static_cast<std::size_t>(got)));
  if (!identified) return std::unexpected(std::move(identified.error()));
  return file;
}

Expected<ElfFile> ElfFile::from_bytes(std::span<const std::byte> bytes, std::string name) {
  ElfFile file;
  file.name_ = std::move(name);
  file.size_ = bytes.size();
  file.memory_ = bytes;
  elf_version(EV_CURRENT);
  // libelf's signature wants mutable bytes but a descriptor made like this is only read.
  auto* image = const_cast<char*>(reinterpret_cast<const char*>(bytes.data()));
  if (!bytes.empty()) file.elf_.reset(elf_memory(image, bytes.size()));
  auto identified = file.identify(std::string_view(image, std::min(bytes.size(), kStartBytes)));
  if (!identified) return std::unexpected(std::move(identified.error()));
  return file;
}

Expected<void> ElfFile::identify(std::string_view start) {
  if (!start.starts_with(ELFMAG)) {
    return fail(ErrorCode::kStartFailed,
                fmt::format("{} {}", quote(name_, kMaxShownPath), describe_other_content(start)));
  }
  GElf_Ehdr header = {};
  if (elf_ == nullptr || elf_kind(elf_.get()) != ELF_K_ELF || gelf_getehdr(elf_.get(), &header) == nullptr) {
    return std::unexpected(damaged("its header is cut off or makes no sense"));
  }
  is_64_bit_ = header.e_ident[EI_CLASS] == ELFCLASS64;
  is_little_endian_ = header.e_ident[EI_DATA] == ELFDATA2LSB;
  machine_ = header.e_machine;
  type_ = header.e_type;
  return {};
}

bool ElfFile::is_x86_64() const {
  return is_64_bit_ && is_little_endian_ && machine_ == EM_X86_64;
}

std::string ElfFile::architecture() const {
  if (machine_ == EM_X86_64 && !is_64_bit_) return "x32";
  const auto* const found = std::ranges::find_if(
      kMachineNames, [this](const MachineName& entry) { return entry.machine == machine_; });
  if (found == kMachineNames.end()) return fmt::format("machine {}", machine_);
  return std::string(found->name) + (is_little_endian_ ? "" : " (big-endian)");
}

Expected<std::string> ElfFile::chunk(std::uint64_t offset, std::uint64_t size,
                                     const std::string& what) const {
  if (offset > size_ || size > size_ - offset) {
    return std::unexpected(damaged(
        fmt::format("{} at {} with {} bytes is outside the file of {} bytes", what, offset, size, size_)));
  }
  std::string bytes(size, '\0');
  if (!fd_) {
    if (size > 0) std::memcpy(bytes.data(), memory_.data() + offset, size);
    return bytes;
  }
  // Not elf_getdata_rawchunk: it keeps every chunk until the file is closed, which a hostile file could make
  // much of.
  for (std::size_t done = 0; done < size;) {
    const ssize_t got =
        ::pread(fd_.get(), bytes.data() + done, size - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return std::unexpected(damaged(what + " cannot be read"));
    done += static_cast<std::size_t>(got);
  }
  return bytes;
}

Expected<std::string> ElfFile::string_at(std::uint64_t offset, std::uint64_t end, std::uint64_t limit,
                                         const std::string& what) const {
  if (offset >= end) return std::unexpected(damaged(what + " is outside the string table"));
  auto bytes = chunk(offset, std::min(end - offset, limit), what);
  if (!bytes) return bytes;
  const std::size_t length = bytes->find('\0');
  if (length == std::string::npos) {
    return std::unexpected(damaged(fmt::format("{} has no end within {} bytes", what, bytes->size())));
  }
  bytes->resize(length);
  return bytes;
}

Expected<ElfDynamic> ElfFile::read_dynamic() const {
  std::size_t count = 0;
  if (elf_getphdrnum(elf_.get(), &count) != 0)
    return std::unexpected(damaged("its program headers are cut off"));
  if (count > kMaxProgramHeaders) {
    return std::unexpected(
        damaged(fmt::format("{} program headers, Linux takes {}", count, kMaxProgramHeaders)));
  }
  ElfDynamic dynamic;
  std::vector<GElf_Phdr> loads;
  std::optional<GElf_Phdr> dynamic_segment;
  for (std::size_t i = 0; i < count; ++i) {
    GElf_Phdr header = {};
    if (gelf_getphdr(elf_.get(), static_cast<int>(i), &header) == nullptr) {
      return std::unexpected(damaged("its program headers are cut off"));
    }
    if (header.p_type == PT_LOAD) loads.push_back(header);
    if (header.p_type == PT_DYNAMIC) dynamic_segment = header;
    if (header.p_type == PT_INTERP) {
      if (header.p_filesz > size_) return std::unexpected(damaged("PT_INTERP is longer than the file"));
      const std::uint64_t end = std::min(size_, header.p_offset) + header.p_filesz;
      auto interpreter = string_at(header.p_offset, end, kMaxName, "PT_INTERP");
      if (!interpreter) return std::unexpected(std::move(interpreter.error()));
      dynamic.interpreter = std::move(*interpreter);
    }
  }
  if (!dynamic_segment) return dynamic;
  dynamic.has_dynamic = true;

  if (!is_x86_64()) return std::unexpected(damaged("its dynamic section is not that of an x86-64 program"));
  const std::uint64_t entries = dynamic_segment->p_filesz / sizeof(Elf64_Dyn);
  if (entries > kMaxDynamicEntries) {
    return std::unexpected(damaged(fmt::format("a dynamic section of {} entries, at most {} are believable",
                                               entries, kMaxDynamicEntries)));
  }
  auto bytes = chunk(dynamic_segment->p_offset, entries * sizeof(Elf64_Dyn), "the dynamic section");
  if (!bytes) return std::unexpected(std::move(bytes.error()));
  std::vector<Elf64_Dyn> table(entries);
  if (entries > 0) std::memcpy(table.data(), bytes->data(), bytes->size());
  const auto terminator = std::ranges::find(table, DT_NULL, &Elf64_Dyn::d_tag);
  table.erase(terminator, table.end());

  std::uint64_t strings_address = 0;
  std::uint64_t strings_size = 0;
  for (const Elf64_Dyn& entry : table) {
    if (entry.d_tag == DT_STRTAB) strings_address = entry.d_un.d_ptr;
    if (entry.d_tag == DT_STRSZ) strings_size = entry.d_un.d_val;
    if (entry.d_tag == DT_FLAGS_1) dynamic.no_default_libraries = (entry.d_un.d_val & DF_1_NODEFLIB) != 0;
  }
  // DT_STRTAB is an address; the PT_LOAD that holds it says where in the file that is.
  const auto load = std::ranges::find_if(loads, [&](const GElf_Phdr& header) {
    return strings_address >= header.p_vaddr && strings_address - header.p_vaddr < header.p_filesz;
  });
  std::uint64_t strings_offset = 0;
  std::uint64_t strings_end = 0;
  if (load != loads.end() && load->p_offset <= size_) {
    const std::uint64_t inside = strings_address - load->p_vaddr;
    strings_offset = load->p_offset + std::min(inside, size_ - load->p_offset);
    strings_end = strings_offset + std::min(strings_size, size_ - strings_offset);
  }
  const auto text = [&](const Elf64_Dyn& entry, const char* tag,
                        std::uint64_t limit = kMaxName) -> Expected<std::string> {
    if (entry.d_un.d_val >= strings_end - strings_offset) {
      return std::unexpected(damaged(fmt::format("{} points outside the string table", tag)));
    }
    return string_at(strings_offset + entry.d_un.d_val, strings_end, limit, tag);
  };
  for (const Elf64_Dyn& entry : table) {
    Expected<std::string> value;
    switch (entry.d_tag) {
      case DT_NEEDED:
      case DT_FILTER:
      case DT_AUXILIARY:
        if (dynamic.needed.size() == kMaxNeeded) {
          return std::unexpected(damaged(fmt::format("it needs more than {} libraries", kMaxNeeded)));
        }
        value = text(entry, "DT_NEEDED");
        if (value) dynamic.needed.push_back({.name = *value, .optional = entry.d_tag == DT_AUXILIARY});
        break;
      case DT_SONAME:
        value = text(entry, "DT_SONAME");
        if (value) dynamic.soname = *value;
        break;
      case DT_RPATH:
        value = text(entry, "DT_RPATH", kMaxSearchPath);
        if (value) dynamic.rpath = *value;
        break;
      case DT_RUNPATH:
        value = text(entry, "DT_RUNPATH", kMaxSearchPath);
        if (value) dynamic.runpath = *value;
        break;
      default:
        break;
    }
    if (!value) return std::unexpected(std::move(value.error()));
  }
  return dynamic;
}

Expected<std::optional<std::string>> ElfFile::read_section(std::string_view section,
                                                           std::size_t limit) const {
  std::size_t names = 0;
  if (elf_getshdrstrndx(elf_.get(), &names) != 0)
    return std::unexpected(damaged("its section headers are cut off"));
  Elf_Scn* scn = nullptr;
  while ((scn = elf_nextscn(elf_.get(), scn)) != nullptr) {
    GElf_Shdr header = {};
    if (gelf_getshdr(scn, &header) == nullptr)
      return std::unexpected(damaged("a section header cannot be read"));
    const char* name = elf_strptr(elf_.get(), names, header.sh_name);
    if (name == nullptr || section != name || header.sh_type == SHT_NOBITS) continue;
    if (header.sh_size > limit) {
      return std::unexpected(damaged(
          fmt::format("section {} has {} bytes, at most {} are believable", section, header.sh_size, limit)));
    }
    auto bytes = chunk(header.sh_offset, header.sh_size, std::string(section));
    if (!bytes) return std::unexpected(std::move(bytes.error()));
    return std::optional(std::move(*bytes));
  }
  return std::nullopt;
}

}  // namespace ktstr
