// RunOwner: which process a run in progress belongs to, for those who want something of it.
//
// The run's folder holds a file "pid" as long as the run lasts: process id and start time (field 22 of
// /proc/PID/stat), so that a process that got the same id later is not taken for it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "common/error.h"
#include "host/run/run_folder.h"

namespace ktstr {

struct RunOwner {
  pid_t pid = 0;
  std::uint64_t start_time = 0;  // clock ticks since boot
};

// The file's name.
inline constexpr const char* kRunOwnerFile = "pid";

// This process.
RunOwner this_process();
std::string to_text(const RunOwner& owner);

// The file, in a folder: there as long as this object is.
class RunOwnerFile {
 public:
  // Names this process. Error kHost when it cannot be written.
  static Expected<RunOwnerFile> create(const RunFolder& folder);
  RunOwnerFile(RunOwnerFile&& other) noexcept : folder_(std::exchange(other.folder_, std::nullopt)) {}
  RunOwnerFile& operator=(RunOwnerFile&&) = delete;
  ~RunOwnerFile();

 private:
  explicit RunOwnerFile(const RunFolder& folder) : folder_(folder) {}
  std::optional<RunFolder> folder_;  // nothing: moved from
};

// Of the run in `folder`. Error kUsage: there is no such folder, it is no run's, or its run is over.
Expected<RunOwner> read_run_owner(const std::string& folder);
// Whether that process is still there.
bool is_alive(const RunOwner& owner);

}  // namespace ktstr
