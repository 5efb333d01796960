#include "host/memory/core_file.h"

#include <elf.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <type_traits>
#include <utility>

#include <fmt/format.h>

#include "common/quote.h"
#include "host/memory/core_layout.h"

namespace ktstr {
namespace {

// One anonymous read-only mapping stands for everything that was left out: it costs address space, not
// memory.
constexpr std::uint64_t kMaxZeros = std::uint64_t{1} << 44;

template <typename T>
std::optional<T> load(std::span<const std::byte> bytes, std::uint64_t offset) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (offset > bytes.size() || sizeof(T) > bytes.size() - offset) return std::nullopt;
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

bool starts_with(std::span<const std::byte> bytes, std::string_view text) {
  return bytes.size() >= text.size() && std::memcmp(bytes.data(), text.data(), text.size()) == 0;
}

// What the file is, when it is a memory image of a kind that is not read here.
std::string other_format(std::span<const std::byte> bytes) {
  using namespace std::string_view_literals;
  if (starts_with(bytes, "KDUMP   "sv)) {
    return "is a compressed kdump file; make an ELF core of it with `makedumpfile -E -d 0`, or from QEMU "
           "with "
           "dump-guest-memory without -z, -l or -s";
  }
  if (starts_with(bytes, "DISKDUMP"sv)) return "is a diskdump file; only ELF cores are read";
  if (starts_with(bytes, "makedumpfile\0"sv)) {
    return "is a flattened makedumpfile stream; put it together with `makedumpfile -R OUT < FILE` and make "
           "it an ELF "
           "core (-E)";
  }
  if (starts_with(bytes, "\x28\xb5\x2f\xfd"sv)) return "is compressed with zstd; unpack it first (zstd -d)";
  if (starts_with(bytes, "\x1f\x8b"sv)) return "is compressed with gzip; unpack it first (gunzip)";
  if (starts_with(bytes,
                  "\xfd"
                  "7zXZ\0"sv))
    return "is compressed with xz; unpack it first (unxz)";
  if (starts_with(bytes, "QEVM"sv))
    return "is a saved state of QEMU (migrate), no memory image; use dump-guest-memory";
  if (starts_with(bytes, "QFI\xfb"sv)) return "is a disk image (qcow2), no memory image";
  return "is no ELF core; one from QEMU's dump-guest-memory or from kdump would be right";
}

std::string machine_name(std::uint16_t machine) {
  switch (machine) {
    case EM_386:
      return "32-bit x86";
    case EM_AARCH64:
      return "aarch64";
    case EM_PPC64:
      return "ppc64";
    case EM_S390:
      return "s390";
    case EM_RISCV:
      return "riscv";
    default:
      return fmt::format("ELF machine {}", machine);
  }
}

struct Piece {
  std::uint64_t gpa = 0;
  std::span<const std::byte> bytes;
};

}  // namespace

class CoreFile::Reader {
 public:
  Reader(std::span<const std::byte> bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  Expected<CoreFile> read() {
    if (auto done = read_header(); !done) return std::unexpected(std::move(done.error()));
    // Notes first: they tell a process's core, whose segments are not physical.
    for (const bool notes : {true, false}) {
      for (std::uint64_t i = 0; i < segments_; ++i) {
        const auto segment = load<Elf64_Phdr>(bytes_, table_ + i * sizeof(Elf64_Phdr));
        if (!segment) return cut_off("its program headers");
        if (notes != (segment->p_type == PT_NOTE)) continue;
        if (!notes && segment->p_type != PT_LOAD) continue;
        auto done = notes ? read_notes(*segment, i) : read_memory(*segment, i);
        if (!done) return std::unexpected(std::move(done.error()));
      }
      if (notes && process_) {
        return bad(
            "is the core of a process, not of a machine's memory; one from QEMU's dump-guest-memory or from "
            "kdump would be right");
      }
    }
    if (pieces_.empty() && holes_.empty())
      return bad("holds no memory: it has no PT_LOAD segment with a physical address");
    return finish();
  }

 private:
  std::unexpected<Error> bad(const std::string& why) const {
    return fail(ErrorCode::kUsage, fmt::format("memory image {} {}", name_, why));
  }
  std::unexpected<Error> cut_off(const std::string& what) const {
    return bad(fmt::format("is cut off: {} would end after its last byte, {}", what, bytes_.size()));
  }

  Expected<> read_header() {
    if (bytes_.empty()) return bad("is empty");
    if (!starts_with(bytes_, ELFMAG)) return bad(other_format(bytes_));
    if (bytes_.size() < EI_NIDENT) return cut_off("its ELF header");
    const auto ident = [&](std::size_t at) { return static_cast<unsigned char>(bytes_[at]); };
    if (ident(EI_DATA) != ELFDATA2LSB) return bad("is of a big-endian machine; only x86-64 is read");
    if (ident(EI_CLASS) != ELFCLASS64) {
      return bad(
          "is a 32-bit ELF file; only ELF64 of x86-64 is read (QEMU writes 32 bits when the machine stands "
          "in "
          "32-bit code, kdump with --elf32-core-headers)");
    }
    const auto header = load<Elf64_Ehdr>(bytes_, 0);
    if (!header) return cut_off("its ELF header");
    if (header->e_machine != EM_X86_64)
      return bad(fmt::format("is of {}; only x86-64 is read", machine_name(header->e_machine)));
    if (header->e_type != ET_CORE) {
      return bad("is an ELF file, but no core; a kernel belongs to --vmlinux or --kernel");
    }
    if (header->e_phentsize != sizeof(Elf64_Phdr)) {
      return bad(fmt::format("has program headers of {} bytes; {} would be right", header->e_phentsize,
                             sizeof(Elf64_Phdr)));
    }
    segments_ = header->e_phnum;
    table_ = header->e_phoff;
    if (header->e_phnum == PN_XNUM) {
      // Too many for 16 bits: the number is in the first section header (System V ABI, e_phnum).
      const auto section = load<Elf64_Shdr>(bytes_, header->e_shoff);
      if (!section) return cut_off("the section header with the number of segments");
      segments_ = section->sh_info;
    }
    if (segments_ > kMaxSegments)
      return bad(fmt::format("has {} segments; more than {} are not read", segments_, kMaxSegments));
    if (table_ > bytes_.size() || segments_ * sizeof(Elf64_Phdr) > bytes_.size() - table_)
      return cut_off("its program headers");
    return {};
  }

  Expected<std::span<const std::byte>> contents(const Elf64_Phdr& segment, std::uint64_t index) const {
    if (segment.p_offset > bytes_.size() || segment.p_filesz > bytes_.size() - segment.p_offset) {
      return cut_off(
          fmt::format("segment {} ({:#x} bytes at {:#x})", index, segment.p_filesz, segment.p_offset));
    }
    return bytes_.subspan(segment.p_offset, segment.p_filesz);
  }

  Expected<> read_memory(const Elf64_Phdr& segment, std::uint64_t index) {
    // Ranges without a physical address, as /proc/kcore has them for vmalloc.
    if (segment.p_paddr == ~std::uint64_t{0} || segment.p_memsz == 0) return {};
    auto there = contents(segment, index);
    if (!there) return std::unexpected(std::move(there.error()));
    const std::uint64_t size = std::max(segment.p_memsz, segment.p_filesz);
    if (segment.p_paddr >= GuestMemory::kAddressLimit ||
        size > GuestMemory::kAddressLimit - segment.p_paddr) {
      return bad(
          fmt::format("has a segment ({}) of {:#x} bytes at physical {:#x}, beyond the last address of any "
                      "x86-64 machine",
                      index, size, segment.p_paddr));
    }
    if (!there->empty()) pieces_.push_back({segment.p_paddr, *there});
    if (size > there->size()) holes_.push_back({segment.p_paddr + there->size(), size - there->size()});
    return {};
  }

  Expected<> read_notes(const Elf64_Phdr& segment, std::uint64_t index) {
    auto there = contents(segment, index);
    if (!there) return std::unexpected(std::move(there.error()));
    // Of all segments: nothing keeps thousands of them from naming the same bytes.
    note_bytes_ += there->size();
    if (note_bytes_ > kMaxNoteBytes)
      return bad(fmt::format("has {} bytes of notes; more than {} are not read", note_bytes_, kMaxNoteBytes));
    std::uint64_t at = 0;
    // A damaged note ends the list; kdump pads it with empty ones.
    while (const auto note = load<Elf64_Nhdr>(*there, at)) {
      const auto padded = [](std::uint64_t size) { return (size + 3) & ~std::uint64_t{3}; };
      const std::uint64_t name_at = at + sizeof(Elf64_Nhdr);
      const std::uint64_t desc_at = name_at + padded(note->n_namesz);
      const std::uint64_t end = desc_at + note->n_descsz;
      if (end > there->size()) break;
      std::string_view name(reinterpret_cast<const char*>(there->data() + name_at), note->n_namesz);
      name = name.substr(0, name.find('\0'));
      take_note(name, note->n_type, there->subspan(desc_at, note->n_descsz));
      at = std::min<std::uint64_t>(desc_at + padded(note->n_descsz), there->size());
    }
    return {};
  }

  void take_note(std::string_view name, std::uint32_t type, std::span<const std::byte> bytes) {
    if (name == "CORE" && type == NT_AUXV) process_ = true;
    if (name == "CORE" && type == NT_PRSTATUS && prstatus_.size() < kMaxCpus) {
      if (const auto status = load<core::PrStatus>(bytes, 0)) prstatus_.push_back(*status);
    }
    if (name == "QEMU" && type == 0 && qemu_.size() < kMaxCpus) {
      const auto cpu = load<core::QemuCpu>(bytes, 0);
      if (cpu && cpu->version == 1 && cpu->size >= sizeof(core::QemuCpu)) qemu_.push_back(*cpu);
    }
    if (name == "VMCOREINFO" && type == 0 && core_.vmcoreinfo_.empty()) {
      const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      core_.vmcoreinfo_ = text.substr(0, text.find('\0'));
    }
  }

  void make_vcpus() {
    for (std::size_t i = 0; i < std::max(prstatus_.size(), qemu_.size()); ++i) {
      VcpuRegistersOfCore to;
      if (i < prstatus_.size()) {
        const core::PrStatus& from = prstatus_[i];
        to.general = {from.rax, from.rbx, from.rcx, from.rdx, from.rsi, from.rdi, from.rbp, from.rsp,
                      from.r8,  from.r9,  from.r10, from.r11, from.r12, from.r13, from.r14, from.r15};
        to.rip = from.rip;
        to.rflags = from.rflags;
        to.cs = from.cs;
        to.gs_base = from.gs_base;
      }
      if (i < qemu_.size()) {
        const core::QemuCpu& from = qemu_[i];
        to.general = {from.rax, from.rbx, from.rcx, from.rdx, from.rsi, from.rdi, from.rbp, from.rsp,
                      from.r8,  from.r9,  from.r10, from.r11, from.r12, from.r13, from.r14, from.r15};
        to.rip = from.rip;
        to.rflags = from.rflags;
        to.cs = from.cs.selector;
        to.gs_base = from.gs.base;
        to.cr0 = from.cr[0];
        to.cr2 = from.cr[2];
        to.cr3 = from.cr[3];
        to.cr4 = from.cr[4];
        to.idt_base = from.idt.base;
        to.idt_limit = from.idt.limit;
        to.kernel_gs_base = from.kernel_gs_base;
      }
      core_.vcpus_.push_back(to);
    }
  }

  // Takes off what an earlier region has already. What is left of `pieces` is ascending and without overlap.
  static void add_without_overlap(std::vector<Piece> pieces, std::vector<MemoryRegion>& regions) {
    std::stable_sort(pieces.begin(), pieces.end(),
                     [](const Piece& a, const Piece& b) { return a.gpa < b.gpa; });
    std::uint64_t free = 0;
    for (Piece& piece : pieces) {
      const std::uint64_t end = piece.gpa + piece.bytes.size();
      if (end <= free) continue;
      if (piece.gpa < free) {
        piece.bytes = piece.bytes.subspan(free - piece.gpa);
        piece.gpa = free;
      }
      free = end;
      regions.push_back({.gpa = Gpa(piece.gpa), .bytes = piece.bytes});
    }
  }

  // Zeros wherever a hole is not covered by contents. `regions` is ascending.
  Expected<> add_holes(std::vector<MemoryRegion>& regions) {
    std::uint64_t longest = 0;
    for (const Hole& hole : holes_) longest = std::max(longest, hole.size);
    if (longest == 0) return {};
    if (longest > kMaxZeros) return bad(fmt::format("leaves out {:#x} bytes in one piece", longest));
    auto zeros = Mapping::map(-1, longest, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
    if (!zeros) return propagate(std::move(zeros.error()), "reading memory image " + name_);
    core_.zeros_ = std::move(*zeros);
    std::sort(holes_.begin(), holes_.end(), [](const Hole& x, const Hole& y) { return x.gpa < y.gpa; });
    std::vector<Piece> parts;
    std::uint64_t done = 0;  // what lies below has its zeros; so every region is passed once
    for (const Hole& hole : holes_) {
      std::uint64_t at = std::max(hole.gpa, done);
      const std::uint64_t end = hole.gpa + hole.size;
      done = std::max(done, end);
      auto next = std::upper_bound(regions.begin(), regions.end(), Gpa(at),
                                   [](Gpa gpa, const MemoryRegion& region) { return gpa < region.gpa; });
      if (next != regions.begin())
        at = std::max(at, (std::prev(next)->gpa + std::prev(next)->bytes.size()).value());
      for (; at < end; ++next) {
        const std::uint64_t stop = next == regions.end() ? end : std::min(end, next->gpa.value());
        if (at < stop) parts.push_back({at, core_.zeros_.bytes().first(stop - at)});
        if (next == regions.end()) break;
        at = (next->gpa + next->bytes.size()).value();
      }
    }
    std::vector<MemoryRegion> zero_regions;
    add_without_overlap(std::move(parts), zero_regions);
    for (const MemoryRegion& region : zero_regions) {
      core_.left_out_ += region.bytes.size();
      regions.push_back(region);
    }
    return {};
  }

  Expected<CoreFile> finish() {
    make_vcpus();
    std::vector<MemoryRegion> regions;
    add_without_overlap(std::move(pieces_), regions);
    if (auto done = add_holes(regions); !done) return std::unexpected(std::move(done.error()));
    auto memory = GuestMemory::create(std::move(regions));
    if (!memory) return propagate(std::move(memory.error()), "reading memory image " + name_);
    core_.memory_ = std::move(*memory);
    core_.kind_ = !qemu_.empty() ? Kind::kQemu : !core_.vmcoreinfo_.empty() ? Kind::kKdump : Kind::kOther;
    return std::move(core_);
  }

  struct Hole {
    std::uint64_t gpa = 0;
    std::uint64_t size = 0;
  };

  std::span<const std::byte> bytes_;
  std::string name_;
  std::uint64_t table_ = 0;
  std::uint64_t segments_ = 0;
  std::uint64_t note_bytes_ = 0;
  bool process_ = false;
  std::vector<core::PrStatus> prstatus_;
  std::vector<core::QemuCpu> qemu_;
  std::vector<Piece> pieces_;
  std::vector<Hole> holes_;
  CoreFile core_;
};

Expected<CoreFile> CoreFile::parse(std::span<const std::byte> bytes, const std::string& name) {
  return Reader(bytes, name).read();
}

Expected<CoreFile> CoreFile::open(const std::string& path) {
  auto file = Mapping::map_file(path.c_str());
  if (!file) return propagate(std::move(file.error()), "opening a memory image");
  auto core = parse(file->bytes(), quote(path, 300));
  if (core) core->file_ = std::move(*file);
  return core;
}

}  // namespace ktstr
