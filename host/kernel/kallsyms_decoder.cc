// A kernel carries a compressed list of its own symbols, for backtraces and /proc/kallsyms. It is made during
// the build (scripts/kallsyms.c) and linked into read-only data as a row of tables, each aligned to 8 bytes
// (4 from 7.0 on). Since 6.4 or so they stand in this order:
//
//     num_syms       u32, n
//     names          n names, each a length (one byte, or two as ULEB128 from 0x80 on) and as many bytes
//     markers        u32 for every 256th name: where it begins in `names`
//     token_table    256 zero-terminated strings
//     token_index    u16 x 256: where each begins in token_table
//     offsets        32 bits for each symbol, sorted by address
//     relative_base  u64; gone in 7.0
//     seqs_of_names  3 bytes for each symbol, their order by name; not needed here
//
// Names are compressed by pairs: the build looks for the pair of characters that is most frequent, gives it a
// byte that no name uses, and repeats. What comes of it is one string for each of the 256 byte values: bytes
// that occur in names stand for themselves, the others for frequent pieces ("sched_", "__pfx_"). A name is
// expanded by putting the strings of its bytes one after another. Its first character is the symbol's type,
// which is dropped (see symbol_table.h).
//
// There are no symbols to find these tables by (they are what we are looking for), so they are recognised:
//
//  1. Digits occur in names, so "0\0" "1\0" ... "9\0" stand in token_table one after another. These 20 bytes
//     occur in a few other places of a kernel too.
//  2. Read on from there to string 255; token_index must follow. Its entry for '0' says where the table
//     begins, and all 256 entries must be where the strings are. That is no coincidence any more.
//  3. Backwards from token_table: markers fall to 0, which is the first one. Their number bounds n to a range
//     of 256.
//  4. Backwards from markers: num_syms is a number in that range such that the names behind it, walked from
//     length to length, agree with every marker and end where the markers begin.
//  5. Forwards from token_index: offsets. There are three ways to read them, and nothing says which. But the
//     symbols are sorted, so only the right way gives ascending addresses inside the kernel.
//
// The image is not trusted: every read is checked, every loop bounded, and what the tables lead to is limited
// by SymbolTable's maxima, so that the worst a made-up image can do is to be refused.
#include "host/kernel/kallsyms_decoder.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>

#include <fmt/format.h>

#include "host/kernel/bytes.h"

namespace ktstr {
namespace {

constexpr std::size_t kTokenCount = 256;
constexpr std::size_t kBlock = 256;  // names for each marker
// A kernel below this number of symbols does not exist, and one marker alone could not be recognised.
constexpr std::uint32_t kMinSymbols = kBlock + 1;
// Longest compressed name that is accepted: it cannot be longer than what it stands for, type included.
constexpr std::size_t kMaxCompressed = SymbolTable::kMaxName + 1;
constexpr std::size_t kMaxToken = SymbolTable::kMaxName;
// Six places look like digits in today's kernels.
constexpr int kMaxCandidates = 256;
// Numbers in front of the names that are tried as num_syms; each may cost a walk over all names.
constexpr int kMaxWalks = 64;

// A piece of the kernel that is loaded as it stands in the file.
struct Region {
  std::span<const std::byte> bytes;
  std::uint64_t address = 0;  // of the first byte

  // `at` or the next position whose address is a multiple of `alignment`.
  std::size_t aligned(std::size_t at, std::uint64_t alignment) const {
    return at + static_cast<std::size_t>((alignment - (address + at) % alignment) % alignment);
  }
};

// How far a search came; the farthest is reported.
enum class Stage { kNothing, kTokens, kMarkers, kNames, kOffsets };

std::string_view lacking(Stage stage) {
  switch (stage) {
    case Stage::kNothing:
      return "it has no kallsyms tables (is CONFIG_KALLSYMS off?)";
    case Stage::kTokens:
      return "its kallsyms tables are damaged: the markers in front of the tokens make no sense";
    case Stage::kMarkers:
      return "its kallsyms tables are damaged: no list of names agrees with the markers";
    default:
      return "its kallsyms tables are damaged or of an unknown format: no way to read the offsets gives "
             "ascending addresses inside the kernel";
  }
}

bool is_graphic(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 0x7f; });
}

// The length in front of a name, which it skips; nullopt where the bytes end.
std::optional<std::size_t> take_length(std::span<const std::byte> names, std::size_t& at) {
  if (at >= names.size()) return std::nullopt;
  std::size_t length = std::to_integer<std::size_t>(names[at++]);
  if (length >= 0x80) {
    if (at >= names.size()) return std::nullopt;
    length = (length & 0x7f) | (std::to_integer<std::size_t>(names[at++]) << 7);
  }
  return length;
}

