// Where things are kept between runs.
#pragma once

#include <filesystem>

namespace ktstr {

// ${XDG_CACHE_HOME:-$HOME/.cache}/ktstr-vm (XDG Base Directory Specification; a relative XDG_CACHE_HOME is
// ignored as it asks for). Without a HOME: /tmp/ktstr-vm-<uid>. Not created.
std::filesystem::path cache_folder();

}  // namespace ktstr
