#include "host/run/run_owner.h"

#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <string_view>

#include <fmt/format.h>

#include "common/quote.h"
#include "common/read_file.h"

namespace ktstr {
namespace {

constexpr std::size_t kMaxStat = 4096;
constexpr int kStartTime = 22;  // proc(5), /proc/PID/stat

// The start time of a process, 0 when there is none. The second field is a name in parentheses that may hold
// anything, so fields are counted behind its end.
std::uint64_t start_time_of(pid_t pid) {
  const auto stat = read_file(fmt::format("/proc/{}/stat", pid), kMaxStat);
  if (!stat) return 0;
  std::size_t at = stat->rfind(')');
  for (int field = 2; field < kStartTime && at != std::string::npos; ++field) at = stat->find(' ', at + 1);
  if (at == std::string::npos) return 0;
  std::uint64_t value = 0;
  std::from_chars(stat->data() + at + 1, stat->data() + stat->size(), value);
  return value;
}

}  // namespace

RunOwner this_process() {
  return {::getpid(), start_time_of(::getpid())};
}

std::string to_text(const RunOwner& owner) {
  return fmt::format("{} {}\n", owner.pid, owner.start_time);
}

Expected<RunOwnerFile> RunOwnerFile::create(const RunFolder& folder) {
  if (auto written = folder.write(kRunOwnerFile, to_text(this_process())); !written)
    return std::unexpected(std::move(written.error()));
  return RunOwnerFile(folder);
}

RunOwnerFile::~RunOwnerFile() {
  if (folder_) folder_->remove(kRunOwnerFile);
}

Expected<RunOwner> read_run_owner(const std::string& folder) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored))
    return fail(ErrorCode::kUsage, fmt::format("{} is no folder of a run", quote(folder)));
  const auto text = read_file((std::filesystem::path(folder) / kRunOwnerFile).string(), kMaxStat);
  if (!text) {
    const bool over = std::filesystem::exists(std::filesystem::path(folder) / "result.json", ignored);
    return fail(ErrorCode::kUsage,
                over ? fmt::format("the run in {} is over", quote(folder))
                     : fmt::format("{} is no folder of a run in progress: it has no file {}", quote(folder),
                                   quote(kRunOwnerFile)));
  }
  RunOwner owner;
  const char* const end = text->data() + text->size();
  const auto [next, error] = std::from_chars(text->data(), end, owner.pid);
  const bool good = error == std::errc() && owner.pid > 0 && next != end &&
                    std::from_chars(next + 1, end, owner.start_time).ec == std::errc();
  if (!good)
    return fail(ErrorCode::kUsage,
                fmt::format("the file {} in {} is damaged", quote(kRunOwnerFile), quote(folder)));
  return owner;
}

bool is_alive(const RunOwner& owner) {
  return owner.start_time != 0 && start_time_of(owner.pid) == owner.start_time;
}

}  // namespace ktstr