std::uint64_t symbol_address(const KallsymsTables& tables, std::size_t index) {
  std::uint32_t raw = 0;
  std::memcpy(&raw, tables.offsets.data() + index * sizeof raw, sizeof raw);
  // Arithmetic wraps: what comes out is checked.
  const auto extended = static_cast<std::uint64_t>(std::int64_t{static_cast<std::int32_t>(raw)});
  switch (tables.format) {
    case KallsymsFormat::kAbsolutePercpu:
      return (raw >> 31) == 0 ? raw : tables.relative_base - 1 - extended;
    case KallsymsFormat::kRelativeBase:
      return tables.relative_base + raw;
    default:
      return tables.offsets_address + index * sizeof raw + extended;
  }
}

// Some symbols lie behind everything that is loaded: those of sections that the build uses for itself and
// does not ship (in 6.19 to 7.1 of the packaged kernels 0x17000 to 0x18000 bytes behind the last segment).
constexpr std::uint64_t kBehindImage = std::uint64_t{64} << 20;

// Whether the format explains the offsets: ascending, inside the kernel or a little behind it, or, where the
// format has them, constants.
bool offsets_make_sense(const KallsymsTables& tables, const AddressRange& extent) {
  std::uint64_t before = 0;
  for (std::size_t i = 0; i < tables.count; ++i) {
    const std::uint64_t address = symbol_address(tables, i);
    if (address < before) return false;
    const bool constant = tables.format == KallsymsFormat::kAbsolutePercpu && (address >> 31) == 0;
    if (!constant &&
        (address < extent.begin || address - extent.begin > extent.end - extent.begin + kBehindImage))
      return false;
    before = address;
  }
  // Not constants alone.
  return before >= extent.begin;
}

// Looks for the tables in one region.
class Finder {
 public:
  Finder(const Region& region, const AddressRange& extent) : region_(region), extent_(extent) {}

  std::optional<KallsymsTables> find();
  Stage stage() const { return stage_; }

 private:
  bool read_tokens(std::size_t digits);
  bool tokens_agree(std::size_t index, std::size_t digits, std::size_t end);
  bool read_markers();
  bool markers_end_at(std::size_t end);
  bool read_names();
  bool names_agree(std::size_t begin, std::uint32_t count);
  bool read_offsets();

  std::uint32_t marker(std::size_t index) const {
    return load<std::uint32_t>(region_.bytes, markers_ + index * sizeof(std::uint32_t)).value_or(0);
  }

  Region region_;
  AddressRange extent_;
  KallsymsTables tables_;
  Stage stage_ = Stage::kNothing;
  int walks_ = 0;
  // Positions in the region.
  std::size_t token_table_ = 0;
  std::size_t token_index_ = 0;
  std::size_t markers_ = 0;
  std::size_t marker_count_ = 0;
};

std::optional<KallsymsTables> Finder::find() {
  if (region_.bytes.empty()) return std::nullopt;  // has no address that memmem() may be given
  constexpr std::string_view kDigits("0\0001\0002\0003\0004\0005\0006\0007\0008\0009\0", 20);
  const std::string_view text = as_text(region_.bytes);
  const auto reached = [this](Stage stage) { stage_ = std::max(stage_, stage); };
  const std::byte* const begin = region_.bytes.data();
  std::size_t from = 0;
  for (int i = 0; i < kMaxCandidates; ++i) {
    const void* hit = ::memmem(begin + from, text.size() - from, kDigits.data(), kDigits.size());
    if (hit == nullptr) break;
    const auto digits = static_cast<std::size_t>(static_cast<const std::byte*>(hit) - begin);
    from = digits + 1;
    if (!read_tokens(digits)) continue;
    reached(Stage::kTokens);
    if (!read_markers()) continue;
    reached(Stage::kMarkers);
    if (!read_names()) continue;
    reached(Stage::kNames);
    if (!read_offsets()) continue;
    reached(Stage::kOffsets);
    return tables_;
  }
  return std::nullopt;
}

// Step 2. `digits` is where the string of '0' begins.
bool Finder::read_tokens(std::size_t digits) {
  std::size_t end = digits;
  for (std::size_t i = '0'; i < kTokenCount; ++i) {
    const auto token = load_string(region_.bytes, end, kMaxToken);
    if (!token) return false;
    end += token->size() + 1;
  }
  const std::size_t narrow = region_.aligned(end, 4);
  const std::size_t wide = region_.aligned(end, 8);
  return tokens_agree(narrow, digits, end) || (wide != narrow && tokens_agree(wide, digits, end));
}

