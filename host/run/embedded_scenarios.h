// The scenario catalog as it was compiled in; the source is generated from scenarios/ by scripts/embed.py.
#pragma once

#include <string_view>
#include <vector>

namespace ktstr {

struct EmbeddedFile {
  std::string_view name;  // base name up to the first dot
  std::string_view text;
};

// Sorted by name.
std::vector<EmbeddedFile> embedded_scenarios();

}  // namespace ktstr
