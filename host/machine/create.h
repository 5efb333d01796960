// Chooses and makes a machine.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>

#include "common/error.h"
#include "host/machine/host_use.h"
#include "host/machine/machine.h"

namespace ktstr {

// --accel
enum class AccelChoice { kAuto, kKvm, kTcg };
inline constexpr AccelChoice kMachineKinds[] = {AccelChoice::kKvm, AccelChoice::kTcg};
// "auto", "kvm", "tcg"
const char* accel_name(AccelChoice kind);

// What not every kind of machine can do. Whoever needs such a thing asks for it, and not for the kind.
struct MachineAbilities {
  bool instruction_clock = false;  // BootSpec::deterministic
  bool cpu_flags = false;          // BootSpec::cpu_flags
  bool host_use = false;           // MachineOptions::host_use
};
MachineAbilities machine_abilities(AccelChoice kind);

// What decides between hardware virtualization and emulation. The CPU flags count because some sandboxes
// offer a software KVM that answers every question rightly and cannot run a stock kernel.
struct HostVirtualization {
  int kvm_errno = 0;         // errno of opening /dev/kvm for reading and writing; 0: it opens
  int kvm_api_version = -1;  // KVM_GET_API_VERSION (Documentation/virt/kvm/api.rst 4.1), -1: the call failed
  bool cpu_has_vmx = false;  // flags line of /proc/cpuinfo
  bool cpu_has_svm = false;
  std::string kvm_lacks = {};  // kvm::missing_required()
};
HostVirtualization probe_host_virtualization();

struct MachineChoice {
  AccelChoice kind = AccelChoice::kTcg;  // kKvm or kTcg
  std::string reason;                    // one line
};
// The machine to use. Error kHost when the one asked for cannot be had.
Expected<MachineChoice> choose_machine(AccelChoice asked, const HostVirtualization& host);
// The one with an instruction clock. Error kUsage when another one was asked for.
Expected<MachineChoice> choose_deterministic_machine(AccelChoice asked);

// Kernel modules (by module name) that a guest needs to talk to the devices of a machine of this kind, where
// they are not built in.
std::vector<std::string> needed_modules(AccelChoice kind);

// Whether a machine of this kind can have this topology and this much memory; looks at nothing else of
// `spec`. Errors as create_machine.
Expected<void> check_limits(AccelChoice kind, const BootSpec& spec);

struct MachineOptions {
  // tcg: one host thread for all vCPUs, for repeating a run that the emulator itself broke.
  bool single_thread = false;
  // kvm: nothing: breakpoints where they work, else port traps.
  std::optional<TrapKind> traps = std::nullopt;
  // kvm only.
  HostUse host_use = {};
};

// Makes a machine that has not been started; nothing runs yet and no memory is taken. Errors: kUsage or kHost
// for what the machine cannot have (memory, vCPUs, topology); kHost when it cannot be used on this host at
// all.
Expected<std::unique_ptr<Machine>> create_machine(AccelChoice asked, boost::asio::io_context& loop,
                                                  BootSpec spec, const MachineOptions& options);

}  // namespace ktstr
