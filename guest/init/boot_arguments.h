// What the host tells PID 1 on the kernel command line. Everything else travels in the plan.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ktstr::guest {

// Faults that PID 1 provokes on request, 500 ms after the scenario's start, so that the harness's own tests
// can see that each of them is noticed, named and judged rightly. `ktstr.inject=<name>`:
enum class Injection {
  kNone,
  kPanic,          // "panic": the kernel panics (SysRq-C)
  kInitCrash,      // "init-crash": PID 1 writes to address 0
  kInitThrow,      // "init-throw": PID 1 ends in std::terminate
  kExit,           // "exit": PID 1 exits, which panics the kernel
  kSilent,         // "silent": PID 1 stops serving anything, the kernel lives on
  kKillScheduler,  // "kill-scheduler": SIGKILL for the scheduler under test
  kLateOutput,     // "late-output": as the last thing before the result, 1 MiB of scheduler output
  kTopology,       // "topology": PID 1 expects a topology that the plan does not have
};

struct BootArguments {
  // ktstr.frames=virtio:<name>: name of the virtio-console port for frames. Empty: not given.
  std::string frame_port;
  // ktstr.frames=debugcon:<number>: the debug port for frames; the plan is in the initramfs. 0: not given.
  std::uint16_t debug_port = 0;
  Injection injection = Injection::kNone;
  // ktstr.* arguments nobody understands, each with the reason, for the log.
  std::vector<std::string> problems;
};

// Parses /proc/cmdline: blanks separate, double quotes protect blanks (lib/cmdline.c, next_arg), the last one
// of several wins, everything that does not start with "ktstr." is somebody else's.
BootArguments parse_boot_arguments(std::string_view command_line);

}  // namespace ktstr::guest
