#include "host/run/prepare.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include <boost/algorithm/string/case_conv.hpp>
#include <fmt/format.h>

#include "common/quote.h"
#include "common/units.h"
#include "host/machine/ram_layout.h"
#include "host/run/cpu_flags.h"
#include "host/run/determinism.h"
#include "host/run/guest_files.h"
#include "host/run/host_use_options.h"
#include "host/run/machine_shape.h"
#include "host/run/own_memory.h"
#include "host/run/scenario_file.h"
#include "host/run/scheduler_finder.h"
#include "host/run/topology_file.h"

namespace ktstr {
namespace {

using std::chrono::nanoseconds;
using SteadyClock = std::chrono::steady_clock;
using ktstr::v1::RunPlan;

constexpr std::uint32_t kSchemaVersion = 1;
// x86's COMMAND_LINE_SIZE (arch/x86/include/asm/setup.h) with its terminating zero; the kernel cuts what is
// longer.
constexpr std::size_t kMaxCommandLine = 2048;

// Default limits, see proto/plan.proto.
constexpr std::string_view kBootLimit = "60s";
constexpr std::string_view kAttachIdle = "20s";
constexpr std::string_view kAttachCpu = "30s";
constexpr std::string_view kSilence = "30s";
constexpr std::string_view kScenarioSlack = "60s";
// The guest has better limits of its own for these two; the host's are for a guest that does not keep them.
constexpr nanoseconds kAttachGuard = std::chrono::minutes(30);
constexpr nanoseconds kFinishGuard = std::chrono::seconds(120);

// Measures a phase of the preparation.
class PhaseTimer {
 public:
  PhaseTimer(std::vector<ktstr::v1::PhaseTime>& phases, std::string name)
      : phases_(phases), name_(std::move(name)) {}
  PhaseTimer(const PhaseTimer&) = delete;
  PhaseTimer& operator=(const PhaseTimer&) = delete;
  // What is done twice counts twice.
  ~PhaseTimer() {
    auto phase =
        std::find_if(phases_.begin(), phases_.end(), [&](const auto& one) { return one.name() == name_; });
    if (phase == phases_.end()) {
      phase = phases_.emplace(phases_.end());
      phase->set_name(name_);
    }
    phase->set_ns(phase->ns() + static_cast<std::uint64_t>((SteadyClock::now() - start_).count()));
  }

