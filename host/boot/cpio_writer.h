// CpioWriter: a cpio archive ("newc" format) in a memfd, by libarchive.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "common/error.h"
#include "common/unique_fd.h"
#include "host/boot/initramfs.h"

struct archive;

namespace ktstr {

// A memfd that is written front to back. Whole pages of zeros are left as holes: they cost neither memory nor
// a copy.
class SparseMemfd {
 public:
  static Expected<SparseMemfd> create(const char* name);
  Expected<void> write(std::span<const std::byte> bytes);
  // Sets the final size, `size()` rounded up to a multiple of 4, and seals the file.
  Expected<UniqueFd> finish();
  // Bytes so far.
  std::uint64_t size() const { return size_; }

 private:
  explicit SparseMemfd(UniqueFd fd) : fd_(std::move(fd)) {}
  Expected<void> put(std::span<const std::byte> bytes);
  UniqueFd fd_;
  std::uint64_t size_ = 0;
};

// Entries go in as begin() and data() calls whose sizes add up to the entry's; parents before children.
// Move-only.
class CpioWriter {
 public:
  static Expected<CpioWriter> create(InitramfsCompression compression);
  Expected<void> begin(const InitramfsEntry& entry, std::uint32_t inode, std::uint32_t major,
                       std::uint32_t minor);
  Expected<void> data(std::span<const std::byte> bytes);
  // Writes the trailer. The result's list of entries is empty.
  Expected<Initramfs> finish();

 private:
  struct ArchiveFree {
    void operator()(archive* writer) const;
  };
  // Lives at a fixed address, because libarchive's write callback holds on to it.
  struct Sink;

  CpioWriter() = default;
  std::unexpected<Error> failed(const std::string& what);

  std::shared_ptr<Sink> sink_;  // before archive_, which writes to it until it ends
  std::unique_ptr<archive, ArchiveFree> archive_;
};

}  // namespace ktstr
