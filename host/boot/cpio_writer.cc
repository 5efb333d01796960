#include "host/boot/cpio_writer.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "common/quote.h"

namespace ktstr {
namespace {

constexpr std::size_t kPage = 4096;

// A buffer is all zero when it starts with a zero byte and equals itself shifted by one; memcmp makes this as
// fast as memory can be read.
bool all_zero(std::span<const std::byte> bytes) {
  return bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

mode_t file_type(InitramfsEntryType type) {
  switch (type) {
    case InitramfsEntryType::kFile:
      return AE_IFREG;
    case InitramfsEntryType::kDirectory:
      return AE_IFDIR;
    case InitramfsEntryType::kSymlink:
      return AE_IFLNK;
    case InitramfsEntryType::kCharDevice:
      return AE_IFCHR;
  }
  return AE_IFREG;
}

}  // namespace

Expected<SparseMemfd> SparseMemfd::create(const char* name) {
  UniqueFd fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return fail_errno(ErrorCode::kHost, "cannot create a memory file for the initramfs");
  return SparseMemfd(std::move(fd));
}

Expected<void> SparseMemfd::put(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t done = ::pwrite(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(size_));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return fail_errno(ErrorCode::kHost, "cannot write the initramfs to memory");
    size_ += static_cast<std::uint64_t>(done);
    bytes = bytes.subspan(static_cast<std::size_t>(done));
  }
  return {};
}

Expected<void> SparseMemfd::write(std::span<const std::byte> bytes) {
  // Collects what lies between zero pages (pages of the output) and writes it in one go.
  while (!bytes.empty()) {
    std::size_t run = 0;
    std::size_t zeros = 0;
    while (run < bytes.size()) {
      const std::size_t room = kPage - (size_ + run) % kPage;
      const std::size_t piece = std::min(room, bytes.size() - run);
      if (piece == kPage && all_zero(bytes.subspan(run, piece))) {
        zeros = piece;
        break;
      }
      run += piece;
    }
    if (auto done = put(bytes.first(run)); !done) return done;
    size_ += zeros;
    bytes = bytes.subspan(run + zeros);
  }
  return {};
}

Expected<UniqueFd> SparseMemfd::finish() {
  size_ = (size_ + 3) & ~std::uint64_t{3};
  if (::ftruncate(fd_.get(), static_cast<off_t>(size_)) != 0) {
    return fail_errno(ErrorCode::kHost, "cannot set the size of the initramfs");
  }
  if (::fcntl(fd_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) != 0) {
    return fail_errno(ErrorCode::kHost, "cannot seal the initramfs");
  }
  return std::move(fd_);
}

struct CpioWriter::Sink {
  SparseMemfd file;
  std::optional<Error> error = std::nullopt;

