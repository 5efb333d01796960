#include "host/boot/ld_cache.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "common/quote.h"
#include "common/read_file.h"

namespace ktstr {
namespace {

constexpr std::string_view kOldMagic = "ld.so-1.7.0";
constexpr std::size_t kOldHeaderSize = 16;
constexpr std::size_t kOldEntrySize = 12;
constexpr std::string_view kMagic = "glibc-ld.so.cache1.1";
constexpr std::size_t kHeaderSize = 48;
constexpr std::size_t kEntrySize = 24;
constexpr std::uint32_t kExtensionMagic = 0xeaa42174;
constexpr std::uint32_t kTagHwcaps = 1;
constexpr std::uint32_t kMaxExtensionSections = 64;
// ELF for glibc 2 (3) on 64-bit x86-64 (0x300); glibc's sysdeps/generic/ldconfig.h.
constexpr std::uint32_t kFlagsX86_64 = 0x0303;
constexpr std::uint64_t kHwcapExtension = std::uint64_t{1} << 62;
constexpr std::uint8_t kLittleEndian = 2;
// A desktop's cache has some 3,000 entries.
constexpr std::uint32_t kMaxEntries = 65536;
constexpr std::size_t kMaxCacheSize = std::size_t{64} << 20;

// Bounds-checked little-endian reads.
class Reader {
 public:
  Reader(std::span<const std::byte> bytes, std::string name) : bytes_(bytes), name_(std::move(name)) {}

