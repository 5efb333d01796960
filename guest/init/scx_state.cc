#include "guest/init/scx_state.h"

#include <unistd.h>

#include <array>
#include <charconv>
#include <utility>

#include "common/read_file.h"

namespace ktstr::guest {
namespace {

constexpr std::size_t kMaxOpsName = 128;
constexpr std::array<std::pair<std::string_view, ScxPhase>, 4> kPhases = {{
    {"disabled", ScxPhase::kDisabled},
    {"enabling", ScxPhase::kEnabling},
    {"enabled", ScxPhase::kEnabled},
    {"disabling", ScxPhase::kDisabling},
}};

std::string_view first_line(std::string_view text) {
  return text.substr(0, text.find('\n'));
}

}  // namespace

ScxPhase parse_scx_phase(std::string_view text) {
  for (const auto& [name, phase] : kPhases) {
    if (first_line(text) == name) return phase;
  }
  return ScxPhase::kUnknown;
}

std::string_view to_string(ScxPhase phase) {
  for (const auto& [name, value] : kPhases) {
    if (value == phase) return name;
  }
  return "unknown";
}

std::string parse_ops_name(std::string_view text) {
  std::string name(first_line(text).substr(0, kMaxOpsName));
  for (char& c : name) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  return name;
}

bool ScxStateReader::supported() const {
  return ::access((root_ + "/state").c_str(), F_OK) == 0;
}

ScxPhase ScxStateReader::phase() const {
  const Expected<std::string> text = read_attribute(root_ + "/state");
  return text ? parse_scx_phase(*text) : ScxPhase::kUnknown;
}

ScxState ScxStateReader::read() const {
  ScxState state{.phase = phase(), .ops = {}};
  if (const Expected<std::string> ops = read_attribute(root_ + "/root/ops")) state.ops = parse_ops_name(*ops);
  return state;
}

std::optional<std::uint64_t> ScxStateReader::enable_seq() const {
  const Expected<std::string> text = read_attribute(root_ + "/enable_seq");
  if (!text) return std::nullopt;
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc{} || end != text->data() + text->size()) return std::nullopt;
  return value;
}

}  // namespace ktstr::guest
