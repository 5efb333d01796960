// A vCPU's registers as a machine has them, and as ELF cores do.
#pragma once

#include "host/machine/machine.h"
#include "host/memory/core_file.h"

namespace ktstr {

VcpuRegistersOfCore to_core(const VcpuRegisters& registers);
// What a core does not have is 0; `halted` is not known.
VcpuRegisters from_core(const VcpuRegistersOfCore& registers);

}  // namespace ktstr
