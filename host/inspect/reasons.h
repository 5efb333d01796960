// Why something is absent, where several things were tried: "REASON; REASON".
#pragma once

#include <string>
#include <string_view>

namespace ktstr {

// An empty reason, and one that was just given, add nothing.
inline void add_reason(std::string& all, std::string_view reason) {
  if (reason.empty() || all.ends_with(reason)) return;
  if (!all.empty()) all += "; ";
  all += reason;
}

inline std::string join_reasons(std::string first, std::string_view second) {
  add_reason(first, second);
  return first;
}

}  // namespace ktstr
