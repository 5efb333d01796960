// The debug port: one I/O port of the machine that swallows bytes (QEMU's isa-debugcon).
//
// A write is done within its instruction, whatever the host is doing, so the guest cannot tell a slow host
// from a fast one: what deterministic runs need. Nothing comes back.
#pragma once

#include <cstdint>
#include <span>

namespace ktstr::guest {

// Writes all of `bytes`. The right to use the port is taken for the time of the write only: it would be
// passed on through fork and exec to every worker and to the scheduler (ioperm(2)). No heap, no locks. False,
// with errno set, when the kernel has no CONFIG_X86_IOPL_IOPERM.
bool write_debug_port(std::uint16_t port, std::span<const char> bytes);

}  // namespace ktstr::guest
