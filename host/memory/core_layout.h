// Layouts of the notes in a memory core; <elf.h> and <sys/procfs.h> have no more than names for them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace ktstr::core {

// struct elf_prstatus on x86-64: of it only pr_pid and pr_reg matter here.
struct PrStatus {
  std::array<std::byte, 32> signals;
  std::uint32_t pid;
  std::array<std::byte, 76> times;
  // struct user_regs_struct
  std::uint64_t r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, orig_rax;
  std::uint64_t rip, cs, rflags, rsp, ss, fs_base, gs_base, ds, es, fs, gs;
  std::uint64_t fpvalid;
};
static_assert(sizeof(PrStatus) == 336 && offsetof(PrStatus, r15) == 112);

// QEMUCPUSegment and QEMUCPUState, version 1. A later QEMU may append to it.
struct QemuSegment {
  std::uint32_t selector, limit, flags, pad;
  std::uint64_t base;
};
struct QemuCpu {
  std::uint32_t version, size;
  std::uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags;
  QemuSegment cs, ds, es, fs, gs, ss, ldt, tr, gdt, idt;
  std::array<std::uint64_t, 5> cr;
  std::uint64_t kernel_gs_base;
};
static_assert(sizeof(QemuCpu) == 440 && offsetof(QemuCpu, idt) == 368 && offsetof(QemuCpu, cr) == 392);

}  // namespace ktstr::core