  static la_ssize_t write(archive* writer, void* self, const void* bytes, std::size_t size) {
    auto* sink = static_cast<Sink*>(self);
    auto done = sink->file.write({static_cast<const std::byte*>(bytes), size});
    if (done) return static_cast<la_ssize_t>(size);
    archive_set_error(writer, done.error().errno_value(), "%s", done.error().message().c_str());
    sink->error = std::move(done.error());
    return -1;
  }
};

void CpioWriter::ArchiveFree::operator()(archive* writer) const {
  archive_write_free(writer);
}

std::unexpected<Error> CpioWriter::failed(const std::string& what) {
  if (sink_->error) return propagate(std::move(*sink_->error), what);
  const char* reason = archive_error_string(archive_.get());
  return fail(ErrorCode::kHost,
              fmt::format("{}: {}", what, reason != nullptr ? reason : "libarchive gives no reason"));
}

Expected<CpioWriter> CpioWriter::create(InitramfsCompression compression) {
  auto file = SparseMemfd::create("ktstr-initramfs");
  if (!file) return std::unexpected(std::move(file.error()));
  CpioWriter writer;
  writer.sink_ = std::make_shared<Sink>(Sink{.file = std::move(*file)});
  writer.archive_.reset(archive_write_new());
  archive* handle = writer.archive_.get();
  if (handle == nullptr) return fail(ErrorCode::kHost, "no memory for the initramfs writer");
  int status = archive_write_set_format_cpio_newc(handle);
  if (compression == InitramfsCompression::kGzip) {
    status = std::min(status, archive_write_add_filter_gzip(handle));
    // Without this the header holds the time of day.
    status = std::min(status, archive_write_set_filter_option(handle, "gzip", "timestamp", nullptr));
    status = std::min(status, archive_write_set_filter_option(handle, "gzip", "compression-level", "1"));
  } else if (compression == InitramfsCompression::kZstd) {
    status = std::min(status, archive_write_add_filter_zstd(handle));
    status = std::min(status, archive_write_set_filter_option(handle, "zstd", "compression-level", "1"));
  }
  // No blocking: data pass through without being copied, and nothing is padded to tape blocks.
  status = std::min(status, archive_write_set_bytes_per_block(handle, 0));
  status = std::min(status, archive_write_open(handle, writer.sink_.get(), nullptr, &Sink::write, nullptr));
  // A warning (ARCHIVE_WARN) here means that a filter would run as another program.
  if (status != ARCHIVE_OK) return writer.failed("cannot set up the initramfs writer");
  return writer;
}

Expected<void> CpioWriter::begin(const InitramfsEntry& entry, std::uint32_t inode, std::uint32_t major,
                                 std::uint32_t minor) {
  struct EntryFree {
    void operator()(archive_entry* header) const { archive_entry_free(header); }
  };
  const std::unique_ptr<archive_entry, EntryFree> header(archive_entry_new());
  if (header == nullptr) return fail(ErrorCode::kHost, "no memory for an initramfs entry");
  // The kernel unpacks relative to its root (init/initramfs.c), names go without the leading slash.
  archive_entry_set_pathname(header.get(), entry.guest_path.c_str() + 1);
  archive_entry_set_filetype(header.get(), file_type(entry.type));
  archive_entry_set_perm(header.get(), entry.mode);
  archive_entry_set_ino(header.get(), inode);
  archive_entry_set_nlink(header.get(), entry.type == InitramfsEntryType::kDirectory ? 2 : 1);
  archive_entry_set_mtime(header.get(), 0, 0);
  archive_entry_set_uid(header.get(), 0);
  archive_entry_set_gid(header.get(), 0);
  archive_entry_set_size(header.get(),
                         entry.type == InitramfsEntryType::kFile ? static_cast<la_int64_t>(entry.size) : 0);
  if (entry.type == InitramfsEntryType::kSymlink)
    archive_entry_set_symlink(header.get(), entry.link_target.c_str());
  if (entry.type == InitramfsEntryType::kCharDevice) {
    archive_entry_set_rdevmajor(header.get(), major);
    archive_entry_set_rdevminor(header.get(), minor);
  }
  if (archive_write_header(archive_.get(), header.get()) != ARCHIVE_OK) {
    return failed(fmt::format("packing {} into the initramfs", quote(entry.guest_path, 512)));
  }
  return {};
}

Expected<void> CpioWriter::data(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const la_ssize_t done = archive_write_data(archive_.get(), bytes.data(), bytes.size());
    if (done <= 0) return failed("writing the initramfs");
    bytes = bytes.subspan(static_cast<std::size_t>(done));
  }
  return {};
}

Expected<Initramfs> CpioWriter::finish() {
  if (archive_write_close(archive_.get()) != ARCHIVE_OK) return failed("finishing the initramfs");
  archive_.reset();
  auto fd = sink_->file.finish();
  if (!fd) return std::unexpected(std::move(fd.error()));
  return Initramfs{.memfd = std::move(*fd), .size = sink_->file.size(), .entries = {}};
}

Expected<Initramfs> concatenate(const Initramfs& first, const Initramfs& second, std::uint64_t limit) {
  if (first.size > limit || second.size > limit - first.size) {
    return fail(ErrorCode::kHost, fmt::format("initramfs of {} and {} bytes, the limit is {} bytes",
                                              first.size, second.size, limit));
  }
  auto file = SparseMemfd::create("ktstr-initramfs");
  if (!file) return std::unexpected(std::move(file.error()));
  std::vector<std::byte> buffer(std::size_t{256} << 10);
  Initramfs joined;
  for (const Initramfs* part : {&first, &second}) {
    for (std::uint64_t at = 0; at < part->size;) {
      const std::size_t piece = std::min<std::uint64_t>(buffer.size(), part->size - at);
      const ssize_t got = ::pread(part->memfd.get(), buffer.data(), piece, static_cast<off_t>(at));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return fail_errno(ErrorCode::kHost, "cannot read an initramfs back");
      if (auto done = file->write(std::span(buffer).first(static_cast<std::size_t>(got))); !done) {
        return std::unexpected(std::move(done.error()));
      }
      at += static_cast<std::uint64_t>(got);
    }
    joined.entries.insert(joined.entries.end(), part->entries.begin(), part->entries.end());
  }
  auto fd = file->finish();
  if (!fd) return std::unexpected(std::move(fd.error()));
  joined.memfd = std::move(*fd);
  joined.size = file->size();
  return joined;
}

}  // namespace ktstr