 private:
  std::vector<ktstr::v1::PhaseTime>& phases_;
  std::string name_;
  SteadyClock::time_point start_ = SteadyClock::now();
};

// Checks everything that is text only; fills the plan's limits and includes.
Expected<void> take_simple_options(const RunRequest& request, RunPlan& plan) {
  for (const std::string& text : {request.duration, request.boot_timeout}) {
    if (text.empty()) continue;
    if (auto duration = parse_duration(text); !duration) return std::unexpected(std::move(duration.error()));
  }
  for (const std::string& arguments : request.append) {
    if (arguments.find_first_of(std::string_view("\n\r\0", 3)) != std::string::npos) {
      return fail(ErrorCode::kUsage,
                  fmt::format("--append {}: a kernel command line is one line", quote(arguments)));
    }
  }
  for (const std::string& text : request.includes) {
    auto file = parse_include(text);
    if (!file) return std::unexpected(std::move(file.error()));
    *plan.add_includes() = std::move(*file);
  }
  auto* limits = plan.mutable_limits();
  limits->set_boot(request.boot_timeout.empty() ? std::string(kBootLimit) : request.boot_timeout);
  limits->set_attach_idle(std::string(kAttachIdle));
  limits->set_attach_cpu(std::string(kAttachCpu));
  limits->set_silence(std::string(kSilence));
  limits->set_scenario_slack(std::string(kScenarioSlack));
  return {};
}

Expected<void> take_scheduler(const RunRequest& request, const KernelImage& kernel, RunPlan& plan) {
  if (request.scheduler.empty()) {
    if (!request.scheduler_args.empty())
      return fail(ErrorCode::kUsage, "--scheduler-args without --scheduler");
    return {};
  }
  const auto path = find_scheduler(request.scheduler, kernel.release());
  if (!path) return std::unexpected(path.error());
  const auto arguments = split_arguments(request.scheduler_args);
  if (!arguments) return propagate(Error(arguments.error()), "reading --scheduler-args");
  if (!kernel.sched_ext().present) {
    return fail(
        ErrorCode::kKernelLacks,
        fmt::format("kernel {} cannot run a sched_ext scheduler: {}; it needs CONFIG_SCHED_CLASS_EXT=y",
                    kernel.release(), kernel.sched_ext().reason));
  }
  auto* scheduler = plan.mutable_scheduler();
  scheduler->set_name(std::filesystem::path(*path).filename().string());
  scheduler->set_host_path(*path);
  scheduler->set_guest_path(guest_scheduler_path(scheduler->name()));
  for (const std::string& argument : *arguments) scheduler->add_args(argument);
  return {};
}

// What the scenario needs of machine and kernel. A derived configuration does not know every option: what it
// does not mention is taken to be there, and a warning says so.
Expected<void> check_requirements(const RunPlan& plan, const KernelImage& kernel, std::uint32_t cpus,
                                  std::vector<std::string>& warnings) {
  const auto& requirements = plan.scenario().requirements();
  if (requirements.cpus() > cpus) {
    return fail(ErrorCode::kKernelLacks,
                fmt::format("scenario '{}' needs {} CPUs, the machine has {}; use --cpus {}",
                            plan.scenario().name(), requirements.cpus(), cpus, requirements.cpus()));
  }
  for (const std::string& option : requirements.config()) {
    if (kernel.config().enabled(option)) continue;
    if (kernel.config().lookup(option).kind == ConfigValue::Kind::kAbsent && !kernel.config().complete()) {
      warnings.push_back(fmt::format("cannot tell whether kernel {} has {}: its configuration is {}",
                                     kernel.release(), option, kernel.config().source()));
      continue;
    }
    return fail(ErrorCode::kKernelLacks,
                fmt::format("scenario '{}' needs {}, which kernel {} does not have (according to {})",
                            plan.scenario().name(), option, kernel.release(), kernel.config().source()));
  }
  return {};
}

std::vector<KernelArgument> kernel_arguments(const RunRequest& request) {
  std::vector<KernelArgument> arguments = {
      {"oops=panic", "an oops ends the run: what a damaged kernel does afterwards proves nothing"},
      {"rdinit=/init", "our PID 1", true},
  };
  if (!request.kaslr) {
    arguments.push_back({"nokaslr", "addresses are the same in every run; --kaslr for the opposite"});
  }
  return arguments;
}

// Enters the payload directly where that is possible, because decompressing in the guest costs most of the
// boot.
Expected<bool> resolve_entry(const RunRequest& request, const ktstr::v1::MachineSpec& machine,
                             const KernelImage& kernel) {
  // It is the decompressor that switches 5-level paging on (arch/x86/boot/compressed/pgtable_64.c); a kernel
  // that is entered behind it keeps 4 levels.
  const bool five_levels = std::find(machine.cpu_flags().begin(), machine.cpu_flags().end(), kFiveLevels) !=
                           machine.cpu_flags().end();
  if (!request.kaslr && !five_levels && kernel.has_pvh_entry()) return true;
  if (kernel.kind() != ImageKind::kVmlinux) return false;
  if (five_levels) {
    return fail(ErrorCode::kUsage,
                fmt::format("--cpu-flags {} needs a bzImage: '{}' is a vmlinux, and it is the bzImage's "
                            "decompressor that switches 5-level paging on",
                            kFiveLevels, kernel.image_path()));
  }
  if (request.kaslr) {
    return fail(
        ErrorCode::kUsage,
        fmt::format("--kaslr needs a bzImage: '{}' is a vmlinux, and it is the bzImage's decompressor "
                    "that moves the kernel",
                    kernel.image_path()));
  }
  return fail(ErrorCode::kUsage,
              fmt::format("'{}' is a vmlinux without a PVH entry (CONFIG_PVH=y); give the bzImage instead",
                          kernel.image_path()));
}

Expected<void> take_seed(const RunRequest& request, RunPlan& plan) {
  if (request.seed.empty()) return {};
  auto derived = derive_from_seed(request.seed);
  if (!derived) return std::unexpected(std::move(derived.error()));
  *plan.mutable_deterministic() = std::move(*derived);
  return {};
}

Expected<MachineChoice> resolve_machine(const RunRequest& request) {
  if (!request.seed.empty()) return choose_deterministic_machine(request.accel);
  // Only an automatic choice looks at the host: /proc/cpuinfo of a large one takes milliseconds.
  return choose_machine(request.accel, request.accel == AccelChoice::kAuto ? probe_host_virtualization()
                                                                           : HostVirtualization{});
}

// Protobuf's order of fields is fixed for one version of the library; maps, which have none, do not occur.
std::string serialize(const RunPlan& plan) {
  std::string bytes;
  plan.SerializeToString(&bytes);
  return bytes;
}

// Behind the files, which are the same for every seed and every scenario.
Expected<Initramfs> add_plan(const Initramfs& files, const std::string& packed_plan) {
  auto plan = pack_plan(packed_plan);
  if (!plan) return std::unexpected(std::move(plan.error()));
  return concatenate(files, *plan);
}

GuardLimits guard_limits(const RunPlan& plan) {
  // All of these texts were checked or are ours.
  const auto limit = [](const std::string& text) {
    return parse_duration(text).value_or(std::chrono::seconds(60));
  };
  return {.boot = limit(plan.limits().boot()),
          .silence = limit(plan.limits().silence()),
          .attach = kAttachGuard,
          .scenario = limit(plan.scenario().duration()) + limit(plan.limits().scenario_slack()),
          .finish = kFinishGuard};
}

void describe_kernel(const KernelImage& kernel, RunPlan& plan) {
  auto* spec = plan.mutable_kernel();
  spec->set_path(kernel.image_path());
  spec->set_release(kernel.release());
  spec->set_build_id(kernel.build_id());
  spec->set_config_source(kernel.config().source());
}

Expected<void> describe_machine(const RunRequest& request, AccelChoice kind, const CpuTopology& topology,
                                std::uint64_t memory, RunPlan& plan) {
  auto* machine = plan.mutable_machine();
  auto named = ktstr::v1::MachineSpec::KIND_UNSPECIFIED;
  ktstr::v1::MachineSpec::Kind_Parse(boost::algorithm::to_upper_copy(std::string(accel_name(kind))), &named);
  machine->set_kind(named);
  machine->set_memory_bytes(memory);
  machine->set_kaslr(request.kaslr);
  const auto nodes = node_memory(topology, memory);
  if (!nodes) return std::unexpected(nodes.error());
  *machine->mutable_topology() = whole_topology(topology, *nodes);
  return {};
}

}  // namespace

Expected<Prepared> prepare(const RunRequest& request) {
  std::vector<ktstr::v1::PhaseTime> phases;
  std::vector<std::string> warnings;
  RunPlan plan;
  plan.set_schema_version(kSchemaVersion);
  if (auto taken = take_simple_options(request, plan); !taken)
    return std::unexpected(std::move(taken.error()));
  const auto topology = resolve_topology(request);
  if (!topology) return std::unexpected(topology.error());
  if (auto taken = take_seed(request, plan); !taken) return std::unexpected(std::move(taken.error()));
  const auto choice = resolve_machine(request);
  if (!choice) return std::unexpected(choice.error());
  if (auto possible = check_topology_limits(choice->kind, *topology); !possible)
    return std::unexpected(std::move(possible.error()));
  auto cpu_flags = parse_cpu_flags(request.cpu_flags);
  if (!cpu_flags) return std::unexpected(std::move(cpu_flags.error()));
  if (!cpu_flags->empty() && !machine_abilities(choice->kind).cpu_flags)
    return fail(ErrorCode::kUsage, "--cpu-flags is for emulated CPUs; add --accel tcg");
  auto host_use = resolve_host_use(request, choice->kind, topology->cpus());
  if (!host_use) return std::unexpected(std::move(host_use.error()));
  auto scenario = load_scenario(request.scenario, topology->cpus(), request.duration);
  if (!scenario) return std::unexpected(std::move(scenario.error()));
  *plan.mutable_scenario() = std::move(scenario->scenario);

  auto kernel = [&] {
    const PhaseTimer timer(phases, "image");
    return KernelImage::open(request.kernel);
  }();
  if (!kernel) return std::unexpected(std::move(kernel.error()));
  const std::uint64_t peak_memory = peak_own_memory_bytes();
  if (auto taken = take_scheduler(request, *kernel, plan); !taken)
    return std::unexpected(std::move(taken.error()));
  if (auto fits = check_requirements(plan, *kernel, topology->cpus(), warnings); !fits) {
    return std::unexpected(std::move(fits.error()));
  }
  if (auto able = check_topology_config(*topology, kernel->config(), kernel->release(), warnings); !able)
    return std::unexpected(std::move(able.error()));
  if (plan.has_deterministic()) {
    if (auto able = check_deterministic_kernel(*kernel); !able)
      return std::unexpected(std::move(able.error()));
  }
  for (std::string& flag : *cpu_flags) plan.mutable_machine()->add_cpu_flags(std::move(flag));
  const auto enter_payload = resolve_entry(request, plan.machine(), *kernel);
  if (!enter_payload) return std::unexpected(enter_payload.error());
  describe_kernel(*kernel, plan);

  auto files = [&] {
    const PhaseTimer timer(phases, "initramfs");
    // A deterministic guest talks by a debug port, which needs no driver.
    return pack_guest_files(
        plan, *kernel, plan.has_deterministic() ? std::vector<std::string>() : needed_modules(choice->kind),
        plan.has_deterministic() || request.clone == RunRequest::Clone::kNever);
  }();
  if (!files) return std::unexpected(std::move(files.error()));
  const auto memory =
      resolve_memory(request, *topology,
                     {.kernel = kernel->init_size(), .files = files->initramfs.size + files->later.size});
  if (!memory) return std::unexpected(memory.error());
  if (auto described = describe_machine(request, choice->kind, *topology, *memory, plan); !described)
    return std::unexpected(std::move(described.error()));
  describe_host_use(*host_use, *plan.mutable_machine());
  std::string packed_plan;
  if (plan.has_deterministic()) {
    packed_plan = serialize(plan_for_guest(plan));
    auto whole = add_plan(files->initramfs, packed_plan);
    if (!whole) return std::unexpected(std::move(whole.error()));
    files->initramfs = std::move(*whole);
  }
  const GuardLimits limits = guard_limits(plan);
  return Prepared{.plan = std::move(plan),
                  .kernel = std::move(*kernel),
                  .kernel_arguments = kernel_arguments(request),
                  .append = fmt::format("{}", fmt::join(request.append, " ")),
                  .initramfs = std::move(files->initramfs),
                  .later_files = std::move(files->later),
                  .all_files = std::move(files->all),
                  .packed_plan = std::move(packed_plan),
                  .topology = *topology,
                  .machine_choice = *choice,
                  .enter_payload = *enter_payload,
                  .traps = request.traps,
                  .host_use = *std::move(host_use),
                  .limits = limits,
                  .phases = std::move(phases),
                  .warnings = std::move(warnings),
                  .peak_memory = peak_memory};
}

Expected<void> pack_all_files(Prepared& prepared) {
  const PhaseTimer timer(prepared.phases, "initramfs");
  auto whole = prepared.all_files.build();
  if (!whole) return propagate(std::move(whole.error()), "packing the guest's files");
  prepared.initramfs = std::move(*whole);
  prepared.later_files = {};
  return {};
}

Expected<std::unique_ptr<Machine>> make_machine(boost::asio::io_context& loop, const Prepared& prepared,
                                                bool single_thread, std::optional<SnapshotFiles> snapshot) {
  BootSpec spec;
  spec.snapshot = std::move(snapshot);
  auto kernel = prepared.enter_payload ? prepared.kernel.payload_fd() : prepared.kernel.image_fd();
  if (!kernel) return std::unexpected(std::move(kernel.error()));
  spec.kernel = std::move(*kernel);
  spec.kernel_is_elf = prepared.enter_payload;
  spec.initramfs.reset(::dup(prepared.initramfs.memfd.get()));
  if (!spec.initramfs) return fail_errno(ErrorCode::kHost, "cannot hand the initramfs to the machine");
  spec.initramfs_size = prepared.initramfs.size;
  spec.kernel_arguments = prepared.kernel_arguments;
  spec.command_line = prepared.append;
  spec.memory_bytes = prepared.plan.machine().memory_bytes();
  spec.topology = prepared.topology;
  const auto& flags = prepared.plan.machine().cpu_flags();
  spec.cpu_flags.assign(flags.begin(), flags.end());
  if (prepared.plan.has_deterministic()) {
    spec.deterministic = DeterministicClock{.shift = prepared.plan.deterministic().clock_shift(),
                                            .seed = prepared.plan.deterministic().random_seed()};
  }
  spec.kernel_hz = prepared.kernel.config().hz();
  auto machine = create_machine(
      prepared.machine_choice.kind, loop, std::move(spec),
      {.single_thread = single_thread, .traps = prepared.traps, .host_use = prepared.host_use});
  if (machine && (*machine)->command_line().text.size() >= kMaxCommandLine) {
    return fail(ErrorCode::kUsage,
                fmt::format("the kernel command line has {} bytes, the kernel takes {}; shorten --append",
                            (*machine)->command_line().text.size(), kMaxCommandLine - 1));
  }
  return machine;
}

}  // namespace ktstr
