// launch_qemu: starts the emulator of one machine and keeps our ends of everything that leads to it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/unique_fd.h"
#include "host/machine/machine.h"
#include "host/machine/tcg/child_process.h"
#include "host/machine/tcg/guest_memory_files.h"

namespace ktstr {

struct LaunchedQemu {
  ChildProcess child;
  std::optional<GuestMemoryFiles> memory;  // nothing: a clone has its memory for itself
  UniqueFd state;                          // QemuFd::kState
  UniqueFd qmp, gdb;                       // connected stream sockets
  UniqueFd serial, hvc, frames;            // the guest's ports; pipes or stream sockets
};

// `argv`: of qemu_command(spec, ...). The guest does not run yet. Errors (kHost): the host has too little
// memory, or a file, descriptor or process cannot be made.
Expected<LaunchedQemu> launch_qemu(const BootSpec& spec, const std::vector<std::string>& argv);

}  // namespace ktstr
