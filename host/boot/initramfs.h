// The initramfs packer: collects files under their guest paths and writes them as one cpio archive.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"
#include "common/unique_fd.h"

namespace ktstr {

// How the archive is compressed. Only what both libarchive writes and the kernel's decompressors
// (lib/decompress*.c) read: xz is missing because the kernel's decoder takes CRC32 checks only and
// libarchive's encoder always writes CRC64; lz4 because the kernel reads the legacy frame format only and
// libarchive writes the current one.
enum class InitramfsCompression {
  kNone,  // fastest to build and to unpack; needs nothing of the kernel
  kGzip,  // CONFIG_RD_GZIP
  kZstd,  // CONFIG_RD_ZSTD, Linux 5.9 or newer
};

enum class InitramfsEntryType { kFile, kDirectory, kSymlink, kCharDevice };

// One line of the file list, for --explain.
struct InitramfsEntry {
  // Absolute.
  std::string guest_path;
  InitramfsEntryType type = InitramfsEntryType::kFile;
  // Permission bits, e.g. 0755.
  mode_t mode = 0;
  // Bytes of content; a symlink's is the length of its target.
  std::uint64_t size = 0;
  // Empty when the content does not come from a file.
  std::string host_path;
  std::string link_target;
};

// A finished archive.
struct Initramfs {
  // Sealed against writing and resizing. Pages that are all zero are holes in an uncompressed archive: a
  // reader that asks SEEK_DATA for the data can skip them.
  UniqueFd memfd;
  // Bytes, a multiple of 4.
  std::uint64_t size = 0;
  std::vector<InitramfsEntry> entries;
};

// The same for files that do not go into an archive: their contents one behind the other.
struct FileBundle {
  struct File {
    InitramfsEntry entry;
    std::uint64_t offset = 0;  // of its content; that of a file only
  };
  UniqueFd memfd;
  std::uint64_t size = 0;
  std::vector<File> files;  // sorted by path, so folders come before what is in them
};

// Collects entries, then builds. Parent folders are made as needed (0755, root). Every guest path must be
// absolute and free of
// ".."; "//" and "/./" are cleaned up. Adding the same thing twice is fine, adding two different things under
// one path is an error (kUsage) that names both. Permission bits of equal files are united.
class InitramfsBuilder {
 public:
  // Largest sum of all content, bytes; the format itself ends at 4 GiB a file.
  static constexpr std::uint64_t kDefaultLimit = std::uint64_t{2} << 30;

  explicit InitramfsBuilder(std::uint64_t limit = kDefaultLimit) : limit_(limit) {}

  // Packs the regular file `host_path` (symlinks are followed). It is read in build(). Errors: kUsage when
  // there is no such file, or it is a folder, FIFO, socket or device; kHost when the limit is passed.
  Expected<void> add_file(const std::string& guest_path, const std::string& host_path, mode_t mode);
  Expected<void> add_bytes(const std::string& guest_path, std::string bytes, mode_t mode);
  Expected<void> add_directory(const std::string& guest_path, mode_t mode = 0755);
  // `target` as symlink(2) takes it: relative or absolute, not checked to exist.
  Expected<void> add_symlink(const std::string& guest_path, const std::string& target);
  // A character device, e.g. /dev/console 5:1, /dev/null 1:3.
  Expected<void> add_device_node(const std::string& guest_path, std::uint32_t major, std::uint32_t minor,
                                 mode_t mode);

  // What would be packed, sorted by path.
  std::vector<InitramfsEntry> entries() const;
  // Sum of all content, bytes.
  std::uint64_t content_size() const { return content_size_; }

  // Writes the archive. The same entries give the same bytes: sorted by path, time 0, owner root, inode
  // numbers by order. Errors: kHost when memory runs out, kUsage when a file has changed since it was added.
  Expected<Initramfs> build(InitramfsCompression compression = InitramfsCompression::kNone) const;
  // The entries whose paths `base` does not have; no device nodes. Errors as of build().
  Expected<FileBundle> bundle_beyond(const InitramfsBuilder& base) const;

 private:
  struct Entry {
    InitramfsEntry entry;
    std::string bytes;       // content when host_path is empty
    bool automatic = false;  // a parent folder nobody asked for
    std::uint32_t major = 0;
    std::uint32_t minor = 0;
    // What the host file was when it was added.
    dev_t device = 0;
    ino_t inode = 0;
    timespec changed = {};
  };
  using Entries = std::map<std::string, Entry>;

  Expected<void> add(const std::string& guest_path, Entry entry);
  Expected<void> add_parents(const std::string& path);
  Expected<void> merge(Entry& present, const Entry& added);
  Expected<bool> same_content(const Entry& a, const Entry& b) const;
  static Expected<void> copy_content(const Entry& entry,
                                     const std::function<Expected<void>(std::span<const std::byte>)>& to);

  std::uint64_t limit_;
  std::uint64_t content_size_ = 0;
  Entries entries_;  // by guest path
};

// One archive behind the other; the kernel unpacks them in this order, and a later entry replaces an earlier
// one of the same path (init/initramfs.c, unpack_to_rootfs). `limit` in bytes. Error kHost.
Expected<Initramfs> concatenate(const Initramfs& first, const Initramfs& second,
                                std::uint64_t limit = InitramfsBuilder::kDefaultLimit);

}  // namespace ktstr
