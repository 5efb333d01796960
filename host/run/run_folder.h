// RunFolder: where one run leaves its files. Results are never overwritten: each run has a folder of its own
// below the results folder, named by UTC time and a short id, and "latest" points to the newest.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "common/error.h"
#include "common/unique_fd.h"

namespace ktstr {

// A log file that stops growing at a limit, so that a guest cannot fill the disk. The last line then says so.
class BoundedLog {
 public:
  static constexpr std::uint64_t kDefaultLimit = std::uint64_t{64} << 20;

  BoundedLog() = default;
  BoundedLog(UniqueFd fd, std::uint64_t limit) : fd_(std::move(fd)), limit_(limit) {}
  // Appends; write errors are remembered, not raised: a run's verdict does not depend on its logs.
  void append(std::span<const std::byte> bytes);
  void append(std::string_view text);
  std::uint64_t dropped() const { return dropped_; }
  // errno of the first failed write, 0: none.
  int write_error() const { return write_error_; }

 private:
  UniqueFd fd_;
  std::uint64_t limit_ = kDefaultLimit;
  std::uint64_t written_ = 0;
  std::uint64_t dropped_ = 0;
  int write_error_ = 0;
};

class RunFolder {
 public:
  // Makes `<results>/<UTC time>-<id>` and points `<results>/latest` to it. Errors: kHost when the folder
  // cannot be made or written, naming the path.
  static Expected<RunFolder> create(const std::filesystem::path& results);

  // "20261121T034500Z-1a2b3c".
  const std::string& id() const { return id_; }
  const std::filesystem::path& path() const { return path_; }

  // Writes a whole file: to a temporary name, then renamed, so that a reader never sees half of it.
  Expected<void> write(const std::string& name, std::string_view content) const;
  // Removes a file that was written; nothing when it is not there.
  void remove(const std::string& name) const;
  Expected<BoundedLog> open_log(const std::string& name) const;

 private:
  RunFolder(std::string id, std::filesystem::path path) : id_(std::move(id)), path_(std::move(path)) {}
  std::string id_;
  std::filesystem::path path_;
};

}  // namespace ktstr
