// Small files, whole: configuration, /proc, /sys, cgroup attributes.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "common/error.h"

namespace ktstr {

// Larger than any attribute of sysfs or cgroupfs (one page: sysfs_kf_seq_show, kernfs) and than the /proc
// files that are read with it.
inline constexpr std::size_t kMaxAttribute = std::size_t{64} << 10;

// The contents of a regular file, /proc and /sys included: their files say st_size 0 or 4096, so it reads
// until the end. Errors carry the path and `code`: the file cannot be opened or read, is no regular file (a
// FIFO or a device might block for ever), or has more than `limit` bytes.
Expected<std::string> read_file(const std::string& path, std::size_t limit,
                                ErrorCode code = ErrorCode::kHost);

// read_file of at most kMaxAttribute bytes, without blanks and newlines at the end.
Expected<std::string> read_attribute(const std::string& path, ErrorCode code = ErrorCode::kHost);

// Writes `text` to an existing file in one write(2), as the attributes of /sys, /proc and cgroupfs want it;
// the file is neither created nor truncated. Errors carry the path, what was written and `code`; a short
// write is an error.
Expected<> write_attribute(const std::string& path, std::string_view text, ErrorCode code = ErrorCode::kHost);

}  // namespace ktstr
