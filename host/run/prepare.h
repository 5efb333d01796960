// From what the user asked for to everything a machine needs: the RunPlan, the kernel, the initramfs. Nothing
// is started and nothing is written (but caches), so every mistake a user can make is found here, before a
// run exists.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/error.h"
#include "host/boot/initramfs.h"
#include "host/kernel/kernel_image.h"
#include "host/machine/create.h"
#include "host/machine/machine.h"
#include "host/run/guard.h"
#include "host/run/run_request.h"
#include "proto/plan.pb.h"
#include "proto/result.pb.h"

namespace ktstr {

struct Prepared {
  ktstr::v1::RunPlan plan;  // run_id is filled in later
  KernelImage kernel;
  std::vector<KernelArgument> kernel_arguments;  // ours, whatever the machine
  std::string append;                            // the user's kernel arguments
  Initramfs initramfs;
  FileBundle later_files;      // sent over the frame port when the guest is up
  InitramfsBuilder all_files;  // of both
  std::string packed_plan;     // serialized, in the initramfs of a deterministic run; else empty
  CpuTopology topology;
  MachineChoice machine_choice;
  // The ELF payload is entered directly; otherwise the bzImage runs its own decompressor.
  bool enter_payload = false;
  std::optional<TrapKind> traps;  // --traps
  HostUse host_use;               // --pages, --pin-vcpus, --vcpu-fifo
  GuardLimits limits;
  std::vector<ktstr::v1::PhaseTime> phases;  // "image", "initramfs"
  std::vector<std::string> warnings;
  // Largest resident memory of this process until the kernel was known, bytes.
  std::uint64_t peak_memory = 0;
};

Expected<Prepared> prepare(const RunRequest& request);

// From now on the guest boots with all its files, and none is sent later. Errors: as InitramfsBuilder::build.
Expected<void> pack_all_files(Prepared& prepared);

// A machine for `prepared`. `single_thread`: one thread for all vCPUs, for the repetition after an emulator
// fault. `snapshot`: its guest goes on from there.
Expected<std::unique_ptr<Machine>> make_machine(boost::asio::io_context& loop, const Prepared& prepared,
                                                bool single_thread,
                                                std::optional<SnapshotFiles> snapshot = std::nullopt);

}  // namespace ktstr
