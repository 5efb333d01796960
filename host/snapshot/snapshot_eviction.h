// Which snapshots go when there are too many.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ktstr {

// Takes snapshots out of the cache, those used longest ago first, until the rest has at most `limit` bytes of
// blocks on disk. One that is in use stays, and so does `keep` (a key; may be empty). With the cache locked;
// returns the folders they are in now, for remove_folder() once it is not locked any more.
std::vector<std::string> evict(const std::string& root, std::uint64_t limit, const std::string& keep);

}  // namespace ktstr
