#include "host/kernel/vmcoreinfo.h"

#include <elf.h>

#include <algorithm>
#include <charconv>
#include <string_view>

#include <fmt/format.h>

#include "common/quote.h"
#include "host/kernel/bytes.h"

namespace ktstr {

namespace {

constexpr std::string_view kNoteName = "VMCOREINFO";

// The text inside an ELF note of that name; the whole when it is no such note.
std::string_view text_of(std::span<const std::byte> note) {
  const std::string_view all = as_text(note);
  const auto header = load<Elf64_Nhdr>(note, 0);
  if (!header || header->n_namesz != kNoteName.size() + 1) return all;
  if (all.substr(sizeof(Elf64_Nhdr), kNoteName.size()) != kNoteName) return all;
  const std::size_t begin = sizeof(Elf64_Nhdr) + (kNoteName.size() + 1 + 3) / 4 * 4;
  if (begin > all.size()) return {};
  return all.substr(begin, header->n_descsz);
}

template <typename Number>
Expected<Number> number(std::string_view key, std::string_view text, int base) {
  Number value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) {
    return fail(ErrorCode::kUsage,
                fmt::format("VMCOREINFO: {} should be a {} number of at most 64 bits, is {}", key,
                            base == 16 ? "hexadecimal" : "decimal", quote(text)));
  }
  return value;
}

Expected<> take_line(std::string_view key, std::string_view value, Vmcoreinfo& info) {
  const auto take = [&key, value]<typename T, typename To>(std::optional<To>& to, int base, T) -> Expected<> {
    const auto parsed = number<T>(key, value, base);
    if (!parsed) return std::unexpected(parsed.error());
    to = To(*parsed);
    return {};
  };
  if (key == "OSRELEASE") info.os_release = value;
  if (key == "BUILD-ID") info.build_id = value;
  if (key == "KERNELOFFSET") return take(info.kernel_offset, 16, std::uint64_t{});
  if (key == "NUMBER(phys_base)") return take(info.physical_base, 10, std::int64_t{});
  if (key == "SYMBOL(init_top_pgt)") return take(info.init_top_pgt, 16, std::uint64_t{});
  if (key == "SYMBOL(_stext)") return take(info.stext, 16, std::uint64_t{});
  if (key == "NUMBER(sme_mask)") {
    std::optional<std::int64_t> mask;  // printed as a signed number
    auto done = take(mask, 10, std::int64_t{});
    if (mask) info.sme_mask = static_cast<std::uint64_t>(*mask);
    return done;
  }
  if (key == "NUMBER(pgtable_l5_enabled)") {
    const auto enabled = number<std::int64_t>(key, value, 10);
    if (!enabled) return std::unexpected(enabled.error());
    info.paging = *enabled != 0 ? PagingLevels::kFive : PagingLevels::kFour;
  }
  return {};
}

}  // namespace

Expected<Vmcoreinfo> parse_vmcoreinfo(std::span<const std::byte> note) {
  if (note.size() > Vmcoreinfo::kMaxSize) {
    return fail(ErrorCode::kUsage, fmt::format("VMCOREINFO: {} bytes, more than the {} that are accepted",
                                               note.size(), Vmcoreinfo::kMaxSize));
  }
  std::string_view rest = text_of(note);
  rest = rest.substr(0, rest.find('\0'));
  Vmcoreinfo info;
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    const std::size_t equals = line.find('=');
    if (equals == std::string_view::npos) continue;
    if (auto taken = take_line(line.substr(0, equals), line.substr(equals + 1), info); !taken)
      return std::unexpected(std::move(taken).error());
  }
  if (info.os_release.empty())
    return fail(ErrorCode::kUsage, "VMCOREINFO: no line OSRELEASE=: this is no note of a Linux kernel");
  return info;
}

}  // namespace ktstr
