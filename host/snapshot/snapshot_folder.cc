#include "host/snapshot/snapshot_folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <memory>
#include <system_error>
#include <thread>

#include <fmt/format.h>

#include "common/quote.h"

namespace ktstr {
namespace {

namespace fs = std::filesystem;

// How long somebody holds a lock who only looks, or renames: far less than this.
constexpr std::chrono::milliseconds kGlance{50};
// The cache's own lock is held while a folder is made or swept; a stopped process may hold it for ever.
constexpr std::chrono::seconds kPatience{5};
constexpr std::chrono::milliseconds kPause{2};
// More entries are not ours.
constexpr std::size_t kMaxEntries = 10'000;

std::string shown(const std::string& path) {
  return quote(path, 300);
}

bool is_ours(const struct stat& st) {
  return st.st_uid == ::geteuid() || st.st_uid == 0;
}

bool same_file(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

// False: somebody else holds it, for all of `patience`.
bool flock_within(int fd, int operation, std::chrono::milliseconds patience) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (::flock(fd, operation | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK || std::chrono::steady_clock::now() >= end) return false;
    std::this_thread::sleep_for(kPause);
  }
  return true;
}

using Directory = std::unique_ptr<DIR, int (*)(DIR*)>;

// The names in an open folder, but for "." and "..".
std::vector<std::string> entries_of(int folder) {
  std::vector<std::string> names;
  UniqueFd copy(::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!copy) return names;
  const Directory directory(::fdopendir(copy.get()), ::closedir);
  if (!directory) return names;
  static_cast<void>(copy.release());
  // One thread reads this stream: the function is as safe as its _r form that glibc advises against.
  while (const dirent* entry = ::readdir(directory.get())) {  // NOLINT(concurrency-mt-unsafe)
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
    if (names.size() >= kMaxEntries) break;
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string random_name() {
  std::uint64_t random = 0;
  if (::getrandom(&random, sizeof random, 0) != static_cast<ssize_t>(sizeof random)) {
    random = static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
  }
  return fmt::format("{}-{:016x}", ::getpid(), random);
}

}  // namespace

Expected<SnapshotFolder::State> SnapshotFolder::open(std::string path, SnapshotFolder& opened,
                                                     std::string& reason) {
  UniqueFd folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!folder && errno == ENOENT) return State::kAbsent;
  struct stat st = {};
  if (!folder && (errno == ENOTDIR || errno == ELOOP)) {
    const int why = errno;
    reason = "it is no folder";
    // ENOTDIR may also mean one of the folders above.
    if (::lstat(path.c_str(), &st) == 0) return State::kForeign;
    errno = why;
  }
  if (!folder) return fail_errno(ErrorCode::kHost, "cannot open the snapshot's folder " + shown(path));
  if (::fstat(folder.get(), &st) != 0)
    return fail_errno(ErrorCode::kHost, "cannot stat the snapshot's folder " + shown(path));
  if (!is_ours(st)) {
    reason = fmt::format("it belongs to user {}", st.st_uid);
    return State::kForeign;
  }
  opened.path = std::move(path);
  opened.folder = std::move(folder);
  const int flags = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
  // Over NFS an exclusive lock needs a descriptor for writing; in a cache that is read-only a shared one will
  // do.
  opened.lock.reset(::openat(opened.folder.get(), kLockFile, O_RDWR | flags));
  if (!opened.lock) opened.lock.reset(::openat(opened.folder.get(), kLockFile, O_RDONLY | flags));
  return State::kOpen;
}

bool SnapshotFolder::take(FolderLock kind) const {
  if (!lock) return false;
  if (kind == FolderLock::kShared) return flock_within(lock.get(), LOCK_SH, kGlance);
  return flock_within(lock.get(), LOCK_EX, {});
}

bool SnapshotFolder::still_there() const {
  struct stat here = {};
  struct stat there = {};
  return ::fstat(folder.get(), &here) == 0 && ::lstat(path.c_str(), &there) == 0 && same_file(here, there);
}

bool SnapshotFolder::same_as(const SnapshotFolder& other) const {
  struct stat here = {};
  struct stat there = {};
  return ::fstat(folder.get(), &here) == 0 && ::fstat(other.folder.get(), &there) == 0 &&
         same_file(here, there);
}

Expected<UniqueFd> SnapshotFolder::open_file(const char* name, std::uint64_t& size) const {
  const std::string file = shown(path + "/" + name);
  UniqueFd fd(::openat(folder.get(), name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY));
  const bool missing = !fd && (errno == ENOENT || errno == ELOOP || errno == ENXIO);
  if (!fd) return fail_errno(missing ? ErrorCode::kUsage : ErrorCode::kHost, "cannot open " + file);
  struct stat st = {};
  if (::fstat(fd.get(), &st) != 0) return fail_errno(ErrorCode::kHost, "cannot stat " + file);
  if (!S_ISREG(st.st_mode) || !is_ours(st)) return fail(ErrorCode::kUsage, file + " is not one of our files");
  size = static_cast<std::uint64_t>(st.st_size);
  return fd;
}

std::uint64_t SnapshotFolder::allocated() const {
  std::uint64_t bytes = 0;
  for (const std::string& name : entries_of(folder.get())) {
    struct stat st = {};
    if (::fstatat(folder.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
    bytes += static_cast<std::uint64_t>(st.st_blocks) * 512;  // whatever st_blksize says: stat(2)
  }
  return bytes;
}

Expected<> store_file(const SnapshotFolder& folder, const char* name, std::string_view contents,
                      unsigned mode) {
  const std::string temporary = fmt::format(".{}-{}", name, random_name());
  const auto failed = [&] {
    auto error = fail_errno(ErrorCode::kHost, "cannot write " + shown(folder.path + "/" + name));
    ::unlinkat(folder.folder.get(), temporary.c_str(), 0);
    return error;
  };
  const UniqueFd fd(
      ::openat(folder.folder.get(), temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  if (!fd) return failed();
  while (!contents.empty()) {
    const ssize_t written = ::write(fd.get(), contents.data(), contents.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return failed();
    contents.remove_prefix(static_cast<std::size_t>(written));
  }
  if (::renameat(folder.folder.get(), temporary.c_str(), folder.folder.get(), name) != 0) return failed();
  return {};
}

Expected<> make_cache_folder(const std::string& root) {
  std::error_code error;
  const fs::path parent = fs::path(root).parent_path();
  fs::create_directories(parent, error);
  if (error) {
    return std::unexpected(Error::from_errno(
        ErrorCode::kHost, "cannot make the cache folder " + shown(parent.string()), error.value()));
  }
  if (::mkdir(root.c_str(), 0700) == 0) return {};
  int why = errno;
  struct stat st = {};
  if (why == EEXIST && ::stat(root.c_str(), &st) == 0 && S_ISDIR(st.st_mode)) return {};
  if (why == EEXIST) why = ENOTDIR;
  return std::unexpected(
      Error::from_errno(ErrorCode::kHost, "cannot make the cache folder " + shown(root), why));
}

Expected<UniqueFd> lock_cache(const std::string& root) {
  const std::string path = root + "/" + kLockFile;
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0600));
  if (!fd) return fail_errno(ErrorCode::kHost, "cannot write to the cache folder " + shown(root));
  if (flock_within(fd.get(), LOCK_EX, kPatience)) return fd;
  return fail(ErrorCode::kHost, fmt::format("another process has had {} locked for {} s; is one stopped?",
                                            shown(path), kPatience.count()));
}

Expected<std::vector<std::string>> names_in(const std::string& root, std::string_view prefix) {
  const UniqueFd folder(::open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder && errno == ENOENT) return std::vector<std::string>();
  if (!folder) return fail_errno(ErrorCode::kHost, "cannot read the cache folder " + shown(root));
  auto names = entries_of(folder.get());
  std::erase_if(names, [&](const std::string& name) { return !name.starts_with(prefix); });
  return names;
}

Expected<std::string> put_aside(const std::string& root, const std::string& path) {
  std::string aside = fmt::format("{}/.old-{}", root, random_name());
  if (::rename(path.c_str(), aside.c_str()) == 0) return aside;
  return fail_errno(ErrorCode::kHost, "cannot remove " + shown(path));
}

void remove_folder(const std::string& path) {
  std::error_code ignored;
  fs::remove_all(path, ignored);
}

void sweep(const std::string& root) {
  for (const char* prefix : {".new-", ".old-"}) {
    const auto names = names_in(root, prefix);
    if (!names) return;
    for (const std::string& name : *names) {
      SnapshotFolder folder;
      std::string ignored;
      const auto state = SnapshotFolder::open(root + "/" + name, folder, ignored);
      if (!state || *state == SnapshotFolder::State::kAbsent) continue;
      // Folder and lock are made, and the lock is taken, while the cache is locked: one that has none is
      // nobody's.
      if (folder.lock && !folder.take(FolderLock::kExclusive)) continue;
      remove_folder(root + "/" + name);
    }
  }
}

}  // namespace ktstr
