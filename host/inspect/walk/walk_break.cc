#include "host/inspect/walk/walk_break.h"

#include <fmt/format.h>

#include "host/inspect/walk/poison.h"

namespace ktstr {

const char* to_text(WalkBreak::Kind kind) {
  switch (kind) {
    case WalkBreak::Kind::kTorn:
      return "torn";
    case WalkBreak::Kind::kFault:
      return "fault";
    case WalkBreak::Kind::kLimit:
      return "limit";
    case WalkBreak::Kind::kPoison:
      return "poison";
    case WalkBreak::Kind::kNull:
      return "null";
    case WalkBreak::Kind::kUninitialised:
      return "not initialised";
    case WalkBreak::Kind::kCycle:
      return "cycle";
    case WalkBreak::Kind::kMalformed:
      return "malformed";
  }
  return "unknown";
}

std::string WalkBreak::what() const {
  switch (kind) {
    case WalkBreak::Kind::kTorn:
      return fmt::format("torn at {}: points back to {:#x} instead of {:#x}", node, found, expected);
    case WalkBreak::Kind::kFault:
      return fmt::format("cannot read {}: {}", node,
                         fault ? fault->to_string() : std::string("unknown fault"));
    case WalkBreak::Kind::kLimit:
      return fmt::format("more than {} nodes, stopped before {}", expected, node);
    case WalkBreak::Kind::kPoison:
      return fmt::format("{} holds the poison {:#x}: it was deleted or freed", node, found);
    case WalkBreak::Kind::kNull:
      return fmt::format("null link in {}", node);
    case WalkBreak::Kind::kUninitialised:
      return fmt::format("{} is not initialised", node);
    case WalkBreak::Kind::kCycle:
      return fmt::format("cycle: the links lead back to {}", node);
    case WalkBreak::Kind::kMalformed:
      return fmt::format("malformed at {}: found {:#x}", node, found);
  }
  return "unknown break";
}

std::optional<WalkBreak> check_link(Kva holder, Kva link) {
  WalkBreak::Kind kind;
  if (link == Kva()) {
    kind = WalkBreak::Kind::kNull;
  } else if (is_poison(link.value())) {
    kind = WalkBreak::Kind::kPoison;
  } else if (link.value() % sizeof(std::uint64_t) != 0) {
    kind = WalkBreak::Kind::kMalformed;
  } else {
    return std::nullopt;
  }
  return WalkBreak{.kind = kind, .node = holder, .found = link.value(), .fault = {}, .path = {}};
}

std::string WalkBreak::to_string() const {
  return path.empty() ? what() : path + ": " + what();
}

}  // namespace ktstr
