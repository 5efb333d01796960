#include "host/kernel/image_cache.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <vector>

#include <fmt/format.h>

#include "common/quote.h"
#include "common/xxh3.h"
#include "host/kernel/bytes.h"

namespace ktstr {
namespace {

namespace fs = std::filesystem;

constexpr std::array<char, 8> kTrailerMagic{'K', 'T', 'S', 'T', 'R', 'E', 'L', '1'};
constexpr std::string_view kSuffix = ".elf";
constexpr std::string_view kTemporaryPrefix = ".new-";
// A temporary file this old belongs to a process that was killed.
constexpr std::chrono::hours kTemporaryAge{1};
// Bytes hashed at a time; a multiple of the page size.
constexpr std::size_t kPiece = std::size_t{4} << 20;

struct Trailer {
  std::array<char, 8> magic = kTrailerMagic;
  std::uint64_t size = 0;
  Xxh3::Digest hash = {};
};
static_assert(sizeof(Trailer) == 32);

// Hashes the kernel behind `mapping` a piece at a time and gives each piece's pages back: 60 MB of page cache
// that is looked at once need not count as this process's memory.
Xxh3::Digest hash_mapping(Mapping& mapping, std::uint64_t size) {
  Xxh3 hasher;
  auto rest = mapping.mutable_bytes();
  for (std::uint64_t left = size; left > 0;) {
    const std::size_t piece = std::min<std::uint64_t>(left, kPiece);
    // One call sets up the piece's page tables; page faults would take three times as long.
    static_cast<void>(::madvise(rest.data(), piece, MADV_POPULATE_READ));
    hasher.update(rest.first(piece));
    static_cast<void>(::madvise(rest.data(), piece, MADV_DONTNEED));
    rest = rest.subspan(piece);
    left -= piece;
  }
  return hasher.digest();
}

Expected<> write_all(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return fail_errno(ErrorCode::kHost, "cannot write the unpacked kernel");
    }
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return {};
}

// Unpacks into `fd` and appends the trailer.
Expected<std::uint64_t> fill(int fd, const ImageCache::Unpack& unpack, bool& unpack_failed) {
  Xxh3 hasher;
  bool write_failed = false;
  auto size = unpack([&](std::span<const std::byte> bytes) -> Expected<> {
    hasher.update(bytes);
    auto written = write_all(fd, bytes);
    write_failed = !written;
    return written;
  });
  unpack_failed = !size && !write_failed;
  if (!size) return size;
  Trailer trailer;
  trailer.size = *size;
  trailer.hash = hasher.digest();
  if (auto ok = write_all(fd, std::as_bytes(std::span(&trailer, 1))); !ok)
    return std::unexpected(std::move(ok.error()));
  return size;
}

// A second, read-only, open file of the same inode: the writing descriptor is never handed out.
Expected<UniqueFd> reopen_read_only(int fd) {
  UniqueFd reader(::open(fmt::format("/proc/self/fd/{}", fd).c_str(), O_RDONLY | O_CLOEXEC));
  if (!reader) return fail_errno(ErrorCode::kHost, "cannot reopen the unpacked kernel");
  return reader;
}

Expected<CachedImage> map_image(UniqueFd fd, std::uint64_t size) {
  auto mapping = Mapping::map(fd.get(), size + sizeof(Trailer), PROT_READ, MAP_SHARED);
  if (!mapping) return propagate(std::move(mapping.error()), "mapping the unpacked kernel");
  CachedImage image;
  image.fd = std::move(fd);
  image.mapping = std::move(*mapping);
  image.size = size;
  return image;
}

Expected<CachedImage> unpack_to_memory(const ImageCache::Unpack& unpack) {
  const UniqueFd fd(::memfd_create("ktstr-kernel", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return fail_errno(ErrorCode::kHost, "cannot create a memory file for the unpacked kernel");
  bool unpack_failed = false;
  auto size = fill(fd.get(), unpack, unpack_failed);
  if (!size) return std::unexpected(std::move(size.error()));
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0) {
    return fail_errno(ErrorCode::kHost, "cannot seal the unpacked kernel");
  }
  auto reader = reopen_read_only(fd.get());
  if (!reader) return std::unexpected(std::move(reader.error()));
  return map_image(std::move(*reader), *size);
}

// A file in `folder` that has no name yet, or, where the file system has no such files, a temporary one,
// whose path is then stored in `temporary`.
Expected<UniqueFd> create_unnamed(const std::string& folder, std::string& temporary) {
  UniqueFd fd(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0400));
  if (fd) return fd;
  if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL) {
    return fail_errno(ErrorCode::kHost, "cannot write to " + quote(folder, 200));
  }
  temporary = fmt::format("{}/{}XXXXXX", folder, kTemporaryPrefix);
  fd.reset(::mkostemp(temporary.data(), O_CLOEXEC));
  if (fd) return fd;
  temporary.clear();
  return fail_errno(ErrorCode::kHost, "cannot write to " + quote(folder, 200));
}

