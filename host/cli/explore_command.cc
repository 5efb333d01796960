#include "host/cli/explore_command.h"

#include <sched.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>

#include <fmt/format.h>

#include "common/quote.h"
#include "common/units.h"
#include "host/cli/run_command.h"
#include "host/cli/run_options.h"
#include "host/cli/series_command.h"
#include "host/explore/explore_report.h"
#include "host/explore/explorer.h"

namespace ktstr {
namespace {

constexpr std::uint64_t kMaxSeeds = 1'000'000'000;
constexpr unsigned kMaxJobs = 512;
constexpr std::uint64_t kDefaultFirstSeed = 1;

// CPUs this process may use.
unsigned host_cpus() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  const int count = ::sched_getaffinity(0, sizeof(cpus), &cpus) == 0 ? CPU_COUNT(&cpus) : 1;
  return std::clamp(static_cast<unsigned>(count), 1U, kMaxJobs);
}

// The options every run gets: the seed, the results folder and what is shown of a run are ours to decide.
std::vector<std::string> shared_run_arguments(RunRequest request) {
  request.out = RunRequest{}.out;
  request.verbose = 0;
  return run_arguments(request);
}

Expected<void> check_usage(const ExploreRequest& request) {
  const RunRequest& run = request.run;
  std::string problem;
  if (!run.seed.empty()) {
    problem =
        "--deterministic has no place here: the seed is what explore varies; --first-seed N sets the first";
  } else if (is_series(run) || run.jobs) {
    problem = "explore runs one scenario, once for each seed; leave --repeat out and name one --scenario";
  } else if (run.clone == RunRequest::Clone::kAlways) {
    problem = "--clone always has no place here: a run with a seed boots";
  } else if (run.explain) {
    problem = "--explain runs nothing, so there is nothing to explore; give it to ktstr-vm run";
  } else if (run.bisect || run.bisect_boot) {
    problem = "--bisect is about one run; explore has exit codes of its own: 0 no failure, 1 failures found";
  } else if (request.seeds == 0 && request.budget.empty() && request.resume.empty()) {
    problem = "explore needs an end: give --seeds N, --budget TIME (e.g. 30m), or --resume FOLDER";
  } else if (run.kernel.empty() && request.resume.empty()) {
    problem = "--kernel is missing: the kernel to boot, e.g. --kernel arch/x86/boot/bzImage";
  } else if (request.first_seed && !request.resume.empty()) {
    problem = "--first-seed has no place beside --resume: the exploration has its first seed already";
  }
  if (!problem.empty()) return fail(ErrorCode::kUsage, problem + "; see ktstr-vm explore --help");
  return {};
}

Expected<std::uint64_t> budget_ns(const std::string& text) {
  if (text.empty()) return 0;
  auto budget = parse_duration(text);
  if (!budget) return propagate(std::move(budget.error()), "reading --budget");
  if (budget->count() <= 0) return fail(ErrorCode::kUsage, "--budget must be more than 0");
  return static_cast<std::uint64_t>(budget->count());
}

Expected<void> check_seed_range(std::uint64_t first, std::uint64_t seeds) {
  if (seeds == 0 || first <= UINT64_MAX - (seeds - 1)) return {};
  return fail(
      ErrorCode::kUsage,
      fmt::format("{} seeds from {} on go beyond 64 bits; choose a smaller --first-seed", seeds, first));
}

// Makes no folder when something is wrong with the request.
Expected<ExploreState> start_exploration(const ExploreRequest& request, std::uint64_t budget) {
  std::error_code error;
  ExploreHeader header;
  header.argv = request.run.argv;
  header.run_arguments = shared_run_arguments(request.run);
  header.out = request.run.out;
  header.working_directory = std::filesystem::current_path(error).string();
  if (error) {
    return std::unexpected(
        Error::from_errno(ErrorCode::kHost, "cannot tell the working directory", error.value()));
  }
  header.first_seed = request.first_seed.value_or(kDefaultFirstSeed);
  header.seeds = request.seeds;
  header.budget_ns = budget;
  if (auto fits = check_seed_range(header.first_seed, header.seeds); !fits) {
    return std::unexpected(std::move(fits.error()));
  }
  return ExploreState::create(request.run.out, std::move(header));
}

Expected<ExploreState> resume_exploration(const ExploreRequest& request) {
  auto state = ExploreState::resume(request.resume);
  if (!state) return state;
  const ExploreHeader& header = state->header();
  const auto given = shared_run_arguments(request.run);
  const bool other_out = request.run.out != RunRequest{}.out && request.run.out != header.out;
  if ((!given.empty() && given != header.run_arguments) || other_out) {
    return fail(
        ErrorCode::kUsage,
        fmt::format("other options of run than the exploration was started with; leave them out, they "
                    "are taken from it: {}",
                    shell_quoted(header.run_arguments)));
  }
  std::error_code error;
  std::filesystem::current_path(header.working_directory, error);
  if (error) {
    return std::unexpected(Error::from_errno(
        ErrorCode::kHost,
        fmt::format("cannot go to '{}', where the exploration was started", header.working_directory),
        error.value()));
  }
  return state;
}

Expected<ExploreOptions> make_options(const ExploreRequest& request, const ExploreHeader& header,
                                      std::uint64_t budget) {
  ExploreOptions options;
  // What ends an earlier session ends this one too, unless something else is asked for.
  const bool own_end = request.seeds != 0 || budget != 0;
  options.seeds = own_end ? request.seeds : header.seeds;
  options.budget = std::chrono::nanoseconds(own_end ? budget : header.budget_ns);
  options.jobs = request.jobs != 0 ? request.jobs : host_cpus();
  options.until_failure = request.until_failure;
  options.live = StatusLine::is_live(stderr);
  if (auto fits = check_seed_range(header.first_seed, options.seeds); !fits) {
    return std::unexpected(std::move(fits.error()));
  }
  return options;
}

}  // namespace

