// FileStamp: by what we tell that a file still has the contents it had when we last looked at all of them.
//
// Device and inode say that it is the same file, size and both times that nobody has written to it since: the
// change time cannot be set by a program. Two things they do not say, so they are asked for as well:
//
//   - After a power failure a file may have lost contents that its inode says are there. A stamp counts only
//   until the
//     machine is booted again.
//   - Times go in steps of some milliseconds, so a file can change and keep them right after it was written.
//   A stamp of
//     a file that changed just now is not to be relied upon: settled().
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>

namespace ktstr {

struct FileStamp {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t size = 0;
  std::int64_t modified_s = 0;
  std::int64_t modified_ns = 0;
  std::int64_t changed_s = 0;
  std::int64_t changed_ns = 0;
  std::array<char, 40> boot = {};  // the kernel's boot id

  // nullopt when the file cannot be asked, is no regular file, or the boot has no id.
  static std::optional<FileStamp> of(int fd);
  // Whether the file was left alone for at least so long.
  bool settled(std::chrono::seconds quiet) const;

  bool operator==(const FileStamp&) const = default;
};
static_assert(sizeof(FileStamp) == 96);

}  // namespace ktstr
