#include "host/explore/seed_outcome.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>

#include "common/error.h"
#include "common/unique_fd.h"
#include "host/explore/signature.h"
#include "host/report/json_reader.h"
#include "host/report/verdict_text.h"

namespace ktstr {
namespace {

// Larger than the result of 1000 workers with all their samples.
constexpr std::size_t kMaxResult = std::size_t{64} << 20;
// The first backtrace of a log stands near its beginning.
constexpr std::size_t kMaxLog = std::size_t{8} << 20;

// The run's folder is what "latest" names: the only link that `ktstr-vm run` makes.
std::filesystem::path find_run_folder(const std::filesystem::path& results) {
  std::error_code error;
  const std::filesystem::path name = std::filesystem::read_symlink(results / "latest", error);
  const bool plain = !error && name == name.filename() && name != "." && name != "..";
  if (!plain || !std::filesystem::is_directory(results / name, error)) return {};
  return results / name;
}

// The beginning of a log; empty when there is none.
std::string log_start(const std::filesystem::path& file) {
  const UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW));
  std::string text;
  char buffer[16384];
  while (fd && text.size() < kMaxLog) {
    const ssize_t got = ::read(fd.get(), buffer, std::min(sizeof(buffer), kMaxLog - text.size()));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    text.append(buffer, static_cast<std::size_t>(got));
  }
  return text;
}

// CLOCK_MONOTONIC of the guest when it last told something, ns.
std::uint64_t last_guest_time(const ktstr::v1::GuestSection& guest) {
  std::uint64_t last = guest.facts().hello_ns();
  for (const auto& step : guest.steps()) last = std::max(last, step.end_ns());
  return last;
}

}  // namespace

SeedOutcome read_outcome(std::uint64_t seed, int exit_code, const std::filesystem::path& results) {
  SeedOutcome outcome;
  outcome.record.seed = seed;
  outcome.record.exit_code = exit_code;
  outcome.run_folder = find_run_folder(results);
  Expected<ktstr::v1::RunResult> result =
      outcome.run_folder.empty()
          ? Expected<ktstr::v1::RunResult>(fail(ErrorCode::kHost, "the run left no folder"))
          : read_result((outcome.run_folder / "result.json").string(), kMaxResult, ErrorCode::kHost);
  if (!result) {
    ktstr::v1::RunResult substitute;
    substitute.set_verdict(static_cast<ktstr::v1::Verdict>(exit_code));
    ktstr::v1::Reason& reason = *substitute.add_reasons();
    reason.set_kind("no-result");
    reason.set_text(result.error().to_string());
    result = std::move(substitute);
  }
  outcome.record.verdict = verdict_name(result->verdict());
  if (outcome.record.verdict.empty()) outcome.record.verdict = "unknown";
  outcome.record.guest_ns = last_guest_time(result->guest());
  outcome.interrupted =
      std::any_of(result->reasons().begin(), result->reasons().end(),
                  [](const ktstr::v1::Reason& reason) { return reason.kind() == "interrupted"; });
  if (!outcome.record.failed()) return outcome;
  const bool has_folder = !outcome.run_folder.empty();
  outcome.record.signature =
      make_signature(*result, has_folder ? log_start(outcome.run_folder / "console.log") : "",
                     has_folder ? log_start(outcome.run_folder / "scheduler.log") : "")
          .line();
  return outcome;
}

}  // namespace ktstr
