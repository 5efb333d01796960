#include "host/snapshot/snapshot_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <string_view>
#include <thread>

#include <fmt/format.h>

#include "common/quote.h"
#include "common/sparse_file.h"
#include "common/units.h"
#include "common/utc_time.h"
#include "host/snapshot/snapshot.h"
#include "host/snapshot/snapshot_eviction.h"
#include "host/snapshot/snapshot_manifest.h"

namespace ktstr {
namespace {

// An emulator that has said that it is done may close its file a moment later.
constexpr std::chrono::milliseconds kLastWriter{500};
constexpr std::chrono::milliseconds kPause{2};

// Whether a descriptor for writing is open anywhere, or a mapping that was made with one: then what is read
// now is not what a clone will see. A read lease is refused while there is one (fcntl(2)); where leases are
// not to be had, nothing is known, and nothing is said.
bool has_writer(int fd) {
  // A lease that is broken sends a signal, by default one that ends the process.
  if (::fcntl(fd, F_SETSIG, SIGURG) != 0) return false;
  const auto end = std::chrono::steady_clock::now() + kLastWriter;
  while (::fcntl(fd, F_SETLEASE, F_RDLCK) != 0) {
    if (errno != EAGAIN) return false;
    if (std::chrono::steady_clock::now() >= end) return true;
    std::this_thread::sleep_for(kPause);
  }
  static_cast<void>(::fcntl(fd, F_SETLEASE, F_UNLCK));
  return false;
}

Expected<UniqueFd> create_file(const SnapshotFolder& folder, const char* name) {
  UniqueFd fd(::openat(folder.folder.get(), name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (fd) return fd;
  return fail_errno(ErrorCode::kHost, "cannot make " + quote(folder.path + "/" + name, 300));
}

}  // namespace

std::string maker_of(const SnapshotFolder& folder) {
  std::array<char, 16> text = {};
  const ssize_t got = folder.lock ? ::pread(folder.lock.get(), text.data(), text.size(), 0) : 0;
  const std::string_view pid(text.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
  if (pid.empty() || pid.size() > 10 || pid.find_first_not_of("0123456789") != std::string_view::npos)
    return "another process";
  return fmt::format("process {}", pid);
}

Expected<SnapshotWriter> SnapshotWriter::create(const std::string& root, std::uint64_t limit,
                                                const SnapshotInputs& inputs) {
  SnapshotWriter writer(root, limit, snapshot_key(inputs));
  set_inputs(writer.inputs_, inputs);
  const std::string path = fmt::format("{}/.new-{}", root, writer.key_);
  if (::mkdir(path.c_str(), 0700) != 0)
    return fail_errno(ErrorCode::kHost, "cannot make " + quote(path, 300));
  // From here on the writer's end removes it.
  writer.folder_.path = path;
  writer.folder_.folder.reset(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!writer.folder_.folder) {
    auto error = fail_errno(ErrorCode::kHost, "cannot open " + quote(path, 300));
    ::rmdir(path.c_str());
    return error;
  }
  auto lock = create_file(writer.folder_, kLockFile);
  if (!lock) return std::unexpected(std::move(lock.error()));
  writer.folder_.lock = std::move(*lock);
  if (!writer.folder_.take(FolderLock::kExclusive))
    return fail(ErrorCode::kHost, "cannot lock " + quote(path, 300));
  const std::string pid = fmt::format("{}", ::getpid());
  if (::pwrite(writer.folder_.lock.get(), pid.data(), pid.size(), 0) < 0)
    return fail_errno(ErrorCode::kHost, "cannot write to " + quote(path, 300));
  auto ram = create_file(writer.folder_, kRamFile);
  if (!ram) return std::unexpected(std::move(ram.error()));
  auto state = create_file(writer.folder_, kStateFile);
  if (!state) return std::unexpected(std::move(state.error()));
  writer.ram_ = std::move(*ram);
  writer.state_ = std::move(*state);
  return writer;
}

SnapshotWriter::~SnapshotWriter() {
  if (!folder_.folder || !folder_.still_there()) return;
  // Under another name first, so that a new one of this name is never hit. Without room for a rename it goes
  // as it is.
  const auto aside = put_aside(root_, folder_.path);
  remove_folder(aside ? *aside : folder_.path);
}

// Makes a finished file read-only and enters it in the manifest.
Expected<> SnapshotWriter::seal(const char* name, v1::SnapshotFile& file, std::string checksum) {
  const bool is_ram = name == std::string_view(kRamFile);
  std::uint64_t size = 0;
  auto fd = folder_.open_file(name, size);
  if (!fd) return std::unexpected(std::move(fd.error()).with_code(ErrorCode::kHost));
  if (::fchmod(fd->get(), 0400) != 0)
    return fail_errno(ErrorCode::kHost, fmt::format("cannot close the snapshot's {}", name));
  if (size == 0) return fail(ErrorCode::kHost, fmt::format("the snapshot's {} is empty", name));
  if (has_writer(fd->get()))
    return fail(ErrorCode::kHost, fmt::format("the snapshot's {} is still open for writing", name));
  if (checksum.empty()) {
    auto computed = is_ram ? sparse_checksum(fd->get(), size) : state_checksum(fd->get(), size);
    if (!computed)
      return propagate(std::move(computed.error()).with_code(ErrorCode::kHost),
                       fmt::format("reading the snapshot's {}", name));
    checksum = std::move(*computed);
  }
  // Nobody has written to it since it was read, or will: its stamp counts at once.
  if (is_ram) note_verified(folder_, fd->get(), checksum);
  file.set_size(size);
  file.set_checksum(std::move(checksum));
  return {};
}

Expected<> SnapshotWriter::commit(v1::SnapshotManifest manifest, std::string ram_checksum) {
  if (!folder_.folder) return fail(ErrorCode::kHost, "the snapshot has been stored already");
  ram_.reset();
  state_.reset();
  if (auto sealed = seal(kRamFile, *manifest.mutable_ram(), std::move(ram_checksum)); !sealed) return sealed;
  if (auto sealed = seal(kStateFile, *manifest.mutable_state(), ""); !sealed) return sealed;
  *manifest.mutable_inputs() = inputs_.inputs();
  manifest.set_point(inputs_.point());
  if (manifest.made_at().empty()) manifest.set_made_at(rfc3339_now());
  auto text = render_manifest(std::move(manifest));
  if (!text) return std::unexpected(std::move(text.error()).with_code(ErrorCode::kHost));
  if (auto stored = store_file(folder_, kManifestFile, *text, 0400); !stored) return stored;
  if (const std::uint64_t needed = folder_.allocated(); needed > limit_) {
    return fail(ErrorCode::kHost, fmt::format("the snapshot needs {}, and the whole cache may have {}",
                                              format_size(needed), format_size(limit_)));
  }

  auto locked = lock_cache(root_);
  if (!locked) return std::unexpected(std::move(locked.error()));
  const std::string path = root_ + "/" + key_;
  if (::rename(folder_.path.c_str(), path.c_str()) != 0)
    return fail_errno(ErrorCode::kHost, "cannot store the snapshot as " + quote(path, 300));
  folder_ = {};
  const auto evicted = evict(root_, limit_, key_);
  locked->reset();
  for (const std::string& folder : evicted) remove_folder(folder);
  return {};
}

}  // namespace ktstr
