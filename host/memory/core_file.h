// CoreFile: memory of a machine that someone else wrote to a file, as an ELF core.
//
// QEMU's dump-guest-memory and `virsh dump --memory-only` write such files, and so do kdump (/proc/vmcore)
// and makedumpfile -E. They are ET_CORE files whose PT_LOAD segments are ranges of physical memory: p_paddr
// is the guest-physical address (p_vaddr means little: QEMU leaves it 0, kdump puts the direct map there).
// Notes give the rest:
//   "CORE" NT_PRSTATUS  general registers, one for each CPU (struct elf_prstatus, kernel
//   include/uapi/linux/elfcore.h) "QEMU" 0            QEMU's state of a CPU with control registers and IDT
//   (QEMU target/i386/arch_dump.c) "VMCOREINFO" 0      the kernel's own text about itself
//   (kernel/vmcore_info.c)
//
// /proc/vmcore has the kernel's text twice, as a segment of its own and within RAM; such an overlap is cut
// off. Memory that a segment has, but the file has not (p_filesz < p_memsz), was left out by makedumpfile, as
// zero pages or as pages nobody wants; it reads as zeros, as crash(8) does it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/mapping.h"
#include "host/memory/guest_memory.h"

namespace ktstr {

// What a core says about one CPU. CPUs are in the order of the file: their number, except that kdump leaves
// out those that were offline.
struct VcpuRegistersOfCore {
  // rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8 to r15
  std::array<std::uint64_t, 16> general = {};
  std::uint64_t rip = 0;
  std::uint64_t rflags = 0;
  std::uint64_t cs = 0;
  std::uint64_t gs_base = 0;
  // Only where there is a QEMU note.
  std::optional<std::uint64_t> cr0;
  std::optional<std::uint64_t> cr2;
  std::optional<std::uint64_t> cr3;
  std::optional<std::uint64_t> cr4;
  std::optional<std::uint64_t> idt_base;
  std::optional<std::uint32_t> idt_limit;
  std::optional<std::uint64_t> kernel_gs_base;

  bool operator==(const VcpuRegistersOfCore&) const = default;
};

class CoreFile {
 public:
  enum class Kind { kQemu, kKdump, kOther };
  static constexpr std::size_t kMaxSegments = std::size_t{1} << 20;
  static constexpr std::size_t kMaxCpus = 8192;
  static constexpr std::size_t kMaxNoteBytes = std::size_t{64} << 20;

  // Maps the file. Error kUsage: it cannot be opened, is cut off, is of another machine, is no core or that
  // of a process, or is a kind of memory image that must be converted first; the message says how.
  static Expected<CoreFile> open(const std::string& path);
  // The same for bytes in memory, which must outlive the result; `name` is for messages.
  static Expected<CoreFile> parse(std::span<const std::byte> bytes, const std::string& name);

  // Valid as long as this object.
  const GuestMemory& memory() const { return memory_; }
  // "OSRELEASE=...\n...", empty where there is none.
  const std::string& vmcoreinfo() const { return vmcoreinfo_; }
  const std::vector<VcpuRegistersOfCore>& vcpus() const { return vcpus_; }
  Kind kind() const { return kind_; }
  // Memory that the file leaves out and that reads as zeros.
  std::uint64_t left_out_bytes() const { return left_out_; }

 private:
  class Reader;

  Mapping file_;
  Mapping zeros_;
  GuestMemory memory_;
  std::string vmcoreinfo_;
  std::vector<VcpuRegistersOfCore> vcpus_;
  Kind kind_ = Kind::kOther;
  std::uint64_t left_out_ = 0;
};

}  // namespace ktstr
