#include "common/cache_folder.h"

#include <unistd.h>

#include <cstdlib>
#include <string>

namespace ktstr {

std::filesystem::path cache_folder() {
  if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg != nullptr && xdg[0] == '/') {
    return std::filesystem::path(xdg) / "ktstr-vm";
  }
  if (const char* home = std::getenv("HOME"); home != nullptr && home[0] == '/') {
    return std::filesystem::path(home) / ".cache" / "ktstr-vm";
  }
  return "/tmp/ktstr-vm-" + std::to_string(::getuid());
}

}  // namespace ktstr
