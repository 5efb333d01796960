#include "host/kernel/kernel_config.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <system_error>

#include <fmt/format.h>

#include "common/quote.h"
#include "common/unique_fd.h"
#include "host/kernel/bytes.h"
#include "host/kernel/payload.h"

namespace ktstr {
namespace {

constexpr std::string_view kPrefix = "CONFIG_";
constexpr std::string_view kNotSet = " is not set";
constexpr std::string_view kEmbeddedBegin = "IKCFG_ST";
constexpr std::string_view kEmbeddedEnd = "IKCFG_ED";

bool is_option_name(std::string_view text) {
  return text.size() > kPrefix.size() && text.starts_with(kPrefix) &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
         });
}

Expected<std::string> read_text(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return fail_errno(ErrorCode::kUsage, "cannot open " + quote(path, 200));
  struct stat st = {};
  if (::fstat(fd.get(), &st) != 0) return fail_errno(ErrorCode::kHost, "cannot stat " + quote(path, 200));
  if (!S_ISREG(st.st_mode)) return fail(ErrorCode::kUsage, quote(path, 200) + " is not a regular file");
  if (static_cast<std::uint64_t>(st.st_size) > KernelConfig::kMaxTextSize) {
    return fail(ErrorCode::kUsage, quote(path, 200) + " is too large for a kernel configuration");
  }
  std::string text(static_cast<std::size_t>(st.st_size), '\0');
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = ::read(fd.get(), text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno(ErrorCode::kHost, "cannot read " + quote(path, 200));
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  text.resize(done);
  return text;
}

}  // namespace

Expected<KernelConfig> KernelConfig::parse(std::string text, Origin origin, std::string path) {
  if (text.size() >= kMaxTextSize) return fail(ErrorCode::kUsage, "the kernel configuration is too large");
  KernelConfig config;
  config.origin_ = origin;
  config.path_ = std::move(path);
  config.text_ = std::move(text);
  if (!config.text_.empty() && config.text_.back() != '\n') config.text_.push_back('\n');
  std::size_t begin = 0;
  for (std::size_t number = 1; begin < config.text_.size(); ++number) {
    const std::size_t end = config.text_.find('\n', begin);
    if (auto ok = config.index_line(begin, end, number); !ok) return std::unexpected(std::move(ok.error()));
    begin = end + 1;
  }
  // Stable, so that of equal names the one that comes last in the text also comes last here, and lookup()
  // takes it.
  std::stable_sort(config.entries_.begin(), config.entries_.end(), [&config](const Entry& a, const Entry& b) {
    return config.name_of(a) < config.name_of(b);
  });
  return config;
}

Expected<> KernelConfig::index_line(std::size_t begin, std::size_t end, std::size_t number) {
  std::string_view line(text_.data() + begin, end - begin);
  if (line.ends_with('\r')) line.remove_suffix(1);
  const auto add = [&](std::size_t name, std::size_t name_length, std::size_t value,
                       std::size_t value_length) {
    entries_.push_back({static_cast<std::uint32_t>(name), static_cast<std::uint32_t>(name_length),
                        static_cast<std::uint32_t>(value), static_cast<std::uint32_t>(value_length)});
  };
  if (line.starts_with('#')) {
    if (!line.starts_with("# ") || !line.ends_with(kNotSet)) return {};
    const std::string_view name = line.substr(2, line.size() - 2 - kNotSet.size());
    if (is_option_name(name)) add(begin + 2, name.size(), 0, 0);
    return {};
  }
  if (line.find_first_not_of(" \t") == std::string_view::npos) return {};
  const std::size_t equals = line.find('=');
  if (equals == std::string_view::npos || !is_option_name(line.substr(0, equals)) ||
      line.find('\0') < line.size()) {
    return fail(ErrorCode::kUsage,
                fmt::format("line {} is no kernel configuration (CONFIG_X=...): {}", number, quote(line)));
  }
  add(begin, equals, begin + equals + 1, line.size() - equals - 1);
  return {};
}

