#include "host/cli/dump_take_command.h"

#include <fmt/format.h>

#include "host/run/dump_on_demand.h"

namespace ktstr {

void add_dump_take_options(CLI::App& command, DumpTakeRequest& request) {
  auto* run = command.add_option("--run", request.run,
                                 "Take a dump of the run in progress whose folder this is (as SIGUSR1 does)");
  run->type_name("DIR");
  command
      .add_option(
          "--memory", request.memory,
          "Make a dump from a memory image: an ELF core of QEMU's dump-guest-memory, or of kdump; needs "
          "--kernel PATH or --vmlinux FILE of the kernel in it; files go to --out DIR (default: here)")
      ->type_name("CORE")
      ->excludes(run);
}

int dump_take_command(const DumpTakeRequest& request, const RunRequest& run) {
  const auto path = request.run.empty() ? dump_of_memory(request.memory, run) : dump_of_run(request.run);
  if (path) {
    fmt::print("{}\n", *path);
    return 0;
  }
  fmt::print(stderr, "ktstr-vm: {}\n", path.error().to_string());
  return static_cast<int>(path.error().code());
}

}  // namespace ktstr
