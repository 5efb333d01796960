// --explain: the whole resolved plan, the guest's files and the command lines, as text.
#pragma once

#include <string>

#include "common/error.h"
#include "host/run/prepare.h"

namespace ktstr {

Expected<std::string> explain(const Prepared& prepared);

// A plan in protobuf text format, with a comment line that says which message it is.
std::string plan_text(const ktstr::v1::RunPlan& plan);

}  // namespace ktstr
