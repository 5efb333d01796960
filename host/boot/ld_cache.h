// /etc/ld.so.cache: which file a library name stands for, as ldconfig(8) wrote it down.
//
// The format ("glibc-ld.so.cache1.1", glibc's elf/dl-cache.h): a 48-byte header, an array of 24-byte entries
// (flags, offset of the library's name, offset of its path, OS version, hwcap), then strings; offsets count
// from the header's start. An extension block lists the names of glibc-hwcaps folders ("x86-64-v2",
// "x86-64-v3", ...) that entries with bit 62 of hwcap refer to by index. Before glibc 2.32 ldconfig put an
// older table in front of it; that one is skipped.
//
// Which variant: the guest's CPU is not the host's, so a library for the baseline x86-64 is always preferred,
// even where ld.so on this host would take a variant for its newer CPU. A variant is used only when nothing
// else has the name, the least demanding first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/error.h"

namespace ktstr {

class LdCache {
 public:
  // Reads a cache file. A missing file is an empty cache, as it is for ld.so. Error kHost when it cannot be
  // read, is larger than 64 MiB, or is damaged.
  static Expected<LdCache> read(const std::string& path);
  // The same for bytes; `name` is for messages. Every entry of another architecture is passed over; an entry
  // whose strings lie outside the file makes the whole cache an error.
  static Expected<LdCache> parse(std::span<const std::byte> bytes, const std::string& name);

  // The path for `soname`, empty when the cache does not know it.
  std::string find(std::string_view soname) const;
  std::size_t size() const { return entries_.size(); }

  // A cache file with exactly these (name, path) pairs, in the form that ld.so reads: for the guest, which
  // has no ldconfig. The same pairs give the same bytes.
  static std::string encode(const std::map<std::string, std::string>& paths);

 private:
  struct Choice {
    // "" is the baseline, else the glibc-hwcaps folder or "~" for a variant of an older kind.
    std::string level;
    std::string path;
  };
  std::map<std::string, Choice, std::less<>> entries_;
};

}  // namespace ktstr
