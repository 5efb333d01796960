// This process's own memory, guest RAM not counted.
#pragma once

#include <cstdint>

namespace ktstr {

// Resident anonymous and file pages of this process, bytes (RssAnon + RssFile of /proc/self/status, proc(5)).
// Guest RAM and the initramfs are shared memory (RssShmem) and so not in it. 0 when /proc cannot be read.
std::uint64_t own_memory_bytes();

// The same, but the largest it has ever been (VmHWM); shared memory counts, so ask before there is any.
std::uint64_t peak_own_memory_bytes();

}  // namespace ktstr
