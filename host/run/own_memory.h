// This process's own memory, guest RAM not counted.
#pragma once

#include <cstdint>

namespace ktstr {

// Resident anonymous and file pages of this process, bytes (RssAnon + RssFile of /proc/self/status, proc(5)).
// Guest RAM and the initramfs are shared memory (RssShmem) and so not in it. 0 when /proc cannot be read.
std::uint64_t own_memory_bytes();

}  // namespace ktstr
