// Words for verdicts, and the one machine-readable line that ends every run.
#pragma once

#include <string>
#include <string_view>

#include "proto/result.pb.h"

namespace ktstr {

// "pass", "fail", "scheduler-died", ...
std::string verdict_name(ktstr::v1::Verdict verdict);

// The process's exit code. Without --bisect it is the verdict's number. With it, `git bisect run` gets what
// it needs: 0 good, 1 bad, 125 skip, 128 stop (git-bisect(1), "Bisect run": 126 and 127 mean something else
// to it, and anything from 128 on aborts). `bisect_boot` makes a kernel that does not reach PID 1 bad instead
// of skipped. A run that the user interrupted stops the bisection.
int exit_code(ktstr::v1::Verdict verdict, bool bisect, bool bisect_boot, bool interrupted);

// "ktstr-vm: verdict=... reason=... kernel=... buildid=... result=PATH", without a newline. Absent facts are
// "-". result= is last because a path may hold blanks.
std::string final_line(const ktstr::v1::RunResult& result, std::string_view result_path);

}  // namespace ktstr
