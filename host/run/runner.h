// One run from request to result; the only place that knows the order of things.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/error.h"
#include "host/report/status_line.h"
#include "host/run/run_record.h"
#include "host/run/run_request.h"
#include "proto/result.pb.h"

namespace ktstr {

struct RunOutput {
  ktstr::v1::RunResult result;
  std::string result_path;  // of result.json; empty when it could not be written
};

// What a run may be held against; everything may be left out.
struct RunHooks {
  // Sees the inputs of a deterministic run when nothing has been started yet; an error ends it there.
  std::function<Expected<void>(const std::vector<ktstr::v1::InputFile>&)> on_inputs;
  // The frames of an earlier run.
  RecordedFrames* earlier = nullptr;
};

// Prepares, runs, judges, writes the result folder. Errors: everything that ends a run before it has a folder
// of its own (usage, missing files, an unwritable results folder); nothing is left behind then.
Expected<RunOutput> run(const RunRequest& request, StatusLine& status, const RunHooks& hooks = {});

// An error's verdict and reason, as results show them.
ktstr::v1::Verdict verdict_of(ErrorCode code);
ktstr::v1::Reason reason_of(const Error& error);

}  // namespace ktstr
