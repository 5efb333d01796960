#include "common/wait_status.h"

#include <sys/wait.h>

#include <cstring>

#include <fmt/core.h>

namespace ktstr {

std::string describe_exit(int wait_status) {
  if (WIFEXITED(wait_status)) return fmt::format("exit code {}", WEXITSTATUS(wait_status));
  if (WIFSIGNALED(wait_status)) {
    const int number = WTERMSIG(wait_status);
    const char* name = sigdescr_np(number);
    return fmt::format("killed by signal {} ({})", number, name != nullptr ? name : "unknown");
  }
  return fmt::format("wait status {:#x}", wait_status);
}

}  // namespace ktstr
