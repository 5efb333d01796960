#include "common/quote.h"

#include <fmt/format.h>

namespace ktstr {

std::string quote(std::string_view text, std::size_t limit) {
  std::string quoted = "'";
  for (const char c : text.substr(0, limit)) {
    if (c == '\n') {
      quoted += "\\n";
    } else if (c == '\t') {
      quoted += "\\t";
    } else if (c == '\'' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (c < 0x20 || c > 0x7e) {
      quoted += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      quoted += c;
    }
  }
  quoted += text.size() > limit ? "'..." : "'";
  return quoted;
}

}  // namespace ktstr
