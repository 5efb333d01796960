#include "guest/init/boot_arguments.h"

#include <array>
#include <charconv>
#include <optional>
#include <utility>

#include "common/quote.h"

namespace ktstr::guest {
namespace {

constexpr std::string_view kPrefix = "ktstr.";
constexpr std::string_view kVirtio = "virtio:";
constexpr std::array<std::pair<std::string_view, Injection>, 8> kInjections = {{
    {"panic", Injection::kPanic},
    {"init-crash", Injection::kInitCrash},
    {"init-throw", Injection::kInitThrow},
    {"exit", Injection::kExit},
    {"silent", Injection::kSilent},
    {"kill-scheduler", Injection::kKillScheduler},
    {"late-output", Injection::kLateOutput},
    {"topology", Injection::kTopology},
}};

std::vector<std::string> split_arguments(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  bool quoted = false;
  for (const char c : text) {
    if (c == '"') {
      quoted = !quoted;
    } else if (!quoted && (c == ' ' || c == '\n' || c == '\t')) {
      if (!word.empty()) words.push_back(std::exchange(word, {}));
    } else {
      word += c;
    }
  }
  if (!word.empty()) words.push_back(std::move(word));
  return words;
}

// "debugcon:0xe9" -> 0xe9.
std::optional<std::uint16_t> debug_port_number(std::string_view value) {
  constexpr std::string_view kDebugPort = "debugcon:0x";
  std::uint16_t port = 0;
  if (!value.starts_with(kDebugPort)) return std::nullopt;
  const char* const end = value.data() + value.size();
  const auto [rest, error] = std::from_chars(value.data() + kDebugPort.size(), end, port, 16);
  if (error != std::errc() || rest != end || port == 0) return std::nullopt;
  return port;
}

void apply(std::string_view key, std::string_view value, BootArguments& arguments) {
  if (key == "frames") {
    if (value.starts_with(kVirtio) && value.size() > kVirtio.size()) {
      arguments.frame_port = value.substr(kVirtio.size());
      arguments.debug_port = 0;
    } else if (const auto port = debug_port_number(value)) {
      arguments.debug_port = *port;
      arguments.frame_port.clear();
    } else {
      arguments.problems.push_back("ktstr.frames=" + quote(value) +
                                   " is neither virtio:<port name> nor debugcon:<I/O port>");
    }
    return;
  }
  if (key == "inject") {
    for (const auto& [name, injection] : kInjections) {
      if (value == name) {
        arguments.injection = injection;
        return;
      }
    }
    arguments.problems.push_back(
        "ktstr.inject=" + quote(value) +
        " is not panic, init-crash, init-throw, exit, silent, kill-scheduler, late-output or topology");
    return;
  }
  arguments.problems.push_back("unknown kernel argument " + quote(std::string(kPrefix) + std::string(key)));
}

}  // namespace

BootArguments parse_boot_arguments(std::string_view command_line) {
  BootArguments arguments;
  for (const std::string& word : split_arguments(command_line)) {
    const std::string_view argument = word;
    if (!argument.starts_with(kPrefix)) continue;
    const std::size_t equals = argument.find('=');
    const std::string_view key = argument.substr(
        kPrefix.size(), equals == std::string_view::npos ? std::string_view::npos : equals - kPrefix.size());
    apply(key, equals == std::string_view::npos ? std::string_view{} : argument.substr(equals + 1),
          arguments);
  }
  return arguments;
}

}  // namespace ktstr::guest
