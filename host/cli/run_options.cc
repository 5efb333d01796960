#include "host/cli/run_options.h"

#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

namespace ktstr {
namespace {

// An option that takes one of a few words, in upper or lower case; the first one is its default.
template <typename Value>
struct Choice {
  const char* name;
  std::vector<std::pair<std::string, Value>> words;
};

const Choice<AccelChoice> kAccel{
    "--accel", {{"auto", AccelChoice::kAuto}, {"kvm", AccelChoice::kKvm}, {"tcg", AccelChoice::kTcg}}};
const Choice<RamPages> kPages{
    "--pages",
    {{"normal", RamPages::kNormal}, {"transparent", RamPages::kTransparent}, {"hugetlb", RamPages::kHuge}}};
const Choice<RunRequest::Clone> kClone{"--clone",
                                       {{"auto", RunRequest::Clone::kAuto},
                                        {"always", RunRequest::Clone::kAlways},
                                        {"never", RunRequest::Clone::kNever}}};
const Choice<RunRequest::OnFreeze> kOnFreeze{"--on-freeze",
                                             {{"continue", RunRequest::OnFreeze::kContinue},
                                              {"stop", RunRequest::OnFreeze::kStop},
                                              {"off", RunRequest::OnFreeze::kOff}}};
const Choice<RunRequest::FreezeAt> kFreezeAt{
    "--freeze-at", {{"claim", RunRequest::FreezeAt::kClaim}, {"dump", RunRequest::FreezeAt::kDump}}};
const Choice<std::optional<TrapKind>> kTraps{
    "--traps", {{"auto", std::nullopt}, {"breakpoint", TrapKind::kBreakpoint}, {"port", TrapKind::kPort}}};

template <typename Value>
std::string words_of(const Choice<Value>& choice) {
  std::string words;
  for (const auto& [word, meaning] : choice.words) words += (words.empty() ? "" : "|") + word;
  return words;
}

// `choice` lives as long as `app`.
template <typename Value>
CLI::Option* add_choice(CLI::App& app, const Choice<Value>& choice, Value& value, const std::string& text) {
  const auto take = [&value, &choice](const std::string& given) {
    for (const auto& [word, meaning] : choice.words) {
      if (CLI::detail::to_lower(given) != word) continue;
      value = meaning;
      return;
    }
    throw CLI::ValidationError(choice.name, fmt::format("'{}' is none of {}", given, words_of(choice)));
  };
  return app.add_option_function<std::string>(choice.name, take, text)
      ->type_name(words_of(choice))
      ->default_str(choice.words.front().first);
}

}  // namespace

void add_run_options(CLI::App& app, RunRequest& request) {
  const std::string what = "What runs";
  app.add_option("-k,--kernel", request.kernel,
                 "Kernel: a bzImage or vmlinux, a kernel build tree, or a folder unpacked from a "
                 "distribution package")
      ->group(what)
      ->type_name("PATH");
  app.add_option(
         "-s,--scheduler", request.scheduler,
         "sched_ext scheduler: a path, or a name searched in KTSTR_SCHEDULER_PATH, the cache and PATH. "
         "Without it the kernel's own scheduler is tested")
      ->group(what)
      ->type_name("PATH|NAME");
  app.add_option("--scheduler-args", request.scheduler_args,
                 "Arguments of the scheduler, as one string; quotes work as in a shell")
      ->group(what)
      ->type_name("\"ARGS\"");
  app.add_option_function<std::vector<std::string>>(
         "--scenario",
         [&request](const std::vector<std::string>& names) {
           request.scenario = names.front();
           request.more_scenarios.assign(names.begin() + 1, names.end());
         },
         "Scenario: a name of the catalog (ktstr-vm scenarios) or a file; repeatable, each is a run in a "
         "guest "
         "of its own")
      ->group(what)
      ->type_name("NAME|FILE")
      ->allow_extra_args(false)
      ->default_str(request.scenario);
  app.add_option("--repeat", request.repeat, "Run so many times, each time in a guest of its own")
      ->group(what)
      ->type_name("N")
      ->check(CLI::Range(1U, 100'000U).description(""));
  app.add_option(
         "--jobs", request.jobs,
         "Of several runs, at most so many at a time; never more than the host's CPUs and memory carry "
         "(default: as many as they do)")
      ->group(what)
      ->type_name("J")
      ->check(CLI::Range(1U, 512U).description(""));
  app.add_option("--duration", request.duration,
                 "Duration of the scenario, e.g. 10s; replaces the scenario's own")
      ->group(what)
      ->type_name("D");
  app.add_option("--include", request.includes,
                 "Pack a file into the guest, at /include/<name> or at GUESTPATH; repeatable")
      ->group(what)
      ->type_name("FILE[:GUESTPATH]");

  const std::string machine = "The machine";
  auto* cpus = app.add_option("--cpus", request.cpus, "Number of vCPUs, one core each (default 2)");
  cpus->group(machine)->type_name("N")->check(CLI::PositiveNumber);
  app.add_option("--topology", request.topology,
                 "CPU topology: a list like numa=2,llcs=4,cores=4,threads=2 (llcs is the total), a preset "
                 "(ktstr-vm topologies lists them), or a file with nodes, memory sizes and distances")
      ->group(machine)
      ->type_name("LIST|PRESET|FILE")
      ->excludes(cpus);
  app.add_option("--cpu-flags", request.cpu_flags,
                 "CPU features to add or take away, e.g. +la57,-avx2, by QEMU's names; emulation only. "
                 "+la57 gives the kernel 5-level page tables (boots through its own decompressor)")
      ->group(machine)
      ->type_name("FLAGS");
  app.add_option("--memory", request.memory,
                 "Guest RAM, e.g. 1G (default: what the files need, at least 512M)")
      ->group(machine)
      ->type_name("SIZE");
  add_choice(app, kAccel, request.accel,
             "The machine: kvm where the host can, else tcg, which is emulation by QEMU")
      ->group(machine);
  add_choice(app, kPages, request.pages,
             "Guest RAM of a kvm machine: normal pages, transparent huge ones where the host has them, or "
             "from the pool that the host has set aside (hugetlb)")
      ->group(machine);
  app.add_option("--pin-vcpus", request.pin_vcpus,
                 "Host CPUs for the vCPUs of a kvm machine, one each in ascending order, e.g. 2-3 or all")
      ->group(machine)
      ->type_name("CPUS");
  app.add_option("--vcpu-fifo", request.vcpu_fifo,
                 "Run the vCPUs of a kvm machine as SCHED_FIFO threads of this priority, 1 to 99")
      ->group(machine)
      ->type_name("N")
      ->check(CLI::Range(1, 99));
  app.add_flag(
         "--deterministic{1}", request.seed,
         "The guest's clock counts instructions, and the same inputs and seed give the same run, bit by "
         "bit; SEED is a whole number (default 1)")
      ->group(machine)
      ->type_name("[=SEED]");
  app.add_option(
         "--append", request.append,
         "Add to the kernel command line; an argument replaces ours of the same name, NAME= takes ours "
         "away (--explain shows them); repeatable")
      ->group(machine)
      ->type_name("KARGS")
      ->allow_extra_args(false);
  app.add_flag("--kaslr", request.kaslr,
               "Let the kernel choose a random address (boots through its own decompressor)")
      ->group(machine);
  app.add_option("--boot-timeout", request.boot_timeout,
                 "Longest time to PID 1, waiting for host CPUs not counted (default 60s)")
      ->group(machine)
      ->type_name("D");
  add_choice(app, kClone, request.clone,
             "Go on from a snapshot of an earlier run's guest in place of booting: auto, where one fits, "
             "else boot and keep the guest; always, or not at all; never (ktstr-vm cache shows them)")
      ->group(machine);
  app.add_flag("!--no-retry", request.retry, "Do not repeat a run that the emulator itself broke")
      ->group(machine);

  const std::string dumps = "Dumps";
  add_choice(
      app, kOnFreeze, request.on_freeze,
      "When the scheduler fails, the guest is frozen and its sched_ext state written to dump-1.txt, .json "
      "and .pb. Then: continue, so that the kernel's own dump comes too; stop; or off, no freeze at all")
      ->group(dumps);
  add_choice(
      app, kFreezeAt, request.freeze_at,
      "claim: where the kernel takes note of the error, the earliest moment; dump: right before the kernel "
      "writes its own dump, for comparing the two")
      ->group(dumps);
  add_choice(
      app, kTraps, request.traps,
      "How a kvm machine notices the failure: by the CPU's breakpoint registers, or, where breakpoints do "
      "not arrive, by an I/O instruction in the kernel's code")
      ->group(dumps);
  app.add_flag("--core", request.core,
               "Write the guest's memory beside each dump, as an ELF core for drgn and crash; the guest "
               "stands still "
               "meanwhile, seconds for each GiB in use")
      ->group(dumps);
  app.add_option("--vmlinux", request.vmlinux,
                 "The kernel's vmlinux, for its symbols (default: the image's own kallsyms)")
      ->group(dumps)
      ->type_name("FILE");
  app.add_option("--system-map", request.system_map, "The kernel's System.map, for its symbols")
      ->group(dumps)
      ->type_name("FILE");

  const std::string results = "Results";
  app.add_option("--out", request.out, "Results folder; each run gets a folder of its own in it")
      ->group(results)
      ->type_name("DIR")
      ->capture_default_str();
  app.add_flag("--bisect", request.bisect,
               "Exit codes for `git bisect run`: 0 good, 1 bad, 125 skip, 128 stop")
      ->group(results);
  app.add_flag("--bisect-boot", request.bisect_boot,
               "With --bisect: a kernel that does not boot is bad, not skipped")
      ->group(results);
  app.add_flag("--explain", request.explain,
               "Print the resolved plan, the guest's files and the command lines; run nothing")
      ->group(results);
  app.add_flag("-v,--verbose", request.verbose, "Show the guest's console")->group(results);
}

std::vector<std::string> run_arguments(const RunRequest& request) {
  const RunRequest defaults;
  std::vector<std::string> words;
  const auto text = [&](const char* name, const std::string& value, const std::string& unless) {
    if (value != unless) words.push_back(std::string(name) + "=" + value);
  };
  const auto flag = [&](const char* name, bool given) {
    if (given) words.emplace_back(name);
  };
  text("--kernel", request.kernel, defaults.kernel);
  text("--scheduler", request.scheduler, defaults.scheduler);
  text("--scheduler-args", request.scheduler_args, defaults.scheduler_args);
  // The first one of several has to be named.
  text("--scenario", request.scenario, request.more_scenarios.empty() ? defaults.scenario : "");
  for (const std::string& scenario : request.more_scenarios) words.push_back("--scenario=" + scenario);
  if (request.repeat != defaults.repeat) words.push_back("--repeat=" + std::to_string(request.repeat));
  if (request.jobs) words.push_back("--jobs=" + std::to_string(*request.jobs));
  text("--duration", request.duration, defaults.duration);
  for (const std::string& include : request.includes) words.push_back("--include=" + include);
  if (request.cpus) words.push_back("--cpus=" + std::to_string(*request.cpus));
  text("--topology", request.topology, defaults.topology);
  text("--cpu-flags", request.cpu_flags, defaults.cpu_flags);
  text("--memory", request.memory, defaults.memory);
  if (request.accel != defaults.accel) {
    words.push_back(std::string("--accel=") + accel_name(request.accel));
  }
  if (request.pages != defaults.pages)
    words.emplace_back(request.pages == RamPages::kHuge ? "--pages=hugetlb" : "--pages=transparent");
  text("--pin-vcpus", request.pin_vcpus, defaults.pin_vcpus);
  if (request.vcpu_fifo) words.push_back("--vcpu-fifo=" + std::to_string(*request.vcpu_fifo));
  text("--deterministic", request.seed, defaults.seed);
  for (const std::string& argument : request.append) words.push_back("--append=" + argument);
  flag("--kaslr", request.kaslr);
  text("--boot-timeout", request.boot_timeout, defaults.boot_timeout);
  if (request.clone != defaults.clone)
    words.emplace_back(request.clone == RunRequest::Clone::kAlways ? "--clone=always" : "--clone=never");
  flag("--no-retry", !request.retry);
  if (request.on_freeze != defaults.on_freeze)
    words.emplace_back(request.on_freeze == RunRequest::OnFreeze::kStop ? "--on-freeze=stop"
                                                                        : "--on-freeze=off");
  if (request.freeze_at != defaults.freeze_at) words.emplace_back("--freeze-at=dump");
  if (request.traps)
    words.emplace_back(*request.traps == TrapKind::kPort ? "--traps=port" : "--traps=breakpoint");
  flag("--core", request.core);
  text("--vmlinux", request.vmlinux, defaults.vmlinux);
  text("--system-map", request.system_map, defaults.system_map);
  text("--out", request.out, defaults.out);
  flag("--bisect", request.bisect);
  flag("--bisect-boot", request.bisect_boot);
  for (int i = 0; i < request.verbose; ++i) words.emplace_back("--verbose");
  return words;
}

}  // namespace ktstr
