// RunRequest: what the user asked for, as given, before anything is resolved.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "host/machine/create.h"
#include "host/machine/machine.h"

namespace ktstr {

struct RunRequest {
  std::string kernel;                       // --kernel: image, build tree or package folder
  std::string scheduler;                    // --scheduler: path or name; empty: the kernel's own
  std::string scheduler_args;               // --scheduler-args: one string, split like a shell would
  std::string scenario = "steady";          // --scenario: catalog name or file
  std::vector<std::string> more_scenarios;  // --scenario, from the second on: each is a run of its own
  std::uint32_t repeat = 1;                 // --repeat
  std::optional<unsigned> jobs;             // --jobs: runs at a time; nothing: what the host carries
  std::optional<std::uint32_t> cpus;        // --cpus
  std::string topology;                     // --topology: "numa=1,llcs=2,cores=2,threads=1"
  std::string cpu_flags;                    // --cpu-flags: "+la57,-avx2"
  std::string memory;                       // --memory: "1G"; empty: computed
  std::string duration;                     // --duration
  std::string out = "ktstr-out";            // --out
  AccelChoice accel = AccelChoice::kAuto;   // --accel
  RamPages pages = RamPages::kNormal;       // --pages
  std::string pin_vcpus;                    // --pin-vcpus
  std::optional<int> vcpu_fifo;             // --vcpu-fifo
  // --deterministic[=SEED]: as typed; empty: an ordinary run. Without SEED it is "1".
  std::string seed;
  std::vector<std::string> append;  // --append, in order
  bool kaslr = false;
  std::vector<std::string> includes;  // --include FILE[:GUESTPATH]
  std::string boot_timeout;           // --boot-timeout
  bool bisect = false;
  bool bisect_boot = false;
  bool explain = false;
  // --clone: whether the guest goes on from a snapshot.
  enum class Clone { kAuto, kAlways, kNever };
  Clone clone = Clone::kAuto;
  bool retry = true;  // --no-retry: an emulator fault ends the run
  // --on-freeze: what follows the dump of a scheduler that fails.
  enum class OnFreeze { kContinue, kStop, kOff };
  OnFreeze on_freeze = OnFreeze::kContinue;
  // --freeze-at: where the error is claimed, or right before the kernel's own dump.
  enum class FreezeAt { kClaim, kDump };
  FreezeAt freeze_at = FreezeAt::kClaim;
  std::optional<TrapKind> traps;  // --traps: of a kvm machine; nothing: it chooses
  bool core = false;              // --core: guest memory beside each dump
  std::string vmlinux;            // --vmlinux, --system-map: where symbols come from
  std::string system_map;
  int verbose = 0;
  std::string version;            // of this program, for the record
  std::vector<std::string> argv;  // as typed, for the record
};

}  // namespace ktstr