Expected<KernelConfig> KernelConfig::read_file(const std::string& path) {
  auto text = read_text(path);
  if (!text) return std::unexpected(std::move(text.error()));
  auto config = parse(std::move(*text), Origin::kFile, path);
  if (!config) return propagate(std::move(config.error()), "reading " + quote(path, 200));
  return config;
}

bool KernelConfig::may_embed(std::span<const std::byte> piece) {
  static_assert(kEmbeddedBegin.size() == kMarkerSize);
  return as_text(piece).find(kEmbeddedBegin) != std::string_view::npos;
}

std::optional<KernelConfig> KernelConfig::find_embedded(std::span<const std::byte> image) {
  const std::string_view haystack = as_text(image);
  // The marker alone proves nothing (it may stand in some table of strings), so every place is tried, within
  // reason.
  std::size_t at = 0;
  for (int tries = 0; tries < 16; ++tries) {
    at = haystack.find(kEmbeddedBegin, at);
    if (at == std::string_view::npos) return std::nullopt;
    at += kEmbeddedBegin.size();
    const std::size_t end = haystack.substr(at, kMaxTextSize).find(kEmbeddedEnd);
    const auto stream = image.subspan(at, end == std::string_view::npos ? 0 : end);
    if (detect_compression(stream) != Compression::kGzip) continue;
    std::string text;
    auto size = unpack_payload(stream, [&text](std::span<const std::byte> bytes) -> Expected<> {
      if (bytes.size() > kMaxTextSize - text.size()) return fail(ErrorCode::kUsage, "too large");
      text.append(as_text(bytes));
      return {};
    });
    if (!size) continue;
    if (auto config = parse(std::move(text), Origin::kEmbedded)) return std::move(*config);
  }
  return std::nullopt;
}

std::string_view KernelConfig::name_of(const Entry& entry) const {
  return std::string_view(text_).substr(entry.name, entry.name_length);
}

ConfigValue KernelConfig::lookup(std::string_view option) const {
  std::string full;
  if (!option.starts_with(kPrefix)) {
    full = fmt::format("{}{}", kPrefix, option);
    option = full;
  }
  const auto after =
      std::upper_bound(entries_.begin(), entries_.end(), option,
                       [this](std::string_view name, const Entry& entry) { return name < name_of(entry); });
  if (after == entries_.begin() || name_of(*std::prev(after)) != option) return {};
  const Entry& entry = *std::prev(after);
  const auto text = std::string_view(text_).substr(entry.value, entry.value_length);
  if (entry.value_length == 0) return {ConfigValue::Kind::kNo, {}};
  if (text == "n") return {ConfigValue::Kind::kNo, text};
  if (text == "y") return {ConfigValue::Kind::kYes, text};
  if (text == "m") return {ConfigValue::Kind::kModule, text};
  return {ConfigValue::Kind::kValue, text};
}

bool KernelConfig::enabled(std::string_view option) const {
  const auto kind = lookup(option).kind;
  return kind == ConfigValue::Kind::kYes || kind == ConfigValue::Kind::kModule;
}

std::uint32_t KernelConfig::hz() const {
  constexpr std::uint32_t kMost =
      10'000;  // kernel/Kconfig.hz offers 1000, and no architecture more than 1024
  const std::string_view text = lookup("CONFIG_HZ").text;
  std::uint32_t hz = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), hz);
  return error == std::errc() && end == text.data() + text.size() && hz <= kMost ? hz : 0;
}

std::string KernelConfig::source() const {
  switch (origin_) {
    case Origin::kEmbedded:
      return "ikconfig";
    case Origin::kFile:
      return path_;
    case Origin::kDerived:
      return "derived";
    case Origin::kNone:
      break;
  }
  return "none";
}

std::vector<std::string_view> KernelConfig::options() const {
  std::vector<std::string_view> names;
  names.reserve(entries_.size());
  for (const Entry& entry : entries_) {
    if (const auto name = name_of(entry); names.empty() || names.back() != name) names.push_back(name);
  }
  return names;
}

}  // namespace ktstr
