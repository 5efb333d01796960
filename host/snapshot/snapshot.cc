#include "host/snapshot/snapshot.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "common/file_stamp.h"
#include "common/sparse_file.h"
#include "common/xxh3.h"
#include "host/snapshot/snapshot_manifest.h"

namespace ktstr {
namespace {

// How long a file whose making nobody watched must have been left alone before its stamp counts.
constexpr std::chrono::seconds kQuiet{2};
// Device states are hundreds of KB; one of this size is none.
constexpr std::uint64_t kMaxState = std::uint64_t{1} << 30;

// Contents of `use`.
struct Known {
  std::array<char, 8> magic{'K', 'T', 'S', 'T', 'R', 'S', 'U', '1'};
  FileStamp stamp;
  std::array<char, 32> checksum = {};
  bool operator==(const Known&) const = default;
};
static_assert(sizeof(Known) == 136);

std::optional<Known> make_known(int ram, const std::string& checksum) {
  const auto stamp = FileStamp::of(ram);
  if (!stamp || checksum.size() != Known().checksum.size()) return std::nullopt;
  Known known;
  known.stamp = *stamp;
  std::copy(checksum.begin(), checksum.end(), known.checksum.begin());
  return known;
}

std::optional<Known> read_known(const SnapshotFolder& folder) {
  std::uint64_t size = 0;
  const auto fd = folder.open_file(kUseFile, size);
  Known known;
  if (!fd || size != sizeof known || ::pread(fd->get(), &known, sizeof known, 0) != ssize_t{sizeof known} ||
      known.magic != Known().magic)
    return std::nullopt;
  return known;
}

void store_known(const SnapshotFolder& folder, const Known& known) {
  std::string bytes(sizeof known, '\0');
  std::memcpy(bytes.data(), &known, sizeof known);
  [[maybe_unused]] const auto stored = store_file(folder, kUseFile, bytes, 0600);
}

void set_last_used(const SnapshotFolder& folder, std::int64_t ns) {
  constexpr std::int64_t kSecond = 1'000'000'000;
  const timespec time{.tv_sec = ns / kSecond, .tv_nsec = ns % kSecond};
  const timespec times[] = {time, time};
  static_cast<void>(::utimensat(folder.folder.get(), kUseFile, times, AT_SYMLINK_NOFOLLOW));
}

// A size that differs is told before all of the file is read.
Expected<UniqueFd> open_sized(const SnapshotFolder& folder, const char* name,
                              const v1::SnapshotFile& wanted) {
  std::uint64_t size = 0;
  auto fd = folder.open_file(name, size);
  if (fd && size != wanted.size())
    return fail(ErrorCode::kUsage,
                fmt::format("its {} has {} bytes instead of {}", name, size, wanted.size()));
  return fd;
}

Expected<> compare(const char* name, const Expected<std::string>& checksum, const v1::SnapshotFile& wanted) {
  if (!checksum) return std::unexpected(checksum.error());
  if (*checksum == wanted.checksum()) return {};
  return fail(ErrorCode::kUsage, fmt::format("the checksum of its {} does not match", name));
}

Expected<> verify_ram(const SnapshotFolder& folder, int ram, const v1::SnapshotFile& wanted,
                      SnapshotTrust trust) {
  // From before the file is read: a change since then shows.
  const auto known = make_known(ram, wanted.checksum());
  if (trust == SnapshotTrust::kNotes && known && read_known(folder) == known) {
    static_cast<void>(::utimensat(folder.folder.get(), kUseFile, nullptr, AT_SYMLINK_NOFOLLOW));  // used now
    return {};
  }
  const std::int64_t used_ns = last_used_ns(folder);
  auto whole = compare(kRamFile, sparse_checksum(ram, wanted.size()), wanted);
  // A stamp that does not count yet is replaced by zeros, which only say that the snapshot was used now.
  if (whole)
    store_known(folder, known && known->stamp.settled(kQuiet)
                            ? *known
                            : Known{.magic = {}, .stamp = {}, .checksum = {}});
  // Whoever trusts no notes looks at all snapshots and uses none.
  if (whole && trust == SnapshotTrust::kNothing) set_last_used(folder, used_ns);
  return whole;
}

}  // namespace

Expected<v1::SnapshotManifest> read_manifest(const SnapshotFolder& folder) {
  std::uint64_t size = 0;
  const auto fd = folder.open_file(kManifestFile, size);
  if (!fd) return std::unexpected(fd.error());
  std::vector<std::byte> bytes(std::min<std::uint64_t>(size, kMaxManifest + 1));
  std::size_t filled = 0;
  while (filled < bytes.size()) {
    const ssize_t got =
        ::pread(fd->get(), bytes.data() + filled, bytes.size() - filled, static_cast<off_t>(filled));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno(ErrorCode::kHost, "cannot read the manifest");
    if (got == 0) break;
    filled += static_cast<std::size_t>(got);
  }
  return parse_manifest(std::span(bytes).first(filled));
}

Expected<Snapshot> open_snapshot(SnapshotFolder folder, const std::string& key, SnapshotTrust trust) {
  auto manifest = read_manifest(folder);
  if (!manifest) return std::unexpected(std::move(manifest.error()));
  if (manifest->key() != key) return fail(ErrorCode::kUsage, "it is the snapshot of other inputs");
  auto ram = open_sized(folder, kRamFile, manifest->ram());
  if (!ram) return std::unexpected(std::move(ram.error()));
  auto state = open_sized(folder, kStateFile, manifest->state());
  if (!state) return std::unexpected(std::move(state.error()));
  if (auto whole =
          compare(kStateFile, state_checksum(state->get(), manifest->state().size()), manifest->state());
      !whole)
    return std::unexpected(std::move(whole.error()));
  if (auto whole = verify_ram(folder, ram->get(), manifest->ram(), trust); !whole)
    return std::unexpected(std::move(whole.error()));
  return Snapshot{.ram = std::move(*ram),
                  .state = std::move(*state),
                  .manifest = std::move(*manifest),
                  .folder = std::move(folder)};
}

void note_verified(const SnapshotFolder& folder, int ram, const std::string& checksum) {
  if (const auto known = make_known(ram, checksum)) store_known(folder, *known);
}

std::int64_t last_used_ns(const SnapshotFolder& folder) {
  struct stat st = {};
  if (::fstatat(folder.folder.get(), kUseFile, &st, AT_SYMLINK_NOFOLLOW) != 0 &&
      ::fstatat(folder.folder.get(), kManifestFile, &st, AT_SYMLINK_NOFOLLOW) != 0)
    return 0;
  return std::int64_t{st.st_mtim.tv_sec} * 1'000'000'000 + st.st_mtim.tv_nsec;
}

Expected<std::string> state_checksum(int fd, std::uint64_t size) {
  if (size > kMaxState) return fail(ErrorCode::kUsage, fmt::format("its state has {} bytes", size));
  return Xxh3::hex_of_file(fd, size);
}

}  // namespace ktstr
