#include "host/machine/create.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>

#include <fmt/core.h>

#include "host/machine/host_resources.h"
#include "host/machine/kvm/kvm_capabilities.h"
#include "host/machine/kvm/kvm_machine.h"
#include "host/machine/tcg/pc_memory.h"
#include "host/machine/tcg/tcg_machine.h"

namespace ktstr {
namespace {

constexpr const char* kKvmDevice = "/dev/kvm";
// The only version there has ever been.
static_assert(KVM_API_VERSION == 12);

// Why this host has no KVM that can run a stock kernel; empty when it has.
std::string kvm_obstacle(const HostVirtualization& host) {
  if (host.kvm_errno == ENOENT) return fmt::format("{} is not there", kKvmDevice);
  if (host.kvm_errno != 0)
    return fmt::format("{} cannot be opened: {}", kKvmDevice, strerrordesc_np(host.kvm_errno));
  if (host.kvm_api_version < 0) return fmt::format("{} does not answer", kKvmDevice);
  if (host.kvm_api_version != KVM_API_VERSION) {
    return fmt::format("{} speaks API version {}, not {}", kKvmDevice, host.kvm_api_version, KVM_API_VERSION);
  }
  if (!host.cpu_has_vmx && !host.cpu_has_svm) {
    return fmt::format(
        "{} is there, but the CPU has neither vmx nor svm: a software KVM cannot run stock kernels",
        kKvmDevice);
  }
  if (!host.kvm_lacks.empty()) return fmt::format("{} lacks {}", kKvmDevice, host.kvm_lacks);
  return {};
}

}  // namespace

const char* accel_name(AccelChoice kind) {
  switch (kind) {
    case AccelChoice::kAuto:
      return "auto";
    case AccelChoice::kKvm:
      return "kvm";
    case AccelChoice::kTcg:
      return "tcg";
  }
  return "";
}

MachineAbilities machine_abilities(AccelChoice kind) {
  const bool emulated = kind == AccelChoice::kTcg;
  return {.instruction_clock = emulated, .cpu_flags = emulated, .host_use = kind == AccelChoice::kKvm};
}

HostVirtualization probe_host_virtualization() {
  HostVirtualization host;
  const UniqueFd kvm(open(kKvmDevice, O_RDWR | O_CLOEXEC));
  if (kvm) {
    host.kvm_api_version = ioctl(kvm.get(), KVM_GET_API_VERSION, 0);
    host.kvm_lacks = kvm::missing_required(kvm::ask_capabilities(kvm.get()));
  } else {
    host.kvm_errno = errno;
  }
  const auto flags = host_cpu_flags();
  host.cpu_has_vmx = flags.contains("vmx");
  host.cpu_has_svm = flags.contains("svm");
  return host;
}

Expected<MachineChoice> choose_machine(AccelChoice asked, const HostVirtualization& host) {
  // What was asked for is tried, whatever it looks like; what is missing then is said by name.
  if (asked != AccelChoice::kAuto) return MachineChoice{asked, "asked for"};
  const std::string obstacle = kvm_obstacle(host);
  if (obstacle.empty()) return MachineChoice{AccelChoice::kKvm, "this host has hardware virtualization"};
  return MachineChoice{AccelChoice::kTcg, obstacle};
}

Expected<MachineChoice> choose_deterministic_machine(AccelChoice asked) {
  if (asked != AccelChoice::kAuto && !machine_abilities(asked).instruction_clock) {
    return fail(
        ErrorCode::kUsage,
        fmt::format("--deterministic and --accel {} exclude each other: a real CPU's clock counts the "
                    "host's time, only an emulated one can count instructions; leave --accel out",
                    accel_name(asked)));
  }
  return MachineChoice{AccelChoice::kTcg, "a deterministic run needs a CPU whose clock counts instructions"};
}

std::vector<std::string> needed_modules(AccelChoice kind) {
  // Our own monitor offers its console by virtio-mmio, QEMU's pc machine by PCI.
  return {kind == AccelChoice::kKvm ? "virtio_mmio" : "virtio_pci", "virtio_console"};
}

Expected<void> check_limits(AccelChoice kind, const BootSpec& spec) {
  return kind == AccelChoice::kKvm ? kvm::check_kvm_limits(spec) : check_pc_limits(spec);
}

Expected<std::unique_ptr<Machine>> create_machine(AccelChoice asked, boost::asio::io_context& loop,
                                                  BootSpec spec, const MachineOptions& options) {
  // Only an automatic choice depends on the host.
  const auto choice =
      choose_machine(asked, asked == AccelChoice::kAuto ? probe_host_virtualization() : HostVirtualization{});
  if (!choice) return std::unexpected(choice.error());
  if (choice->kind == AccelChoice::kKvm) {
    if (spec.deterministic) return fail(ErrorCode::kUsage, "only the tcg machine can run deterministically");
    if (auto ok = kvm::check_kvm_limits(spec); !ok) return std::unexpected(std::move(ok.error()));
    if (auto kvm = kvm::open_kvm(); !kvm) return std::unexpected(std::move(kvm.error()));
    return std::make_unique<kvm::KvmMachine>(
        loop, std::move(spec), kvm::KvmMachineOptions{.traps = options.traps, .host_use = options.host_use});
  }
  return TcgMachine::create(loop, std::move(spec), options.single_thread);
}

}  // namespace ktstr
