#include "common/file_stamp.h"

#include <sys/stat.h>

#include <algorithm>
#include <ctime>

#include "common/read_file.h"

namespace ktstr {

std::optional<FileStamp> FileStamp::of(int fd) {
  struct stat st = {};
  if (::fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) return std::nullopt;
  FileStamp stamp{.device = st.st_dev,
                  .inode = st.st_ino,
                  .size = static_cast<std::uint64_t>(st.st_size),
                  .modified_s = st.st_mtim.tv_sec,
                  .modified_ns = st.st_mtim.tv_nsec,
                  .changed_s = st.st_ctim.tv_sec,
                  .changed_ns = st.st_ctim.tv_nsec,
                  .boot = {}};
  const auto boot = read_file("/proc/sys/kernel/random/boot_id", stamp.boot.size());
  if (!boot || boot->empty()) return std::nullopt;
  std::copy_n(boot->begin(), std::min(boot->size(), stamp.boot.size()), stamp.boot.begin());
  return stamp;
}

bool FileStamp::settled(std::chrono::seconds quiet) const {
  const std::int64_t now = std::time(nullptr);
  // Times in the future are somebody's mistake, and no evidence.
  return changed_s < now - quiet.count() && modified_s < now - quiet.count();
}

}  // namespace ktstr
