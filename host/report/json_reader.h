// Reads result.json back.
#pragma once

#include <cstddef>
#include <string>

#include "common/error.h"
#include "proto/result.pb.h"

namespace ktstr {

// What json_writer.h wrote to `path`, at most `limit` bytes; fields that this version does not know are left
// out. Errors have `code`: the file cannot be read, or is no result.
Expected<ktstr::v1::RunResult> read_result(const std::string& path, std::size_t limit, ErrorCode code);

}  // namespace ktstr
