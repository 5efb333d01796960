#include "host/run/core_registers.h"

namespace ktstr {

VcpuRegistersOfCore to_core(const VcpuRegisters& r) {
  VcpuRegistersOfCore core;
  core.general = {r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp,
                  r.r8,  r.r9,  r.r10, r.r11, r.r12, r.r13, r.r14, r.r15};
  core.rip = r.rip;
  core.rflags = r.rflags;
  core.cs = r.cs;
  core.gs_base = r.gs_base;
  core.cr0 = r.cr0;
  core.cr2 = r.cr2;
  core.cr3 = r.cr3;
  core.cr4 = r.cr4;
  core.idt_base = r.idt_base;
  core.idt_limit = r.idt_limit;
  core.kernel_gs_base = r.kernel_gs_base;
  return core;
}

VcpuRegisters from_core(const VcpuRegistersOfCore& core) {
  VcpuRegisters r;
  const auto& g = core.general;
  r.rax = g[0], r.rbx = g[1], r.rcx = g[2], r.rdx = g[3];
  r.rsi = g[4], r.rdi = g[5], r.rbp = g[6], r.rsp = g[7];
  r.r8 = g[8], r.r9 = g[9], r.r10 = g[10], r.r11 = g[11];
  r.r12 = g[12], r.r13 = g[13], r.r14 = g[14], r.r15 = g[15];
  r.rip = core.rip;
  r.rflags = core.rflags;
  r.cs = static_cast<std::uint16_t>(core.cs);
  r.gs_base = core.gs_base;
  r.cr0 = core.cr0.value_or(0);
  r.cr2 = core.cr2.value_or(0);
  r.cr3 = core.cr3.value_or(0);
  r.cr4 = core.cr4.value_or(0);
  r.idt_base = core.idt_base.value_or(0);
  r.idt_limit = core.idt_limit.value_or(0);
  r.kernel_gs_base = core.kernel_gs_base.value_or(0);
  return r;
}

}  // namespace ktstr