// Gives the finished file its name. Losing a race against another process that made the same entry is no
// error: ours stays valid, unnamed.
Expected<> publish(int fd, const std::string& temporary, const std::string& path) {
  if (!temporary.empty()) {
    if (::fchmod(fd, 0400) == 0 && ::rename(temporary.c_str(), path.c_str()) == 0) return {};
    return fail_errno(ErrorCode::kHost, "cannot name the unpacked kernel " + quote(path, 200));
  }
  const std::string self = fmt::format("/proc/self/fd/{}", fd);
  if (::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) == 0 || errno == EEXIST)
    return {};
  return fail_errno(ErrorCode::kHost, "cannot name the unpacked kernel " + quote(path, 200));
}

}  // namespace

std::string ImageCache::default_folder() {
  // The XDG base directory specification: a relative path is to be ignored.
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && cache[0] == '/') {
    return std::string(cache) + "/ktstr-vm/images";
  }
  if (const char* home = std::getenv("HOME"); home != nullptr && home[0] == '/') {
    return std::string(home) + "/.cache/ktstr-vm/images";
  }
  return "";
}

std::string ImageCache::path_of(const std::string& key) const {
  return fmt::format("{}/{}{}", folder_, key, kSuffix);
}

Expected<CachedImage> ImageCache::open(const std::string& key, const Unpack& unpack) const {
  std::string note = "neither XDG_CACHE_HOME nor HOME is set";
  if (!folder_.empty()) {
    if (auto found = find(key)) return found;
    bool unpack_failed = false;
    auto stored = store(key, unpack, unpack_failed);
    if (stored || unpack_failed) return stored;
    note = stored.error().to_string();
  }
  auto image = unpack_to_memory(unpack);
  if (image) image->note = std::move(note);
  return image;
}

Expected<CachedImage> ImageCache::find(const std::string& key) const {
  if (folder_.empty()) return fail(ErrorCode::kHost, "there is no cache");
  const std::string path = path_of(key);
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!fd) return fail_errno(ErrorCode::kHost, "cannot open " + quote(path, 200));
  struct stat st = {};
  if (::fstat(fd.get(), &st) != 0) return fail_errno(ErrorCode::kHost, "cannot stat " + quote(path, 200));
  const auto file_size = static_cast<std::uint64_t>(st.st_size);
  const bool plausible = S_ISREG(st.st_mode) && (st.st_uid == ::geteuid() || st.st_uid == 0) &&
                         file_size > sizeof(Trailer) && file_size - sizeof(Trailer) <= kMaxUnpackedSize;
  if (plausible) {
    auto image = map_image(std::move(fd), file_size - sizeof(Trailer));
    if (!image) return image;
    const auto trailer = *load<Trailer>(image->mapping.bytes(), image->size);
    const auto hash = hash_mapping(image->mapping, image->size);
    if (trailer.magic == kTrailerMagic && trailer.size == image->size && trailer.hash == hash) {
      static_cast<void>(::futimens(image->fd.get(), nullptr));  // used last now; only matters for prune()
      image->from_cache = true;
      image->path = path;
      return image;
    }
  }
  ::unlink(path.c_str());
  return fail(ErrorCode::kHost, quote(path, 200) + " is damaged");
}

Expected<CachedImage> ImageCache::store(const std::string& key, const Unpack& unpack,
                                        bool& unpack_failed) const {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error)
    return std::unexpected(
        Error::from_errno(ErrorCode::kHost, "cannot create " + quote(folder_, 200), error.value()));
  std::string temporary;
  auto fd = create_unnamed(folder_, temporary);
  if (!fd) return std::unexpected(std::move(fd.error()));

  const std::string path = path_of(key);
  auto image = [&]() -> Expected<CachedImage> {
    auto size = fill(fd->get(), unpack, unpack_failed);
    if (!size) return std::unexpected(std::move(size.error()));
    auto reader = reopen_read_only(fd->get());
    if (!reader) return std::unexpected(std::move(reader.error()));
    if (auto ok = publish(fd->get(), temporary, path); !ok) return std::unexpected(std::move(ok.error()));
    return map_image(std::move(*reader), *size);
  }();
  if (!image) {
    if (!temporary.empty()) ::unlink(temporary.c_str());
    return image;
  }
  image->path = path;
  prune(path);
  return image;
}

// Trouble here is nobody's business: at worst the folder keeps a file more.
void ImageCache::prune(const std::string& keep) const {
  struct Entry {
    fs::file_time_type used;
    fs::path path;
  };
  std::vector<Entry> entries;
  const auto stale = fs::file_time_type::clock::now() - kTemporaryAge;
  std::error_code error;
  for (fs::directory_iterator it(folder_, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    std::error_code ignored;
    const auto used = it->last_write_time(ignored);
    if (ignored || !it->is_regular_file(ignored) || it->is_symlink(ignored)) continue;
    const std::string name = it->path().filename().string();
    if (name.starts_with(kTemporaryPrefix)) {
      if (used < stale) fs::remove(it->path(), ignored);
    } else if (name.ends_with(kSuffix) && it->path() != keep) {
      entries.push_back({used, it->path()});
    }
  }
  if (entries.size() < kMaxEntries) return;
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.used > b.used; });
  for (std::size_t i = kMaxEntries - 1; i < entries.size(); ++i) fs::remove(entries[i].path, error);
}

}  // namespace ktstr