  std::unexpected<Error> damaged(const std::string& what) const {
    return fail(ErrorCode::kHost,
                fmt::format("{} is damaged: {}; run ldconfig to rebuild it", quote(name_, 512), what));
  }
  bool holds(std::uint64_t offset, std::uint64_t size) const {
    return offset <= bytes_.size() && size <= bytes_.size() - offset;
  }
  // The caller has asked holds() before.
  template <typename T>
  T get(std::uint64_t offset) const {
    T value = {};
    std::memcpy(&value, bytes_.data() + offset, sizeof value);
    return value;
  }
  Expected<std::string> text(std::uint64_t offset) const {
    constexpr std::uint64_t kMaxPath = 4096;
    if (offset >= bytes_.size()) return damaged(fmt::format("a string at {} lies outside", offset));
    const auto* start = reinterpret_cast<const char*>(bytes_.data()) + offset;
    const std::size_t room = std::min(bytes_.size() - offset, kMaxPath);
    const std::size_t length = ::strnlen(start, room);
    if (length == room) return damaged(fmt::format("the string at {} has no end", offset));
    return std::string(start, length);
  }
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
  std::string name_;
};

// Names of the glibc-hwcaps folders that the extension block lists.
Expected<std::vector<std::string>> read_hwcaps(const Reader& file, std::uint32_t extension) {
  std::vector<std::string> names;
  if (extension == 0) return names;
  if (!file.holds(extension, 8)) return file.damaged("its extension block lies outside");
  if (file.get<std::uint32_t>(extension) != kExtensionMagic)
    return file.damaged("its extension block has no magic");
  const auto sections = file.get<std::uint32_t>(extension + 4U);
  if (sections > kMaxExtensionSections ||
      !file.holds(extension + std::uint64_t{8}, std::uint64_t{16} * sections)) {
    return file.damaged(fmt::format("its extension block has {} sections", sections));
  }
  for (std::uint32_t i = 0; i < sections; ++i) {
    const std::uint64_t at = extension + std::uint64_t{8} + std::uint64_t{16} * i;
    if (file.get<std::uint32_t>(at) != kTagHwcaps) continue;
    const auto offset = file.get<std::uint32_t>(at + 8);
    const auto size = file.get<std::uint32_t>(at + 12);
    if (!file.holds(offset, size)) return file.damaged("its list of glibc-hwcaps folders lies outside");
    for (std::uint64_t entry = 0; entry + 4 <= size; entry += 4) {
      // A hostile file could let every 4 bytes name the same long string.
      if (names.size() == 1024) return file.damaged("more than 1024 glibc-hwcaps folders");
      auto name = file.text(file.get<std::uint32_t>(offset + entry));
      if (!name) return std::unexpected(std::move(name.error()));
      names.push_back(std::move(*name));
    }
  }
  return names;
}

// Where the new table starts behind an old one.
std::uint64_t new_table_offset(const Reader& file) {
  if (!file.holds(0, kOldHeaderSize) ||
      std::memcmp(file.bytes().data(), kOldMagic.data(), kOldMagic.size()) != 0) {
    return 0;
  }
  const std::uint64_t end = kOldHeaderSize + std::uint64_t{kOldEntrySize} * file.get<std::uint32_t>(12);
  return (end + 7) & ~std::uint64_t{7};
}

// ld.so's order of names in the cache (glibc's _dl_cache_libcmp): runs of digits compare as numbers, and a
// digit comes after anything else. True when `a` comes before `b` in that order.
bool cache_less(std::string_view a, std::string_view b) {
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  while (!a.empty()) {
    const char other = b.empty() ? '\0' : b[0];
    if (digit(a[0]) != digit(other)) return digit(other);
    if (!digit(a[0])) {
      if (a[0] != other) return a[0] < other;
      a.remove_prefix(1);
      b.remove_prefix(1);
      continue;
    }
    const auto number = [&](std::string_view& text) {
      std::uint64_t value = 0;
      for (; !text.empty() && digit(text[0]); text.remove_prefix(1)) {
        value = value * 10 + static_cast<std::uint64_t>(text[0] - '0');
      }
      return value;
    };
    const std::uint64_t first = number(a);
    const std::uint64_t second = number(b);
    if (first != second) return first < second;
  }
  return !b.empty();
}

template <typename T>
void append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

}  // namespace

Expected<LdCache> LdCache::read(const std::string& path) {
  auto content = read_file(path, kMaxCacheSize);
  if (!content) {
    const int reason = content.error().errno_value();
    if (reason == ENOENT || reason == ENOTDIR) return LdCache();
    return std::unexpected(std::move(content.error()));
  }
  return parse(std::as_bytes(std::span(*content)), path);
}

Expected<LdCache> LdCache::parse(std::span<const std::byte> bytes, const std::string& name) {
  Reader file(bytes, name);
  const std::uint64_t start = new_table_offset(file);
  if (start > 0) {
    if (!file.holds(start, kHeaderSize)) return file.damaged("nothing follows its old table");
    file = Reader(bytes.subspan(start), name);
  }
  if (!file.holds(0, kHeaderSize)) return file.damaged("it is shorter than a header");
  if (std::memcmp(file.bytes().data(), kMagic.data(), kMagic.size()) != 0) {
    return file.damaged("it does not start with \"glibc-ld.so.cache1.1\"");
  }
  const auto count = file.get<std::uint32_t>(20);
  // glibc before 2.33 left the flags zero.
  const auto endian = file.get<std::uint8_t>(28);
  if (endian != 0 && (endian & 3) != kLittleEndian) return file.damaged("it is not little-endian");
  if (count > kMaxEntries || !file.holds(kHeaderSize, std::uint64_t{kEntrySize} * count)) {
    return file.damaged(fmt::format("it claims {} entries in {} bytes", count, bytes.size()));
  }
  auto hwcaps = read_hwcaps(file, file.get<std::uint32_t>(32));
  if (!hwcaps) return std::unexpected(std::move(hwcaps.error()));

  LdCache cache;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint64_t at = kHeaderSize + std::uint64_t{kEntrySize} * i;
    if (file.get<std::uint32_t>(at) != kFlagsX86_64) continue;
    const auto hwcap = file.get<std::uint64_t>(at + 16);
    std::string level;
    if ((hwcap & kHwcapExtension) != 0) {
      const auto index = static_cast<std::uint32_t>(hwcap);
      if (index >= hwcaps->size()) return file.damaged(fmt::format("entry {} has no glibc-hwcaps folder", i));
      level = (*hwcaps)[index];
    } else if (hwcap != 0) {
      level = "~";
    }
    auto soname = file.text(file.get<std::uint32_t>(at + 4));
    if (!soname) return std::unexpected(std::move(soname.error()));
    auto path = file.text(file.get<std::uint32_t>(at + 8));
    if (!path) return std::unexpected(std::move(path.error()));
    if (!path->starts_with('/')) return file.damaged(fmt::format("entry {} has no absolute path", i));
    // Of equals the first counts, as for ld.so.
    const auto [entry, fresh] = cache.entries_.try_emplace(std::move(*soname), Choice{level, *path});
    if (!fresh && level < entry->second.level) entry->second = Choice{level, std::move(*path)};
  }
  return cache;
}

std::string LdCache::find(std::string_view soname) const {
  const auto found = entries_.find(soname);
  return found == entries_.end() ? std::string() : found->second.path;
}

std::string LdCache::encode(const std::map<std::string, std::string>& paths) {
  std::vector<std::pair<std::string, std::string>> sorted(paths.begin(), paths.end());
  // ld.so's binary search wants descending order.
  std::ranges::sort(sorted, [](const auto& a, const auto& b) { return cache_less(b.first, a.first); });
  std::string entries;
  std::string strings;
  const auto strings_start = static_cast<std::uint32_t>(kHeaderSize + kEntrySize * sorted.size());
  const auto add_string = [&](const std::string& text) {
    const auto offset = strings_start + static_cast<std::uint32_t>(strings.size());
    strings.append(text.c_str(), text.size() + 1);
    return offset;
  };
  for (const auto& [soname, path] : sorted) {
    append(entries, kFlagsX86_64);
    append(entries, add_string(soname));
    append(entries, add_string(path));
    append(entries, std::uint32_t{0});
    append(entries, std::uint64_t{0});
  }
  std::string file(kMagic);
  append(file, static_cast<std::uint32_t>(sorted.size()));
  append(file, static_cast<std::uint32_t>(strings.size()));
  append(file, kLittleEndian);
  file.append(kHeaderSize - file.size(), '\0');
  return file + entries + strings;
}

}  // namespace ktstr