bool Finder::tokens_agree(std::size_t index, std::size_t digits, std::size_t end) {
  if (!range_inside(index, kTokenCount * sizeof(std::uint16_t), region_.bytes.size())) return false;
  const auto entry = [&](std::size_t i) {
    return std::size_t{*load<std::uint16_t>(region_.bytes, index + i * sizeof(std::uint16_t))};
  };
  if (entry('0') > digits) return false;
  const std::size_t begin = digits - entry('0');
  std::size_t at = begin;
  for (std::size_t i = 0; i < kTokenCount; ++i) {
    if (entry(i) != at - begin) return false;
    const auto token = load_string(region_.bytes, at, kMaxToken);
    if (!token || !is_graphic(*token)) return false;
    tables_.tokens[i] = *token;
    at += token->size() + 1;
  }
  token_table_ = begin;
  token_index_ = index;
  return at == end;
}

// Step 3. Up to 7 zeros pad the markers.
bool Finder::read_markers() {
  if ((region_.address + token_table_) % 4 != 0) return false;
  if (markers_end_at(token_table_)) return true;
  const auto padding =
      token_table_ >= 4 ? load<std::uint32_t>(region_.bytes, token_table_ - 4) : std::nullopt;
  return padding && *padding == 0 && markers_end_at(token_table_ - 4);
}

bool Finder::markers_end_at(std::size_t end) {
  std::uint64_t above = UINT64_MAX;
  std::size_t at = end;
  for (std::size_t count = 1; count <= SymbolTable::kMaxSymbols / kBlock; ++count) {
    if (at < sizeof(std::uint32_t)) return false;
    at -= sizeof(std::uint32_t);
    const std::uint64_t value = *load<std::uint32_t>(region_.bytes, at);
    // A block of names has at least two bytes for each.
    const bool falls = above == UINT64_MAX || (value < above && above - value >= 2 * kBlock &&
                                               above - value <= kBlock * (kMaxCompressed + 2));
    if (!falls) return false;
    if (value == 0) {
      markers_ = at;
      marker_count_ = count;
      return count >= 2;
    }
    above = value;
  }
  return false;
}

// Step 4.
bool Finder::read_names() {
  const std::uint64_t last = marker(marker_count_ - 1);
  // num_syms stands in front of what the last marker counts from, and behind that there is room for the names
  // of one block, at least one of them.
  constexpr std::size_t kLongestBlock = kBlock * (kMaxCompressed + 2);
  if (last + sizeof(std::uint32_t) > markers_) return false;
  const std::size_t highest = markers_ - static_cast<std::size_t>(last) - sizeof(std::uint32_t);
  for (std::size_t back = 0; back <= std::min(highest, kLongestBlock + 16); ++back) {
    const std::size_t at = highest - back;
    if ((region_.address + at) % 4 != 0) continue;
    const std::uint32_t count = *load<std::uint32_t>(region_.bytes, at);
    if (count < kMinSymbols || count > SymbolTable::kMaxSymbols) continue;
    if ((count + kBlock - 1) / kBlock != marker_count_) continue;
    const std::size_t narrow = at + sizeof(std::uint32_t);
    if (names_agree(narrow, count)) return true;
    const std::size_t wide = region_.aligned(narrow, 8);
    if (wide != narrow && *load<std::uint32_t>(region_.bytes, narrow) == 0 && names_agree(wide, count))
      return true;
  }
  return false;
}

bool Finder::names_agree(std::size_t begin, std::uint32_t count) {
  if (begin >= markers_ || ++walks_ > kMaxWalks) return false;
  const auto names = region_.bytes.subspan(begin, markers_ - begin);
  std::size_t at = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    if (i % kBlock == 0 && marker(i / kBlock) != at) return false;
    const auto length = take_length(names, at);
    // The shortest name has a type and a character, which may be one token.
    if (!length || *length == 0 || *length > kMaxCompressed || *length > names.size() - at) return false;
    at += *length;
  }
  if (region_.aligned(begin + at, 4) != markers_ && region_.aligned(begin + at, 8) != markers_) return false;
  tables_.names = names.first(at);
  tables_.count = count;
  return true;
}

// Step 5. token_index has 512 bytes, so nothing pads it.
bool Finder::read_offsets() {
  const std::size_t begin = token_index_ + kTokenCount * sizeof(std::uint16_t);
  const std::size_t size = std::size_t{tables_.count} * sizeof(std::uint32_t);
  if (!range_inside(begin, size, region_.bytes.size())) return false;
  tables_.offsets = region_.bytes.subspan(begin, size);
  tables_.offsets_address = region_.address + begin;

  const auto base = load<std::uint64_t>(region_.bytes, region_.aligned(begin + size, 8));
  if (base && extent_.contains(*base)) {
    tables_.relative_base = *base;
    for (const auto format : {KallsymsFormat::kRelativeBase, KallsymsFormat::kAbsolutePercpu}) {
      tables_.format = format;
      if (offsets_make_sense(tables_, extent_)) return true;
    }
  }
  tables_.relative_base = 0;
  tables_.format = KallsymsFormat::kPcRelative;
  return offsets_make_sense(tables_, extent_);
}

