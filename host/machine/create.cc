#include "host/machine/create.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>

#include <fmt/core.h>

#include "host/machine/host_resources.h"
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
  return {};
}

}  // namespace

HostVirtualization probe_host_virtualization() {
  HostVirtualization host;
  const UniqueFd kvm(open(kKvmDevice, O_RDWR | O_CLOEXEC));
  if (kvm) {
    host.kvm_api_version = ioctl(kvm.get(), KVM_GET_API_VERSION, 0);
  } else {
    host.kvm_errno = errno;
  }
  const auto flags = host_cpu_flags();
  host.cpu_has_vmx = flags.contains("vmx");
  host.cpu_has_svm = flags.contains("svm");
  return host;
}

Expected<MachineChoice> choose_machine(AccelChoice asked, const HostVirtualization& host) {
  constexpr const char* kNoKvm = "the kvm machine is not part of this version";
  if (asked == AccelChoice::kKvm) return fail(ErrorCode::kHost, fmt::format("{}; use --accel tcg", kNoKvm));
  if (asked == AccelChoice::kTcg) return MachineChoice{AccelChoice::kTcg, "asked for"};
  const std::string obstacle = kvm_obstacle(host);
  return MachineChoice{AccelChoice::kTcg, obstacle.empty() ? kNoKvm : obstacle};
}

std::vector<std::string> needed_modules(AccelChoice kind) {
  // Our own monitor offers its console by virtio-mmio, QEMU's pc machine by PCI.
  return {kind == AccelChoice::kKvm ? "virtio_mmio" : "virtio_pci", "virtio_console"};
}

Expected<void> check_limits(AccelChoice /*kind*/, const BootSpec& spec) {
  return check_pc_limits(spec);
}

Expected<std::unique_ptr<Machine>> create_machine(AccelChoice asked, boost::asio::io_context& loop,
                                                  BootSpec spec, const MachineOptions& options) {
  // Only an automatic choice depends on the host.
  const auto choice =
      choose_machine(asked, asked == AccelChoice::kAuto ? probe_host_virtualization() : HostVirtualization{});
  if (!choice) return std::unexpected(choice.error());
  return TcgMachine::create(loop, std::move(spec), options.single_thread);
}

}  // namespace ktstr
