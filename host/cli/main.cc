#include <csignal>
#include <cstdio>
#include <exception>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "common/units.h"
#include "host/cli/cache_command.h"
#include "host/cli/doctor_command.h"
#include "host/cli/dump_command.h"
#include "host/cli/dump_take_command.h"
#include "host/cli/explore_command.h"
#include "host/cli/replay_command.h"
#include "host/cli/run_command.h"
#include "host/cli/run_options.h"
#include "host/cli/scenarios_command.h"
#include "host/cli/topologies_command.h"
#include "host/cli/version.h"

namespace {

using ktstr::Error;
using ktstr::ErrorCode;
using ktstr::RunRequest;

constexpr const char* kDescription =
    "Boots a Linux kernel in a small virtual machine, runs a scheduler scenario in it, and gives a verdict.\n"
    "  ktstr-vm --kernel bzImage --scheduler scx_simple\n"
    "`run` is the default command.";
constexpr const char* kFooter =
    "Exit codes: 0 pass, 1 assertion failed, 2 usage, 3 kernel panic, 4 scheduler died, 5 time-out or hang,\n"
    "10 kernel did not reach PID 1, 11 kernel lacks something, 12 scheduler could not be started,\n"
    "20 host trouble, 21 inconclusive. The last line on standard output is for machines.";

// All long option names, those of the commands among them, for "did you mean".
std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    for (std::string& name : option_names(*command)) names.push_back(std::move(name));
  }
  return names;
}

Error usage_error(const CLI::ParseError& error, const CLI::App& app) {
  std::string text = error.what();
  const std::string unknown = text.substr(0, text.find('=')).substr(text.rfind(' ') + 1);
  const std::string near = unknown.starts_with("--") ? ktstr::closest_match(unknown, option_names(app)) : "";
  if (!near.empty()) text += fmt::format(" (did you mean {}?)", near);
  return {ErrorCode::kUsage, text + "; see ktstr-vm --help"};
}

int run_program(int argc, char** argv) {
  CLI::App app(kDescription, "ktstr-vm");
  app.footer(kFooter);
  app.set_version_flag("--version", std::string("ktstr-vm ") + ktstr::kVersion);
  app.fallthrough();
  RunRequest request;
  request.argv.assign(argv, argv + argc);
  request.version = ktstr::kVersion;
  ktstr::add_run_options(app, request);
  app.add_subcommand("run", "Run a scenario (default)");
  std::string scenario_name;
  auto* scenarios = app.add_subcommand("scenarios", "List the scenario catalog, or print one scenario");
  scenarios->add_option("NAME", scenario_name, "Scenario to print");
  std::string topology_spec;
  auto* topologies =
      app.add_subcommand("topologies", "List the topology presets, or print a topology as a file");
  topologies->add_option("SPEC", topology_spec, "Topology to print, as for --topology");
  ktstr::ReplayRequest replay_request;
  auto* replay =
      app.add_subcommand("replay", "Run a deterministic run again and compare it with what it gave then");
  replay->add_option("FOLDER", replay_request.folder, "Folder of the run, e.g. ktstr-out/latest")->required();
  replay->add_flag("--anyway", replay_request.anyway, "Run although inputs have changed");
  ktstr::ExploreRequest explore_request;
  auto* explore = app.add_subcommand("explore", "Run a scenario under many seeds, and group the failures");
  ktstr::add_explore_options(*explore, explore_request);
  ktstr::DumpRequest dump_request;
  auto* dump = app.add_subcommand("dump", "Take, show, compare and ask dumps of sched_ext state");
  ktstr::add_dump_options(*dump, dump_request);
  ktstr::DumpTakeRequest dump_take;
  ktstr::add_dump_take_options(*dump, dump_take);
  ktstr::DoctorRequest doctor_request;
  auto* doctor = app.add_subcommand("doctor", "Say what this host offers, and how to mend what is missing");
  ktstr::add_doctor_options(*doctor, doctor_request);
  ktstr::CacheRequest cache_request;
  auto* cache = app.add_subcommand("cache", "List, remove and verify the snapshots that are kept");
  ktstr::add_cache_options(*cache, cache_request);
  app.require_subcommand(0, 1);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return ktstr::report_failure(usage_error(error, app), request);
  }
  if (scenarios->parsed()) return ktstr::scenarios_command(scenario_name);
  if (topologies->parsed()) return ktstr::topologies_command(topology_spec);
  if (doctor->parsed()) return ktstr::doctor_command(doctor_request);
  if (cache->parsed()) return ktstr::cache_command(cache_request);
  if (replay->parsed()) {
    replay_request.out = app.get_option("--out")->count() > 0 ? request.out : "";
    replay_request.verbose = request.verbose > 0;
    return ktstr::replay_command(replay_request);
  }
  if (dump->parsed() && dump_take.asked()) {
    if (app.get_option("--out")->count() == 0) request.out.clear();
    return ktstr::dump_take_command(dump_take, request);
  }
  if (dump->parsed()) return ktstr::dump_command(dump_request);
  if (explore->parsed()) {
    explore_request.run = request;
    return ktstr::explore_command(explore_request);
  }
  if (request.kernel.empty()) {
    return ktstr::report_failure(Error(ErrorCode::kUsage,
                                       "--kernel is missing: the kernel to boot, e.g. --kernel "
                                       "arch/x86/boot/bzImage; see ktstr-vm --help"),
                                 request);
  }
  return ktstr::run_command(request);
}

}  // namespace

int main(int argc, char** argv) {
  // A peer that closes its end is an error of write(2), not the end of this program.
  std::signal(SIGPIPE, SIG_IGN);
  try {
    return run_program(argc, argv);
  } catch (const std::exception& error) {
    return ktstr::report_failure(Error(ErrorCode::kHost, fmt::format("unexpected: {}", error.what())), {});
  }
}