void add_explore_options(CLI::App& command, ExploreRequest& request) {
  const std::string group = "Exploring";
  command.add_option("--seeds", request.seeds, "Number of seeds to run; with --resume the total")
      ->group(group)
      ->type_name("N")
      ->check(CLI::Range(std::uint64_t{1}, kMaxSeeds).description(""));
  command
      .add_option("--budget", request.budget, "Host time after which no further seed is started, e.g. 30m")
      ->group(group)
      ->type_name("TIME");
  command.add_option("--jobs", request.jobs, "Runs at a time (default: one per host CPU)")
      ->group(group)
      ->type_name("J")
      ->check(CLI::Range(1U, kMaxJobs).description(""));
  command.add_option("--first-seed", request.first_seed, "First seed (default 1); the others follow it")
      ->group(group)
      ->type_name("S")
      ->check(CLI::Validator(CLI::NonNegativeNumber).description(""));
  command.add_flag("--until-failure", request.until_failure, "End at the first failure")->group(group);
  command
      .add_option("--resume", request.resume,
                  "Go on with the exploration in FOLDER; the options of run are taken from it")
      ->group(group)
      ->type_name("FOLDER");
  command.footer(
      "The options of run (ktstr-vm --help) say what each seed runs. Exit codes: 0 no failure found, 1 "
      "failures\n"
      "found, 2 usage, 20 host trouble, 21 interrupted before a failure was found.");
}

int explore_command(const ExploreRequest& request, const std::string& program) {
  if (auto usage = check_usage(request); !usage) return report_failure(usage.error(), {});
  const auto budget = budget_ns(request.budget);
  if (!budget) return report_failure(budget.error(), {});
  auto state = request.resume.empty() ? start_exploration(request, *budget) : resume_exploration(request);
  if (!state) return report_failure(state.error(), {});
  auto options = make_options(request, state->header(), *budget);
  if (!options) return report_failure(options.error(), {});
  options->program = program;

  StatusLine status(stderr, options->live);
  const ExploreEnd end = explore(*state, *options, status);
  status.clear();
  int exit_code = explore_exit_code(*state, end);
  if (end.why == ExploreEnd::Why::kTrouble) fmt::print(stderr, "ktstr-vm: {}\n", end.message);
  if (end.why == ExploreEnd::Why::kTrouble && state->findings().seeds() == 0) {
    // Nothing was found that is worth a folder.
    std::error_code ignored;
    std::filesystem::remove_all(state->path(), ignored);
    fmt::print("ktstr-vm explore: seeds=0 failures=0 groups=0 folder=-\n");
    return exit_code;
  }
  if (auto written = state->write("explore.json", explore_json(*state, end)); !written) {
    fmt::print(stderr, "ktstr-vm: {}\n", written.error().to_string());
    exit_code = static_cast<int>(ErrorCode::kHost);
  }
  fmt::print("{}", explore_summary(*state, end));
  return exit_code;
}

}  // namespace ktstr
