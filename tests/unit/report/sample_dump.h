// A dump as a small guest would give it: 4 CPUs of 7.2, a stalled scheduler, a task in each group.
#pragma once

#include <cstdint>

#include "proto/dump.pb.h"

namespace ktstr {

// `tasks` more tasks, all alike, beside those of the story.
ktstr::v1::Dump sample_dump(std::uint32_t tasks = 0);

}  // namespace ktstr
