#include "host/cli/run_command.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include <fmt/format.h>

#include "host/cli/series_command.h"
#include "host/report/status_line.h"
#include "host/report/summary.h"
#include "host/report/verdict_text.h"
#include "host/run/explain.h"
#include "host/run/prepare.h"
#include "host/run/runner.h"

namespace ktstr {
namespace {

bool wants_color() {
  return ::isatty(STDOUT_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr;
}

}  // namespace

int report_failure(const Error& error, const RunRequest& request) {
  fmt::print(stderr, "ktstr-vm: {}\n",
             error.detail().empty() ? error.to_string() : error.to_string() + "\n" + error.detail());
  ktstr::v1::RunResult result;
  result.set_verdict(verdict_of(error.code()));
  *result.add_reasons() = reason_of(error);
  fmt::print("{}\n", final_line(result, ""));
  return exit_code(result.verdict(), request.bisect, request.bisect_boot, false);
}

int run_command(const RunRequest& request) {
  if (is_series(request)) return series_command(request);
  if (request.explain) {
    auto prepared = prepare(request);
    if (!prepared) return report_failure(prepared.error(), request);
    auto text = explain(*prepared);
    if (!text) return report_failure(text.error(), request);
    fmt::print("{}", *text);
    return 0;
  }
  StatusLine status(stderr, StatusLine::is_live(stderr));
  auto output = run(request, status);
  status.clear();
  if (!output) return report_failure(output.error(), request);
  fmt::print("{}{}\n", summary(output->result, output->result_path, wants_color()),
             final_line(output->result, output->result_path));
  return static_cast<int>(output->result.exit_code());
}

}  // namespace ktstr
