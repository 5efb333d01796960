#include "common/sparse_file.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include <fmt/format.h>

#include "common/units.h"

namespace ktstr {
namespace {

constexpr std::size_t kPage = SparseChecksum::kPage;
// Looked at, hashed and written while it is in the processor's cache.
constexpr std::size_t kPiece = std::size_t{1} << 20;

bool is_zero(std::span<const std::byte> page) {
  return page.front() == std::byte{0} && std::memcmp(page.data(), page.data() + 1, page.size() - 1) == 0;
}

// Calls `run(offset, bytes)` for each run of pages that are not zero, until one of the calls fails.
template <typename Run>
Expected<> for_each_run(std::uint64_t offset, std::span<const std::byte> bytes, const Run& run) {
  const auto page_at = [&](std::size_t at) { return bytes.subspan(at, std::min(kPage, bytes.size() - at)); };
  for (std::size_t begin = 0; begin < bytes.size();) {
    if (is_zero(page_at(begin))) {
      begin += kPage;
      continue;
    }
    std::size_t end = begin + kPage;
    while (end < bytes.size() && !is_zero(page_at(end))) end += kPage;
    end = std::min(end, bytes.size());
    if (auto done = run(offset + begin, bytes.subspan(begin, end - begin)); !done) return done;
    begin = end;
  }
  return {};
}

// Calls `piece(offset, bytes)` for what a file has from `begin` to `size` that is not in a hole, in whole
// pages.
template <typename Piece>
Expected<> for_each_piece(int fd, std::uint64_t begin, std::uint64_t size, const Piece& piece) {
  struct stat st = {};
  if (::fstat(fd, &st) != 0) return fail_errno(ErrorCode::kHost, "cannot stat the file");
  if (static_cast<std::uint64_t>(st.st_size) < size)
    return fail(ErrorCode::kUsage, fmt::format("the file has {} bytes instead of {}", st.st_size, size));
  std::vector<std::byte> buffer(std::min<std::uint64_t>(kPiece, size - begin));
  for (std::uint64_t at = begin; at < size;) {
    const off_t data = ::lseek(fd, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // nothing but a hole
    // A file system without holes has EINVAL, and then all is data.
    if (data > 0) at = std::max(at, static_cast<std::uint64_t>(data) / kPage * kPage);
    if (at >= size) break;
    const off_t hole = ::lseek(fd, static_cast<off_t>(at), SEEK_HOLE);
    // Whole pages, and at least one: a hole may have been made there just now.
    const std::uint64_t data_end =
        hole < 0 ? size : std::clamp(static_cast<std::uint64_t>(hole), at + 1, size);
    const std::uint64_t end = std::min(size, (data_end + kPage - 1) / kPage * kPage);
    while (at < end) {
      const std::size_t wanted = std::min<std::uint64_t>(buffer.size(), end - at);
      std::size_t filled = 0;
      while (filled < wanted) {
        const ssize_t got =
            ::pread(fd, buffer.data() + filled, wanted - filled, static_cast<off_t>(at + filled));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return fail_errno(ErrorCode::kHost, "cannot read the file");
        if (got == 0) return fail(ErrorCode::kUsage, "the file shrank while it was read");
        filled += static_cast<std::size_t>(got);
      }
      if (auto done = piece(at, std::span<const std::byte>(buffer).first(wanted)); !done) return done;
      at += wanted;
    }
  }
  return {};
}

}  // namespace

Expected<> check_file_limit(std::uint64_t end) {
  rlimit limit = {};
  if (::getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY || end <= limit.rlim_cur)
    return {};
  return std::unexpected(
      Error::from_errno(ErrorCode::kHost,
                        fmt::format("files may have at most {} here (ulimit -f), and {} are needed",
                                    format_size(limit.rlim_cur), format_size(end)),
                        EFBIG));
}

void SparseChecksum::add(std::uint64_t offset, std::span<const std::byte> bytes) {
  [[maybe_unused]] const auto never_fails =
      for_each_run(offset, bytes, [&](std::uint64_t at, std::span<const std::byte> run) {
        data_.update(run);
        if (at != run_end_) {
          end_run();
          run_begin_ = at;
        }
        run_end_ = at + run.size();
        return Expected<>();
      });
}

void SparseChecksum::end_run() {
  if (run_begin_ == run_end_) return;
  const std::array<std::uint64_t, 2> run{run_begin_, run_end_};
  layout_.update(std::as_bytes(std::span(run)));
}

std::string SparseChecksum::finish(std::uint64_t size) {
  end_run();
  layout_.update(std::as_bytes(std::span(&size, 1)));
  const std::array digests{data_.digest(), layout_.digest()};
  return Xxh3::hex_of(std::as_bytes(std::span(digests)));
}

Expected<> SparseWriter::append(std::span<const std::byte> memory) {
  while (!memory.empty()) {
    const auto piece = memory.first(std::min(memory.size(), kPiece));
    // One call in place of a page fault for every page that this process has not touched; as it cannot fail
    // in a way that matters, its answer is of no interest. madvise(2) does not write, whatever its first
    // argument says.
    const auto begin = reinterpret_cast<std::uintptr_t>(piece.data()) / kPage * kPage;
    const auto end = reinterpret_cast<std::uintptr_t>(piece.data()) + piece.size();
    static_cast<void>(::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_READ));  // NOLINT
    if (auto written = write_pages(piece); !written) return written;
    memory = memory.subspan(piece.size());
  }
  return {};
}

Expected<> SparseWriter::append_file(int file, std::uint64_t size, std::uint64_t from) {
  const std::uint64_t start = size_;
  auto written =
      for_each_piece(file, from, from + size, [&](std::uint64_t at, std::span<const std::byte> bytes) {
        size_ = start + (at - from);
        return write_pages(bytes);
      });
  size_ = start + size;
  return written;
}

Expected<> SparseWriter::write_pages(std::span<const std::byte> pages) {
  if (auto allowed = check_file_limit(size_ + pages.size()); !allowed) return allowed;
  checksum_.add(size_, pages);
  auto written =
      for_each_run(size_, pages, [&](std::uint64_t at, std::span<const std::byte> run) -> Expected<> {
        data_ += run.size();
        while (!run.empty()) {
          const ssize_t done = ::pwrite(fd_, run.data(), run.size(), static_cast<off_t>(at));
          if (done < 0 && errno == EINTR) continue;
          if (done < 0) return fail_errno(ErrorCode::kHost, "cannot write");
          run = run.subspan(static_cast<std::size_t>(done));
          at += static_cast<std::uint64_t>(done);
        }
        return {};
      });
  size_ += pages.size();
  return written;
}

Expected<SparseContents> SparseWriter::finish() {
  if (auto allowed = check_file_limit(size_); !allowed) return std::unexpected(std::move(allowed.error()));
  if (::ftruncate(fd_, static_cast<off_t>(size_)) != 0)
    return fail_errno(ErrorCode::kHost, fmt::format("cannot make the file {} long", format_size(size_)));
  return SparseContents{.size = size_, .data = data_, .checksum = checksum_.finish(size_)};
}

Expected<std::string> sparse_checksum(int fd, std::uint64_t size) {
  SparseChecksum checksum;
  auto read = for_each_piece(fd, 0, size, [&](std::uint64_t at, std::span<const std::byte> bytes) {
    checksum.add(at, bytes);
    return Expected<>();
  });
  if (!read) return std::unexpected(std::move(read.error()));
  return checksum.finish(size);
}

}  // namespace ktstr
