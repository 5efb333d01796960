#include "host/cli/replay_command.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <utility>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "common/quote.h"
#include "common/read_file.h"
#include "host/cli/run_command.h"
#include "host/cli/run_options.h"
#include "host/report/json_reader.h"
#include "host/report/status_line.h"
#include "host/report/verdict_text.h"
#include "host/run/console_scanner.h"
#include "host/run/determinism.h"
#include "host/run/run_record.h"
#include "host/run/runner.h"

namespace ktstr {
namespace {

namespace fs = std::filesystem;
using ktstr::v1::RunResult;

constexpr std::size_t kMaxResult = std::size_t{256} << 20;
constexpr int kDiffers = 1;

struct RecordedRun {
  RunResult result;
  RunRequest request;
  std::string frames_path;
  std::string console_path;
};

// The options as they were typed then.
Expected<RunRequest> parse_recorded(const google::protobuf::RepeatedPtrField<std::string>& argv) {
  RunRequest request;
  CLI::App app;
  app.fallthrough();
  add_run_options(app, request);
  app.add_subcommand("run");
  std::vector<const char*> words;
  for (const std::string& word : argv) words.push_back(word.c_str());
  try {
    app.parse(static_cast<int>(words.size()), words.data());
  } catch (const CLI::ParseError& error) {
    return fail(ErrorCode::kUsage,
                fmt::format("the recorded command line is not understood: {}", error.what()));
  }
  request.argv.assign(argv.begin(), argv.end());
  return request;
}

Expected<RecordedRun> open_run(const std::string& folder) {
  const fs::path path(folder);
  auto result = read_result((path / "result.json").string(), kMaxResult, ErrorCode::kUsage);
  if (!result) return propagate(std::move(result.error()), "opening the run " + quote(folder));
  RecordedRun run;
  run.result = std::move(*result);
  if (!run.result.has_determinism()) {
    return fail(ErrorCode::kUsage,
                fmt::format("the run in {} was not deterministic, so it cannot be repeated; run it with "
                            "--deterministic",
                            quote(folder)));
  }
  auto request = parse_recorded(run.result.host().argv());
  if (!request) return std::unexpected(std::move(request.error()));
  run.request = std::move(*request);
  run.frames_path = fs::absolute(path / "frames.bin").string();
  run.console_path = fs::absolute(path / "console.log").string();
  return run;
}

Error changed_error(const std::vector<std::string>& changes) {
  std::string text = "inputs of the run are gone or have changed (--anyway runs all the same):";
  for (const std::string& change : changes) text += "\n  " + change;
  return {ErrorCode::kHost, std::move(text)};
}

// Line and text where two consoles first differ.
std::string console_difference(const std::string& then_path, const std::string& now_path) {
  const auto then = read_file(then_path, kMaxResult);
  const auto now = read_file(now_path, kMaxResult);
  if (!then || !now) return "";
  const auto [a, b] = std::mismatch(then->begin(), then->end(), now->begin(), now->end());
  if (a == then->end() && b == now->end()) return "";
  const auto line = 1 + std::count(then->begin(), a, '\n');
  const auto line_of = [](const std::string& text, std::string::const_iterator at) {
    const auto offset = static_cast<std::size_t>(at - text.begin());
    const std::size_t newline = offset == 0 ? std::string::npos : text.rfind('\n', offset - 1);
    const std::size_t begin = newline == std::string::npos ? 0 : newline + 1;
    return printable(text.substr(begin, std::min<std::size_t>(text.find('\n', begin) - begin, 160)));
  };
  return fmt::format("the consoles differ first in line {}:\n  then: {}\n  now:  {}\n", line,
                     line_of(*then, a), line_of(*now, b));
}

// What the comparison came to, for people.
std::string report(const RecordedRun& then, const RunOutput& now, const RecordedFrames& frames,
                   const std::vector<std::string>& changes, bool identical) {
  const auto& before = then.result.determinism();
  const auto& after = now.result.determinism();
  std::string text;
  if (identical) {
    text += fmt::format("identical: {} frames and {} bytes of console; verdict {} again\n", after.frames(),
                        after.console_bytes(), verdict_name(now.result.verdict()));
  } else if (const auto& difference = frames.difference()) {
    text += fmt::format("different: frame {} of {} is the first that differs\n  {}\n", difference->frame,
                        before.frames(), difference->text);
  } else {
    text += fmt::format("different: all {} frames are the same\n", frames.compared());
  }
  if (!identical) {
    text += console_difference(then.console_path,
                               (fs::path(now.result_path).parent_path() / "console.log").string());
    text += changes.empty() ? "  no input has changed\n" : "  inputs that have changed:\n";
    for (const std::string& change : changes) text += "    " + change + "\n";
  }
  for (const auto& [name, note] :
       {std::pair("then", before.identical_until()), {"now", after.identical_until()}}) {
    if (!note.empty()) text += fmt::format("  the run {} was {}\n", name, note);
  }
  return text;
}

int replay(const ReplayRequest& asked, RecordedRun& then) {
  RunRequest& request = then.request;
  std::vector<std::string> changes = check_input_files(then.result.determinism().inputs());
  if (!changes.empty() && !asked.anyway) return report_failure(changed_error(changes), request);
  auto frames = RecordedFrames::open(then.frames_path);
  if (!frames) return report_failure(frames.error(), request);

  RunHooks hooks;
  hooks.earlier = &*frames;
  hooks.on_inputs = [&](const std::vector<ktstr::v1::InputFile>& inputs) -> Expected<void> {
    changes = compare_inputs(then.result.determinism().inputs(), inputs);
    if (changes.empty() || asked.anyway) return {};
    return std::unexpected(changed_error(changes));
  };
  StatusLine status(stderr, StatusLine::is_live(stderr));
  auto now = run(request, status, hooks);
  status.clear();
  if (!now) return report_failure(now.error(), request);
  frames->finish();
  const auto& before = then.result.determinism();
  const auto& after = now->result.determinism();
  const bool identical = !frames->difference() && before.frames_xxh3() == after.frames_xxh3() &&
                         before.console_xxh3() == after.console_xxh3();
  fmt::print("{}ktstr-vm replay: identical={} frame={} verdict={} result={}\n",
             report(then, *now, *frames, changes, identical), identical ? "yes" : "no",
             frames->difference() ? fmt::format("{}", frames->difference()->frame) : "-",
             verdict_name(now->result.verdict()), now->result_path);
  return identical ? 0 : kDiffers;
}

}  // namespace

int replay_command(const ReplayRequest& asked) {
  auto then = open_run(asked.folder);
  if (!then) return report_failure(then.error(), {});
  RunRequest& request = then->request;
  request.verbose = asked.verbose ? 1 : 0;
  request.bisect = false;
  request.bisect_boot = false;
  request.out = fs::absolute(asked.out.empty() ? fs::path(asked.folder) / ".." : fs::path(asked.out))
                    .lexically_normal()
                    .string();
  // Relative paths of the recorded command line start where it was typed.
  const std::string& folder = then->result.host().working_directory();
  if (!folder.empty() && ::chdir(folder.c_str()) != 0) {
    return report_failure(
        Error::from_errno(ErrorCode::kHost,
                          "cannot go to the folder the run was started in, " + quote(folder), errno),
        request);
  }
  return replay(asked, *then);
}

}  // namespace ktstr
