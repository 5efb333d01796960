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

#include "common/file_stamp.h"
#include "common/quote.h"
#include "common/xxh3.h"
#include "host/kernel/bytes.h"

namespace ktstr {
namespace {

namespace fs = std::filesystem;

constexpr std::array<char, 8> kTrailerMagic{'K', 'T', 'S', 'T', 'R', 'E', 'L', '1'};
constexpr std::string_view kSuffix = ".elf";
constexpr std::string_view kTemporaryPrefix = ".new-";
constexpr std::string_view kUseSuffix = ".use";
constexpr std::string_view kKnownPrefix = "known-";
// Remembered hashes of images, at most.
constexpr std::size_t kMaxKnown = 64;
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

// What was found out about a file when all of it was read: an image's hash, or that an entry is whole.
struct Known {
  std::array<char, 8> magic{'K', 'T', 'S', 'T', 'R', 'K', 'N', '1'};
  FileStamp stamp;
  std::array<char, 32> key = {};  // of an entry's .use: its own
  bool operator==(const Known&) const = default;
};

std::optional<Known> make_known(int fd, std::string_view key, std::chrono::seconds quiet) {
  const auto stamp = FileStamp::of(fd);
  if (!stamp || !stamp->settled(quiet) || key.size() != Known().key.size()) return std::nullopt;
  Known known;
  known.stamp = *stamp;
  std::copy(key.begin(), key.end(), known.key.begin());
  return known;
}

// An entry's files belong to whoever runs us, or to root.
Expected<UniqueFd> open_owned(const std::string& path, std::uint64_t most, std::uint64_t& size) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!fd) return fail_errno(ErrorCode::kHost, "cannot open " + quote(path, 200));
  struct stat st = {};
  if (::fstat(fd.get(), &st) != 0) return fail_errno(ErrorCode::kHost, "cannot stat " + quote(path, 200));
  size = static_cast<std::uint64_t>(st.st_size);
  if (!S_ISREG(st.st_mode) || (st.st_uid != ::geteuid() && st.st_uid != 0) || size > most)
    return fail(ErrorCode::kHost, quote(path, 200) + " is not one of our files");
  return fd;
}

std::optional<Known> read_known(const std::string& path) {
  std::uint64_t size = 0;
  auto fd = open_owned(path, sizeof(Known), size);
  Known known;
  if (!fd || ::pread(fd->get(), &known, sizeof known, 0) != static_cast<ssize_t>(sizeof known) ||
      known.magic != Known().magic)
    return std::nullopt;
  return known;
}

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

// The file of the same name with another suffix.
std::string sibling(const fs::path& entry, std::string_view suffix) {
  return (entry.parent_path() / entry.stem()).string() + std::string(suffix);
}

// Makes the file `path` of these pieces, in place of what is there.
Expected<> store_file(const std::string& path, std::span<const std::span<const std::byte>> pieces) {
  std::string temporary;
  auto fd = create_unnamed(fs::path(path).parent_path().string(), temporary);
  if (!fd) return std::unexpected(std::move(fd.error()));
  Expected<> done;
  for (const auto piece : pieces) {
    if (done) done = write_all(fd->get(), piece);
  }
  // A name cannot be given to an unnamed file while another one has it.
  if (done && temporary.empty()) ::unlink(path.c_str());
  if (done) done = publish(fd->get(), temporary, path);
  if (!done && !temporary.empty()) ::unlink(temporary.c_str());
  return done;
}

}  // namespace

Expected<std::string> ImageCache::key_of(int fd, std::uint64_t size) const {
  struct stat st = {};
  if (folder_.empty() || ::fstat(fd, &st) != 0) return Xxh3::hex_of_file(fd, size);
  const std::string path = fmt::format("{}/{}{:x}-{:x}", folder_, kKnownPrefix, st.st_dev, st.st_ino);
  const auto before = FileStamp::of(fd);
  if (const auto known = read_known(path);
      known && before && known->stamp == *before && before->settled(quiet_.image) && before->size == size)
    return std::string(known->key.data(), known->key.size());
  auto key = Xxh3::hex_of_file(fd, size);
  if (!key) return key;
  // Nothing was written to it while it was read.
  const auto known = make_known(fd, *key, quiet_.image);
  if (known && before && known->stamp == *before && known->stamp.size == size) {
    const std::array pieces{std::as_bytes(std::span(&*known, 1))};
    [[maybe_unused]] const auto stored = store_file(path, pieces);  // else it is read again
  }
  return key;
}

Expected<Mapping> ImageCache::open_beside(const std::string& entry, std::string_view suffix,
                                          std::uint64_t most) {
  std::uint64_t size = 0;
  auto fd = open_owned(sibling(entry, suffix), most, size);
  if (!fd) return std::unexpected(std::move(fd.error()));
  return Mapping::map(fd->get(), size, PROT_READ, MAP_SHARED);
}

void ImageCache::store_beside(const std::string& entry, std::string_view suffix,
                              std::span<const std::span<const std::byte>> pieces) {
  [[maybe_unused]] const auto stored = store_file(sibling(entry, suffix), pieces);
}

void ImageCache::remove_beside(const std::string& entry, std::string_view suffix) {
  ::unlink(sibling(entry, suffix).c_str());
}

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
  const std::string use = sibling(path, kUseSuffix);
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
    image->from_cache = true;
    image->path = path;
    const auto known = make_known(image->fd.get(), key, quiet_.entry);
    if (known && read_known(use) == known) {
      static_cast<void>(::utimensat(AT_FDCWD, use.c_str(), nullptr, AT_SYMLINK_NOFOLLOW));  // used last now
      return image;
    }
    const auto trailer = *load<Trailer>(image->mapping.bytes(), image->size);
    const auto hash = hash_mapping(image->mapping, image->size);
    if (trailer.magic == kTrailerMagic && trailer.size == image->size && trailer.hash == hash) {
      // The stamp is from before the verification: a change since then would show. One that does not count
      // yet is replaced by zeros, which count for nothing but say that the entry was used now.
      const Known remembered = known.value_or(Known{.magic = {}, .stamp = {}, .key = {}});
      const std::array pieces{std::as_bytes(std::span(&remembered, 1))};
      store_beside(path, kUseSuffix, pieces);
      return image;
    }
  }
  ::unlink(path.c_str());
  ::unlink(use.c_str());
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
  std::vector<Entry> known;
  std::vector<Entry> beside;
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
    } else if (name.starts_with(kKnownPrefix)) {
      known.push_back({used, it->path()});
    } else if (name.ends_with(kSuffix)) {
      const auto again = fs::last_write_time(sibling(it->path(), kUseSuffix), ignored);
      if (it->path() != keep) entries.push_back({ignored ? used : std::max(used, again), it->path()});
    } else if (const auto dot = name.rfind('.'); dot != std::string::npos && dot > 0) {
      beside.push_back({used, it->path()});
    }
  }
  const auto remove_oldest = [](std::vector<Entry>& list, std::size_t kept) {
    if (list.size() <= kept) return;
    std::sort(list.begin(), list.end(), [](const Entry& a, const Entry& b) { return a.used > b.used; });
    std::error_code ignored;
    for (std::size_t i = kept; i < list.size(); ++i) fs::remove(list[i].path, ignored);
  };
  remove_oldest(entries, kMaxEntries - 1);
  remove_oldest(known, kMaxKnown);
  for (const Entry& one : beside) {
    std::error_code ignored;
    if (!fs::exists(sibling(one.path, kSuffix), ignored) && !ignored) fs::remove(one.path, ignored);
  }
}

}  // namespace ktstr
