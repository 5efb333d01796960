#include "host/memory/core_writer.h"

#include <elf.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "common/quote.h"
#include "common/unique_fd.h"
#include "host/memory/core_layout.h"

namespace ktstr {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::size_t kPiece = 256 * kPage;

template <typename T>
void append(std::string& to, const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  to.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

void append_note(std::string& to, std::string_view name, std::uint32_t type, std::string_view contents) {
  Elf64_Nhdr header = {};
  header.n_namesz = static_cast<Elf64_Word>(name.size() + 1);
  header.n_descsz = static_cast<Elf64_Word>(contents.size());
  header.n_type = type;
  append(to, header);
  const auto padded = [&](std::string_view text, std::size_t size) {
    to.append(text);
    to.append((size + 3) / 4 * 4 - text.size(), '\0');
  };
  padded(name, name.size() + 1);
  padded(contents, contents.size());
}

std::string prstatus_of(const VcpuRegistersOfCore& vcpu, std::uint32_t cpu) {
  core::PrStatus status = {};
  const auto& g = vcpu.general;
  // crash takes the number of the CPU from it, plus 1 as QEMU has it.
  status.pid = cpu + 1;
  status.rax = g[0], status.rbx = g[1], status.rcx = g[2], status.rdx = g[3];
  status.rsi = g[4], status.rdi = g[5], status.rbp = g[6], status.rsp = g[7];
  status.r8 = g[8], status.r9 = g[9], status.r10 = g[10], status.r11 = g[11];
  status.r12 = g[12], status.r13 = g[13], status.r14 = g[14], status.r15 = g[15];
  status.orig_rax = ~std::uint64_t{0};
  status.rip = vcpu.rip;
  status.rflags = vcpu.rflags;
  status.cs = vcpu.cs;
  status.gs_base = vcpu.gs_base;
  std::string bytes;
  append(bytes, status);
  return bytes;
}

std::string qemu_state_of(const VcpuRegistersOfCore& vcpu) {
  core::QemuCpu state = {};
  const auto& g = vcpu.general;
  state.version = 1;
  state.size = sizeof state;
  state.rax = g[0], state.rbx = g[1], state.rcx = g[2], state.rdx = g[3];
  state.rsi = g[4], state.rdi = g[5], state.rbp = g[6], state.rsp = g[7];
  state.r8 = g[8], state.r9 = g[9], state.r10 = g[10], state.r11 = g[11];
  state.r12 = g[12], state.r13 = g[13], state.r14 = g[14], state.r15 = g[15];
  state.rip = vcpu.rip;
  state.rflags = vcpu.rflags;
  state.cs.selector = static_cast<std::uint32_t>(vcpu.cs);
  state.gs.base = vcpu.gs_base;
  state.cr = {vcpu.cr0.value_or(0), 0, vcpu.cr2.value_or(0), vcpu.cr3.value_or(0), vcpu.cr4.value_or(0)};
  state.idt.base = vcpu.idt_base.value_or(0);
  state.idt.limit = vcpu.idt_limit.value_or(0);
  state.kernel_gs_base = vcpu.kernel_gs_base.value_or(0);
  std::string bytes;
  append(bytes, state);
  return bytes;
}

std::string notes_of(const CoreContents& contents) {
  std::string notes;
  for (std::size_t i = 0; i < contents.vcpus.size(); ++i) {
    append_note(notes, "CORE", NT_PRSTATUS, prstatus_of(contents.vcpus[i], static_cast<std::uint32_t>(i)));
  }
  const auto complete = [](const VcpuRegistersOfCore& vcpu) { return vcpu.cr3.has_value(); };
  if (std::all_of(contents.vcpus.begin(), contents.vcpus.end(), complete)) {
    for (const auto& vcpu : contents.vcpus) append_note(notes, "QEMU", 0, qemu_state_of(vcpu));
  }
  if (!contents.vmcoreinfo.empty()) append_note(notes, "VMCOREINFO", 0, contents.vmcoreinfo);
  return notes;
}

constexpr std::uint64_t page_up(std::uint64_t value) {
  return (value + kPage - 1) & ~(kPage - 1);
}

// All that comes before the memory, and where in the file that begins.
std::string headers_of(const CoreContents& contents, std::uint64_t& memory_at, std::uint64_t& file_size) {
  const std::string notes = notes_of(contents);
  const std::size_t segments = contents.ranges.size() + 1;
  Elf64_Ehdr header = {};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_CORE;
  header.e_machine = EM_X86_64;
  header.e_version = EV_CURRENT;
  header.e_phoff = sizeof header;
  header.e_ehsize = sizeof header;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = static_cast<Elf64_Half>(segments);
  std::string bytes;
  append(bytes, header);
  const std::uint64_t notes_at = sizeof header + segments * sizeof(Elf64_Phdr);
  Elf64_Phdr note = {};
  note.p_type = PT_NOTE;
  note.p_offset = notes_at;
  note.p_filesz = note.p_memsz = notes.size();
  append(bytes, note);
  memory_at = page_up(notes_at + notes.size());
  std::uint64_t at = memory_at;
  for (const PhysicalRange& range : contents.ranges) {
    Elf64_Phdr load = {};
    load.p_type = PT_LOAD;
    load.p_flags = PF_R | PF_W | PF_X;
    load.p_offset = at;
    load.p_vaddr = (contents.direct_map + range.gpa.value()).value();
    load.p_paddr = range.gpa.value();
    load.p_filesz = load.p_memsz = range.size;
    // As the kernel's and QEMU's cores have it: crash takes a core with page-aligned segments that say so for
    // a netdump of old, and dies of its notes (is_netdump() in its netdump.c).
    load.p_align = 0;
    append(bytes, load);
    at = page_up(at + range.size);
  }
  file_size = contents.ranges.empty() ? memory_at : at;
  return bytes + notes;
}

class Output {
 public:
  explicit Output(std::string path)
      : path_(std::move(path)), temporary_(fmt::format("{}.{}.tmp", path_, ::getpid())) {}
  Output(Output&&) = delete;
  ~Output() {
    if (there_) ::unlink(temporary_.c_str());
  }

  Expected<> create(std::uint64_t size) {
    fd_.reset(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd_) return failed();
    there_ = true;
    if (::ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) return failed();
    return {};
  }
  Expected<> write(std::span<const std::byte> bytes, std::uint64_t at) {
    while (!bytes.empty()) {
      const ssize_t written = ::pwrite(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(at));
      if (written < 0) {
        if (errno == EINTR) continue;
        return failed();
      }
      bytes = bytes.subspan(static_cast<std::size_t>(written));
      at += static_cast<std::uint64_t>(written);
    }
    return {};
  }
  Expected<> publish() {
    fd_.reset();
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) return failed();
    there_ = false;
    return {};
  }

 private:
  std::unexpected<Error> failed() const {
    return fail_errno(ErrorCode::kHost, "cannot write the core " + quote(path_, 300));
  }

  std::string path_;
  std::string temporary_;
  UniqueFd fd_;
  bool there_ = false;
};

// Writes `piece` without its pages of zeros.
Expected<> write_sparse(Output& output, std::span<const std::byte> piece, std::uint64_t at) {
  const auto is_zero = [](std::span<const std::byte> page) {
    return page.front() == std::byte{0} && std::memcmp(page.data(), page.data() + 1, page.size() - 1) == 0;
  };
  std::size_t done = 0;
  while (done < piece.size()) {
    std::size_t end = done;
    while (end < piece.size() &&
           !is_zero(piece.subspan(end, std::min<std::size_t>(kPage, piece.size() - end)))) {
      end = std::min<std::size_t>(end + kPage, piece.size());
    }
    if (auto written = output.write(piece.subspan(done, end - done), at + done); !written) return written;
    done = std::min<std::size_t>(end + kPage, piece.size());
  }
  return {};
}

}  // namespace

