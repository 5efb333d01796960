// ImageCache: unpacked kernels, kept so that the second run with the same bzImage does not unpack it again.
//
// Unpacking costs 80 ms (lz4), 140 ms (zstd) to 1.4 s (bzip2) of processor time, verifying an entry 10 ms. An
// entry is one file, <folder>/<key>.elf, where key is the XXH3-128 of the whole bzImage (common/xxh3.h): the
// unpacked kernel, then a trailer of 32 bytes (magic with a format version, size, XXH3-128 of the kernel).
// Entries are complete when they get their name, are never written to again, and are read-only; so many
// processes may use the folder at once, and QEMU or a guest's memory may map an entry for as long as it
// likes, even after it was removed.
//
// Files are not synced to disk. After a power failure an entry may be torn, therefore the trailer's checksum
// is verified at the first open after a boot, and again whenever the file is not the one that was verified
// (file_stamp.h); an entry that does not match is thrown away and made anew. <key>.use remembers what was
// verified, and by its own time when the entry was used last; known-<device>-<inode> remembers the hash of a
// bzImage in the same way, which saves reading all of it.
//
// Other modules may keep more beside an entry, what can be made from it again; that goes when the entry goes.
//
// Where nothing can be written (no home, read-only, disk full) the kernel is unpacked into a sealed memfd
// instead.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "common/error.h"
#include "common/mapping.h"
#include "common/unique_fd.h"
#include "host/kernel/payload.h"

namespace ktstr {

// An unpacked kernel.
struct CachedImage {
  UniqueFd fd;              // read-only; holds the kernel and possibly a trailer behind it
  Mapping mapping;          // all of `fd`, read-only
  std::uint64_t size = 0;   // bytes of the kernel
  bool from_cache = false;  // found in the folder, not unpacked now
  std::string path;         // of the entry; empty for a memfd
  std::string note;         // why the folder is not used; empty when it is

  std::span<const std::byte> bytes() const { return mapping.bytes().first(size); }
};

class ImageCache {
 public:
  // Entries kept in the folder; the ones used longest ago go first.
  static constexpr std::size_t kMaxEntries = 16;

  // Unpacks the kernel into the sink it is given; returns the number of bytes. An error becomes that of
  // open().
  using Unpack = std::function<Expected<std::uint64_t>(const PayloadSink&)>;

  // How long a file must have been left alone before its stamp counts (file_stamp.h). Entries are written
  // once, by us; an image is written by a build, perhaps through a mapping, which the kernel notices late.
  struct Quiet {
    std::chrono::seconds entry{2};
    std::chrono::seconds image{60};
  };

  // `folder` is made at first use (with its parents, mode 0700); empty: keep nothing.
  explicit ImageCache(std::string folder) : ImageCache(std::move(folder), Quiet()) {}
  ImageCache(std::string folder, Quiet quiet) : folder_(std::move(folder)), quiet_(quiet) {}

  // ${XDG_CACHE_HOME:-$HOME/.cache}/ktstr-vm/images; empty when neither variable holds an absolute path.
  static std::string default_folder();

  // The hash of the whole file `fd` of `size` bytes, computed or remembered. Error as of Xxh3::hex_of_file().
  Expected<std::string> key_of(int fd, std::uint64_t size) const;

  // The entry `key`, verified. An error says no more than that it must be made anew; a damaged entry is
  // removed.
  Expected<CachedImage> find(const std::string& key) const;

  // The entry `key`, made with `unpack` when there is none or it is damaged. Errors: those of `unpack`, and
  // kHost when not even a memfd can be had.
  Expected<CachedImage> open(const std::string& key, const Unpack& unpack) const;

  // A file beside the entry whose path is `entry`: the same name with another suffix. Error when there is
  // none, it belongs to another user, or is larger than `most`. Its contents may be torn: the caller checks.
  static Expected<Mapping> open_beside(const std::string& entry, std::string_view suffix, std::uint64_t most);
  // Writes one, whole or not at all, in place of what is there. Not being able to is no error.
  static void store_beside(const std::string& entry, std::string_view suffix,
                           std::span<const std::span<const std::byte>> pieces);
  static void remove_beside(const std::string& entry, std::string_view suffix);

 private:
  Expected<CachedImage> store(const std::string& key, const Unpack& unpack, bool& unpack_failed) const;
  void prune(const std::string& keep) const;
  std::string path_of(const std::string& key) const;

  std::string folder_;
  Quiet quiet_;
};

}  // namespace ktstr
