// Text of unknown origin, made fit for a message.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace ktstr {

// `text` between single quotes, with control characters, quotes, backslashes and bytes above 0x7e as escapes,
// and cut after `limit` bytes ("'abc'..."), so that hostile text can neither flood a message nor steer the
// user's terminal.
std::string quote(std::string_view text, std::size_t limit = 60);

}  // namespace ktstr