Expected<> write_core(const std::string& path, const GuestMemory& memory, const CoreContents& contents) {
  if (contents.ranges.size() + 1 >= PN_XNUM) {
    return fail(ErrorCode::kUsage,
                fmt::format("a core cannot have {} ranges of memory; at most {} are possible",
                            contents.ranges.size(), PN_XNUM - 2));
  }
  std::uint64_t at = 0;
  std::uint64_t size = 0;
  const std::string headers = headers_of(contents, at, size);
  Output output(path);
  if (auto done = output.create(size); !done) return done;
  if (auto done = output.write(std::as_bytes(std::span(headers)), 0); !done) return done;
  std::vector<std::byte> piece(kPiece);
  for (const PhysicalRange& range : contents.ranges) {
    for (std::uint64_t offset = 0; offset < range.size; offset += kPiece) {
      const std::span<std::byte> part =
          std::span(piece).first(std::min<std::uint64_t>(kPiece, range.size - offset));
      ReadBudget budget(part.size(), std::numeric_limits<std::uint64_t>::max());
      if (const auto read = memory.read(range.gpa + offset, part, budget); !read) {
        return fail(ErrorCode::kHost,
                    fmt::format("cannot write the core {}: {}", quote(path, 300), read.error().to_string()));
      }
      if (auto done = write_sparse(output, part, at + offset); !done) return done;
    }
    at = page_up(at + range.size);
  }
  return output.publish();
}

}  // namespace ktstr
