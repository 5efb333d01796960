#include "host/run/cpu_flags.h"

#include <algorithm>
#include <string_view>

#include <fmt/format.h>

#include "common/quote.h"

namespace ktstr {
namespace {

constexpr std::size_t kMaxFlags = 64;
constexpr std::size_t kMaxName = 32;

bool is_flag(std::string_view word) {
  const auto is_letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.';
  };
  return word.size() >= 2 && word.size() <= 1 + kMaxName && (word[0] == '+' || word[0] == '-') &&
         word[1] >= 'a' && word[1] <= 'z' && std::all_of(word.begin() + 1, word.end(), is_letter);
}

}  // namespace

Expected<std::vector<std::string>> parse_cpu_flags(const std::string& text) {
  std::vector<std::string> flags;
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::size_t comma = rest.find(',');
    const std::string_view word = rest.substr(0, comma);
    if (!is_flag(word)) {
      return fail(ErrorCode::kUsage, fmt::format("--cpu-flags {}: {} is no feature with a sign, like +la57",
                                                 quote(text), quote(std::string(word))));
    }
    if (flags.size() == kMaxFlags)
      return fail(ErrorCode::kUsage, fmt::format("--cpu-flags: more than {} features", kMaxFlags));
    flags.emplace_back(word);
    if (comma == std::string_view::npos) break;
    rest.remove_prefix(comma + 1);
    if (rest.empty())
      return fail(ErrorCode::kUsage, fmt::format("--cpu-flags {}: ends with a comma", quote(text)));
  }
  return flags;
}

}  // namespace ktstr
