#include "host/run/run_folder.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <ctime>

#include <fmt/chrono.h>
#include <fmt/format.h>

namespace ktstr {
namespace {

// Writes everything, retrying short writes and EINTR. 0, or errno.
int write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
  return 0;
}

std::string new_id() {
  std::array<unsigned char, 3> random{};
  if (::getrandom(random.data(), random.size(), 0) != static_cast<ssize_t>(random.size())) {
    const auto pid = static_cast<unsigned>(::getpid());
    random = {static_cast<unsigned char>(pid >> 16), static_cast<unsigned char>(pid >> 8),
              static_cast<unsigned char>(pid)};
  }
  return fmt::format("{:%Y%m%dT%H%M%SZ}-{:02x}{:02x}{:02x}", fmt::gmtime(std::time(nullptr)), random[0],
                     random[1], random[2]);
}

std::unexpected<Error> no_folder(const std::string& what, const std::filesystem::path& path, int error) {
  return std::unexpected(Error::from_errno(
      ErrorCode::kHost,
      fmt::format("{} '{}' (choose another results folder with --out)", what, path.string()), error));
}

// A symbolic link is replaced by renaming a new one over it, so "latest" always exists.
void point_latest(const std::filesystem::path& results, const std::string& id) {
  const std::filesystem::path temporary = results / (".latest-" + id);
  if (::symlink(id.c_str(), temporary.c_str()) != 0) return;
  if (::rename(temporary.c_str(), (results / "latest").c_str()) != 0) ::unlink(temporary.c_str());
}

}  // namespace

void BoundedLog::append(std::string_view text) {
  append(std::as_bytes(std::span(text.data(), text.size())));
}

void BoundedLog::append(std::span<const std::byte> bytes) {
  if (!fd_ || write_error_ != 0) {
    dropped_ += bytes.size();
    return;
  }
  const std::size_t room = static_cast<std::size_t>(limit_ - written_);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), std::min(bytes.size(), room));
  write_error_ = write_all(fd_.get(), text);
  written_ += text.size();
  if (text.size() == bytes.size()) return;
  if (dropped_ == 0) {
    static_cast<void>(
        write_all(fd_.get(), fmt::format("\nktstr-vm: log limit of {} bytes reached\n", limit_)));
  }
  dropped_ += bytes.size() - text.size();
}

Expected<RunFolder> RunFolder::create(const std::filesystem::path& results) {
  std::error_code error;
  std::filesystem::create_directories(results, error);
  if (error) return no_folder("cannot make the results folder", results, error.value());
  const std::string id = new_id();
  std::filesystem::path path = std::filesystem::absolute(results) / id;
  if (::mkdir(path.c_str(), 0777) != 0) return no_folder("cannot make the run's folder", path, errno);
  point_latest(results, id);
  return RunFolder(id, std::move(path));
}

Expected<void> RunFolder::write(const std::string& name, std::string_view content) const {
  const std::filesystem::path temporary = path_ / ("." + name + ".tmp");
  int error = 0;
  {
    const UniqueFd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    error = fd ? write_all(fd.get(), content) : errno;
  }
  if (error == 0 && ::rename(temporary.c_str(), (path_ / name).c_str()) != 0) error = errno;
  if (error == 0) return {};
  ::unlink(temporary.c_str());
  return std::unexpected(
      Error::from_errno(ErrorCode::kHost, fmt::format("cannot write '{}'", (path_ / name).string()), error));
}

void RunFolder::remove(const std::string& name) const {
  std::error_code ignored;
  std::filesystem::remove(path_ / name, ignored);
}

Expected<BoundedLog> RunFolder::open_log(const std::string& name) const {
  const std::filesystem::path file = path_ / name;
  UniqueFd fd(::open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666));
  if (!fd) return fail_errno(ErrorCode::kHost, fmt::format("cannot make '{}'", file.string()));
  return BoundedLog(std::move(fd), BoundedLog::kDefaultLimit);
}

}  // namespace ktstr
