#include "host/kernel/symbol_file.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <utility>

#include "common/mapping.h"
#include "common/xxh3.h"
#include "host/kernel/bytes.h"
#include "host/kernel/image_cache.h"
#include "host/kernel/image_symbols.h"
#include "host/kernel/kallsyms_decoder.h"

namespace ktstr {
namespace {

constexpr const char* kSuffix = ".sym";
// Bytes hashed at a time; a multiple of the page size.
constexpr std::size_t kPiece = std::size_t{1} << 20;
constexpr std::array<char, 8> kMagic{'K', 'T', 'S', 'T', 'R', 'S', 'Y', '2'};

struct Header {
  std::array<char, 8> magic = kMagic;
  std::uint64_t functions_only = 0;  // 1: SymbolSource::kImage, 0: kKallsyms
  std::uint64_t symbols = 0;
  std::uint64_t buckets = 0;
  std::uint64_t text = 0;
  AddressRange extent;
  Xxh3::Digest hash = {};  // of everything before and after it
};
static_assert(sizeof(Header) == 72);
constexpr std::size_t kHashAt = offsetof(Header, hash);

// In the order of their alignment.
std::array<std::span<const std::byte>, 5> pieces_of(const SymbolTable::Parts& parts) {
  return {std::as_bytes(parts.addresses), std::as_bytes(parts.names), std::as_bytes(parts.buckets),
          std::as_bytes(parts.order), std::as_bytes(std::span(parts.text))};
}

// Takes `count` numbers off the front of `rest`, which is aligned and long enough.
template <typename T>
std::span<const T> take(std::span<const std::byte>& rest, std::size_t count) {
  const std::span<const T> taken(reinterpret_cast<const T*>(rest.data()), count);
  rest = rest.subspan(count * sizeof(T));
  return taken;
}

void give_back(std::span<std::byte> pages) {
  static_cast<void>(::madvise(pages.data(), pages.size(), MADV_DONTNEED));
}

// What the header's hash should be; the file has a header. A piece at a time, whose pages are given back.
Xxh3::Digest hash_of(Mapping& file) {
  Xxh3 hasher;
  hasher.update(file.bytes().first(kHashAt));
  std::size_t skipped = sizeof(Header);
  for (auto rest = file.mutable_bytes(); !rest.empty();) {
    const auto piece = rest.first(std::min(rest.size(), kPiece));
    // One call sets up the page tables; page faults would take three times as long.
    static_cast<void>(::madvise(piece.data(), piece.size(), MADV_POPULATE_READ));
    hasher.update(piece.subspan(std::min(skipped, piece.size())));
    skipped -= std::min(skipped, piece.size());
    give_back(piece);
    rest = rest.subspan(piece.size());
  }
  return hasher.digest();
}

std::optional<SymbolTable> parse(const std::shared_ptr<Mapping>& file, std::string_view what) {
  const auto header = load<Header>(file->bytes(), 0);
  if (!header || header->magic != kMagic) return std::nullopt;
  const bool bounded = header->symbols <= SymbolTable::kMaxSymbols &&
                       header->buckets <= 2 * SymbolTable::kMaxSymbols &&
                       header->text <= SymbolTable::kMaxNameBytes;
  if (!bounded) return std::nullopt;
  auto rest = file->bytes().subspan(sizeof(Header));
  const std::uint64_t expected = header->symbols * sizeof(std::uint64_t) +
                                 (2 * header->symbols + 1 + header->buckets + 1) * sizeof(std::uint32_t) +
                                 header->text;
  if (rest.size() != expected) return std::nullopt;
  if (hash_of(*file) != header->hash) return std::nullopt;
  SymbolTable::Parts parts;
  parts.addresses = take<std::uint64_t>(rest, header->symbols);
  parts.names = take<std::uint32_t>(rest, header->symbols + 1);
  parts.buckets = take<std::uint32_t>(rest, header->buckets + 1);
  parts.order = take<std::uint32_t>(rest, header->symbols);
  parts.text = as_text(rest);
  parts.extent = header->extent;
  const bool image = header->functions_only != 0;
  auto table = SymbolTable::from_parts(parts, file, image ? SymbolSource::kImage : SymbolSource::kKallsyms,
                                       image ? image_origin(what) : kallsyms_origin(what));
  // Few of the symbols will be asked for; the others need not count as this process's memory.
  give_back(file->mutable_bytes());
  // What is asked for lies far apart: no pages around it.
  static_cast<void>(::madvise(file->mutable_bytes().data(), file->size(), MADV_RANDOM));
  return table;
}

}  // namespace

std::optional<SymbolTable> load_symbols(const std::string& entry, std::string_view what) {
  if (entry.empty()) return std::nullopt;
  constexpr std::uint64_t kMost = sizeof(Header) + SymbolTable::kMaxSymbols * 24 + SymbolTable::kMaxNameBytes;
  auto mapping = ImageCache::open_beside(entry, kSuffix, kMost);
  if (!mapping) return std::nullopt;
  auto table = parse(std::make_shared<Mapping>(std::move(*mapping)), what);
  if (!table) ImageCache::remove_beside(entry, kSuffix);
  return table;
}

void keep_symbols(const std::string& entry, const SymbolTable& table) {
  if (entry.empty()) return;
  const SymbolTable::Parts& parts = table.parts();
  if (parts.addresses.empty()) return;
  const auto pieces = pieces_of(parts);
  Header header;
  header.functions_only = table.source() == SymbolSource::kImage ? 1 : 0;
  header.symbols = parts.addresses.size();
  header.buckets = parts.buckets.size() - 1;
  header.text = parts.text.size();
  header.extent = parts.extent;
  Xxh3 hasher;
  hasher.update(std::as_bytes(std::span(&header, 1)).first(kHashAt));
  for (const auto piece : pieces) hasher.update(piece);
  header.hash = hasher.digest();
  const std::array<std::span<const std::byte>, 6> all{
      std::as_bytes(std::span(&header, 1)), pieces[0], pieces[1], pieces[2], pieces[3], pieces[4]};
  ImageCache::store_beside(entry, kSuffix, all);
}

}  // namespace ktstr
