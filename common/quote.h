// Text of unknown origin, made fit for a message.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace ktstr {

// `text` between single quotes, with control characters, quotes, backslashes and bytes above 0x7e as escapes,
// and cut after `limit` bytes ("'abc'..."), so that hostile text can neither flood a message nor steer the
// user's terminal.
std::string quote(std::string_view text, std::size_t limit = 60);

// The words as one line that a POSIX shell splits into the same words again.
std::string shell_quoted(const std::vector<std::string>& words);

}  // namespace ktstr
