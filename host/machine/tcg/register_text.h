// Registers out of what QEMU's human monitor prints for `info registers` (target/i386/cpu-dump.c).
//
// The text is the one interface that also has the IDT, the GDT and the halted state: the gdb stub lacks them.
// It prints no KernelGSBase and no LSTAR, so VcpuRegisters::kernel_gs_base stays 0.
#pragma once

#include <cstddef>
#include <string_view>

#include "common/error.h"
#include "host/machine/machine.h"

namespace ktstr {

// Longest text looked at: one vCPU's is about 4.5 KB with its vector registers.
inline constexpr std::size_t kMaxRegisterText = std::size_t{64} << 10;

// Parses the registers of one vCPU. Takes 64-bit names (RAX=) and the 32-bit ones (EAX=) that a vCPU outside
// of long mode shows. Error kHost when the text is too long or lacks a register, naming it.
Expected<VcpuRegisters> parse_register_text(std::string_view text);

}  // namespace ktstr
