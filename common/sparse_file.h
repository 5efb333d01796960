// Guest memory as a file: pages of zeros are holes, which cost neither disk nor time. Reading it back is
// mapping it.
//
// Of a guest's memory a third to a half was never touched. Whether such a page is a hole in the file, or a
// block of zeros that some copying program has put there, is no difference in the contents, so it is none for
// the checksum either: it covers the pages that are not zero, and where they stand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "common/error.h"
#include "common/xxh3.h"

namespace ktstr {

// The checksum of contents that come piece by piece: XXH3-128 over the digests of the pages that are not zero
// and of the runs they form, and the size.
class SparseChecksum {
 public:
  static constexpr std::size_t kPage = 4096;

  // `bytes` stand at `offset`, a multiple of kPage. Pieces come in ascending order without overlaps; all but
  // the last are whole pages. What is left out is zeros.
  void add(std::uint64_t offset, std::span<const std::byte> bytes);
  // 32 hexadecimal digits, for contents of `size` bytes; nothing can be added afterwards.
  std::string finish(std::uint64_t size);

 private:
  void end_run();

  Xxh3 data_;
  Xxh3 layout_;
  std::uint64_t run_begin_ = 0;
  std::uint64_t run_end_ = 0;
};

// What has been written.
struct SparseContents {
  std::uint64_t size = 0;  // bytes, holes included
  std::uint64_t data = 0;  // bytes that are not in holes
  std::string checksum;    // as of SparseChecksum
};

// Writes ranges of memory into a file, one behind the other. It needs 1 MiB of memory at most. Errors are
// kHost (disk full, a limit of file sizes) and do not name the file, which the caller does; the file is of no
// use then.
class SparseWriter {
 public:
  // `fd`: an empty regular file, open for writing, not owned.
  explicit SparseWriter(int fd) : fd_(fd) {}

  // Memory of this process, whole pages, which nobody changes meanwhile.
  Expected<> append(std::span<const std::byte> memory);
  // `size` bytes of another file, whole pages from a page on. For guest RAM in a memfd: reading a hole
  // through a mapping would give it a page. Error kUsage when the file is shorter.
  Expected<> append_file(int file, std::uint64_t size, std::uint64_t from = 0);
  // Zeros, whole pages.
  void skip(std::uint64_t size) { size_ += size; }
  // Gives the file its size. Nothing can be appended afterwards.
  Expected<SparseContents> finish();

 private:
  Expected<> write_pages(std::span<const std::byte> pages);

  int fd_;
  std::uint64_t size_ = 0;
  std::uint64_t data_ = 0;
  SparseChecksum checksum_;
};

// Error kHost for a file longer than this process may write (RLIMIT_FSIZE): the kernel sends SIGXFSZ, which
// ends it, before it says EFBIG.
Expected<> check_file_limit(std::uint64_t size);

// Reads the first `size` bytes of `fd`, without its holes. Errors: kHost when reading fails, kUsage when the
// file is shorter.
Expected<std::string> sparse_checksum(int fd, std::uint64_t size);

}  // namespace ktstr
