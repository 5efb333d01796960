// Real kernels, as distributions package them, where the machine has some: below the cache's kernels folder,
// or named by an environment variable (image or folder), as KTSTR_TEST_KERNEL_72.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

#include "host/kernel/image_cache.h"

namespace ktstr::test {

struct PackagedImage {
  const char* name;
  const char* variable;
  const char* series;
};

// "" when there is none.
inline std::string find_packaged_image(const PackagedImage& kernel) {
  namespace fs = std::filesystem;
  if (const char* path = std::getenv(kernel.variable); path != nullptr) return path;
  const std::string images = ImageCache::default_folder();
  std::error_code error;
  for (fs::directory_iterator it(fs::path(images).parent_path() / "kernels", error), end; !error && it != end;
       it.increment(error)) {
    if (it->path().filename().string().starts_with(kernel.series)) return it->path().string();
  }
  return "";
}

}  // namespace ktstr::test