// Expands names into a buffer. Most tokens are short: those are copied as a whole block of fixed size, which
// the compiler makes two moves of, instead of calling memcpy() a million times.
class Expander {
 public:
  explicit Expander(const std::array<std::string_view, kTokenCount>& tokens) {
    for (std::size_t i = 0; i < kTokenCount; ++i) {
      tokens_[i].text = tokens[i];
      std::memcpy(tokens_[i].head.data(), tokens[i].data(), std::min(tokens[i].size(), kHead));
    }
  }

  // Type and name; nullopt when they are too long. Valid until the next call.
  std::optional<std::string_view> expand(std::span<const std::byte> compressed) {
    std::size_t size = 0;
    for (const std::byte byte : compressed) {
      const Token& token = tokens_[std::to_integer<std::size_t>(byte)];
      const std::size_t length = token.text.size();
      if (length > kLimit - size) return std::nullopt;
      if (length <= kHead) {
        std::memcpy(buffer_.data() + size, token.head.data(), kHead);
      } else {
        std::memcpy(buffer_.data() + size, token.text.data(), length);
      }
      size += length;
    }
    return std::string_view(buffer_.data(), size);
  }

 private:
  static constexpr std::size_t kHead = 16;
  static constexpr std::size_t kLimit = SymbolTable::kMaxName + 1;
  struct Token {
    std::string_view text;
    std::array<char, kHead> head = {};
  };

  std::array<Token, kTokenCount> tokens_;
  std::array<char, kLimit + kHead> buffer_;
};

}  // namespace

std::string_view kallsyms_format_name(KallsymsFormat format) {
  switch (format) {
    case KallsymsFormat::kAbsolutePercpu:
      return "relative base, absolute per-CPU";
    case KallsymsFormat::kRelativeBase:
      return "relative base";
    default:
      return "pc-relative";
  }
}

Expected<KallsymsTables> find_kallsyms(const ElfView& elf, std::string_view what) {
  const AddressRange extent = kernel_extent(elf);
  Stage farthest = Stage::kNothing;
  const auto look = [&](std::span<const std::byte> bytes, std::uint64_t address) {
    // Addresses of things in the region must not wrap.
    if (bytes.size() > UINT64_MAX - address) return std::optional<KallsymsTables>();
    Finder finder({.bytes = bytes, .address = address}, extent);
    auto found = finder.find();
    farthest = std::max(farthest, finder.stage());
    return found;
  };
  if (const ElfSection* rodata = elf.section(".rodata")) {
    if (auto found = look(rodata->bytes, rodata->address)) return *found;
  }
  // No section headers, or other names of sections: everything that is loaded.
  constexpr int kMaxSearched = 16;
  int searched = 0;
  for (const Elf64_Phdr& segment : elf.segments()) {
    if (segment.p_type != PT_LOAD || ++searched > kMaxSearched) continue;
    if (auto found = look(elf.image().subspan(segment.p_offset, segment.p_filesz), segment.p_vaddr)) {
      return *found;
    }
  }
  return fail(ErrorCode::kKernelLacks, fmt::format("{}: {}", what, lacking(farthest)));
}

std::string kallsyms_origin(std::string_view what) {
  return fmt::format("the kallsyms embedded in {}", what);
}

Expected<SymbolTable> decode_kallsyms(const ElfView& elf, std::string_view what) {
  auto tables = find_kallsyms(elf, what);
  if (!tables) return std::unexpected(std::move(tables.error()));
  SymbolTable::Builder builder(tables->count);
  Expander expander(tables->tokens);
  std::size_t at = 0;
  for (std::size_t i = 0; i < tables->count; ++i) {
    const auto length = take_length(tables->names, at);
    if (!length || *length > tables->names.size() - at) break;  // find_kallsyms() has walked here before
    const auto expanded = expander.expand(tables->names.subspan(at, *length));
    at += *length;
    if (!expanded || expanded->size() < 2 || !builder.add(expanded->substr(1), symbol_address(*tables, i))) {
      return fail(ErrorCode::kKernelLacks,
                  fmt::format("{}: its kallsyms tables are damaged: symbol {} of {} has no name, or one of "
                              "more than {} characters, or there are more than {} bytes of names",
                              what, i, tables->count, SymbolTable::kMaxName, SymbolTable::kMaxNameBytes));
    }
  }
  return std::move(builder).finish(SymbolSource::kKallsyms, kallsyms_origin(what), kernel_extent(elf));
}

}  // namespace ktstr
