// The command line of ktstr-sched.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/error.h"

namespace ktstr::sched {

// One variable of the BPF code, and what it is set to before the start.
struct Setting {
  const char* variable;
  std::uint64_t value;
};

struct Options {
  bool help = false;
  std::vector<Setting> settings;
  bool fail_verify = false;
  bool hold_on_dsq = false;
  // SCX_OPS_SWITCH_PARTIAL: only tasks of the policy SCHED_EXT.
  bool partial = false;
  // 0: never.
  std::uint64_t exit_after_ms = 0;
  // When SysRq-S is raised; 0: never.
  std::uint64_t sysrq_after_ms = 0;
  // ops.timeout_ms; 0: the kernel's own, 30 s.
  std::uint32_t timeout_ms = 5000;
  // ops.exit_dump_len in bytes; 0: the kernel's own, 32768.
  std::uint32_t dump_size = 0;
};

std::string help_text();

// Error kUsage for an unknown option, a missing or bad value, or an argument that is no option.
Expected<Options> parse_options(const std::vector<std::string>& arguments);

}  // namespace ktstr::sched
