#include "guest/init/file_receiver.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include <array>
#include <cerrno>
#include <cstdio>

#include "common/quote.h"

namespace ktstr::guest {
namespace {

constexpr std::size_t kMaxPath = 4095;
constexpr std::size_t kMaxName = 255;
constexpr mode_t kPermissions = 0777;
// Belong to the kernel.
constexpr std::array<std::string_view, 3> kForbidden = {"/proc", "/sys", "/dev"};

std::string shown(std::string_view path) {
  return quote(path, 512);
}

Expected<> make_folder(const std::string& path, mode_t mode) {
  if (::mkdir(path.c_str(), mode) == 0) return {};
  struct stat st {};
  const int error = errno;
  if (error == EEXIST && ::stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode)) return {};
  return std::unexpected(Error::from_errno(ErrorCode::kHost, "cannot make the folder " + shown(path), error));
}

Expected<> make_parents(const std::string& path, std::size_t from) {
  for (std::size_t slash = path.find('/', from + 1); slash != std::string::npos;
       slash = path.find('/', slash + 1)) {
    if (Expected<> made = make_folder(path.substr(0, slash), 0755); !made) return made;
  }
  return {};
}

// A file that is there gives way, a running program's too; a folder does not.
Expected<> clear_place(const std::string& path) {
  if (::unlink(path.c_str()) == 0 || errno == ENOENT) return {};
  return fail_errno(ErrorCode::kHost, "cannot replace " + shown(path));
}

}  // namespace

std::string refuse_path(std::string_view path) {
  if (!path.starts_with('/')) return shown(path) + " is not absolute";
  if (path.size() > kMaxPath) return shown(path) + " has more than " + std::to_string(kMaxPath) + " bytes";
  if (path.find('\0') != std::string_view::npos) return shown(path) + " holds a zero byte";
  for (const std::string_view folder : kForbidden) {
    if (path.starts_with(folder) && (path.size() == folder.size() || path[folder.size()] == '/'))
      return shown(path) + " lies below " + std::string(folder);
  }
  std::string_view rest = path;
  while (!rest.empty()) {
    rest.remove_prefix(1);
    const std::string_view name = rest.substr(0, rest.find('/'));
    rest.remove_prefix(name.size());
    if (name.empty() || name == "." || name == "..")
      return shown(path) + " has an empty component, '.' or '..'";
    if (name.size() > kMaxName) return shown(path) + " has a name of more than 255 bytes";
  }
  return {};
}

void FileReceiver::restart() {
  *this = FileReceiver(root_, limit_);
}

std::string FileReceiver::problem() const {
  if (!problem_.empty() || !fd_) return problem_;
  return std::to_string(left_) + " bytes of " + shown(path_) + " have not come";
}

void FileReceiver::begin(const ktstr::v1::File& file) {
  if (problem_.empty()) problem_ = problem();  // the file before this one
  if (!problem_.empty()) return;
  if (const Expected<> made = make(file); !made) problem_ = made.error().to_string();
}

Expected<> FileReceiver::make(const ktstr::v1::File& file) {
  if (std::string refused = refuse_path(file.path()); !refused.empty())
    return fail(ErrorCode::kHost, std::move(refused));
  const std::string path = root_ + file.path();
  if (Expected<> made = make_parents(path, root_.size()); !made) return made;
  const mode_t mode = file.mode() & kPermissions;
  if (file.kind() == ktstr::v1::File::FOLDER) return make_folder(path, mode);
  if (file.kind() != ktstr::v1::File::REGULAR && file.kind() != ktstr::v1::File::SYMLINK)
    return fail(ErrorCode::kHost, shown(path) + " is of a kind that nobody knows");
  if (Expected<> cleared = clear_place(path); !cleared) return cleared;
  if (file.kind() == ktstr::v1::File::SYMLINK) {
    if (file.target().empty() || file.target().find('\0') != std::string::npos)
      return fail(ErrorCode::kHost, "the symlink " + shown(path) + " has no target");
    if (::symlink(file.target().c_str(), path.c_str()) == 0) return {};
    return fail_errno(ErrorCode::kHost, "cannot make the symlink " + shown(path));
  }
  if (file.size() > limit_ - announced_)
    return fail(ErrorCode::kHost, shown(path) + " has " + std::to_string(file.size()) +
                                      " bytes, which is more than " + std::to_string(limit_) + " in all");
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode));
  // The mask of new files does not count here.
  if (!fd || ::fchmod(fd.get(), mode) != 0) return fail_errno(ErrorCode::kHost, "cannot make " + shown(path));
  announced_ += file.size();
  path_ = path;
  left_ = file.size();
  // A program that somebody holds open for writing cannot be executed.
  if (left_ > 0) fd_ = std::move(fd);
  return {};
}

void FileReceiver::data(const ktstr::v1::FileData& data) {
  received_ += data.inflated() != 0 ? data.inflated() : data.data().size();
  if (!problem_.empty()) return;
  const Expected<std::string_view> bytes = inflate(data);
  const Expected<> written = bytes ? write(*bytes) : std::unexpected(bytes.error());
  if (!written) problem_ = written.error().to_string();
}

Expected<std::string_view> FileReceiver::inflate(const ktstr::v1::FileData& data) {
  if (data.inflated() == 0) return data.data();
  if (data.inflated() > kMaxPiece)
    return fail(ErrorCode::kHost, "a piece of " + shown(path_) + " becomes " +
                                      std::to_string(data.inflated()) + " bytes, which is more than " +
                                      std::to_string(kMaxPiece));
  inflated_.resize(data.inflated());
  const std::size_t size =
      ::ZSTD_decompress(inflated_.data(), inflated_.size(), data.data().data(), data.data().size());
  if (::ZSTD_isError(size) != 0)
    return fail(ErrorCode::kHost,
                "a piece of " + shown(path_) + " cannot be unpacked: " + ::ZSTD_getErrorName(size));
  if (size != inflated_.size())
    return fail(ErrorCode::kHost, "a piece of " + shown(path_) + " became " + std::to_string(size) +
                                      " bytes instead of " + std::to_string(inflated_.size()));
  return std::string_view(inflated_);
}

Expected<> FileReceiver::write(std::string_view bytes) {
  if (bytes.size() > left_)
    return fail(ErrorCode::kHost, path_.empty()
                                      ? std::string("bytes of no file have come")
                                      : "more bytes of " + shown(path_) + " have come than announced");
  while (!bytes.empty()) {
    const ssize_t count = ::write(fd_.get(), bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return fail_errno(ErrorCode::kHost, "cannot write " + shown(path_));
    bytes.remove_prefix(static_cast<std::size_t>(count));
    left_ -= static_cast<std::uint64_t>(count);
  }
  if (left_ == 0) fd_.reset();
  return {};
}

}  // namespace ktstr::guest
