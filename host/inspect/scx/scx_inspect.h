// From the copies that were made of a stopped guest to a Dump: contents, cross-checks, findings.
//
// Nothing here touches the guest; it may take its time. Each section of the dump is made by a function of its
// own, in the order of dependence: tasks first, since all others name tasks.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "host/inspect/scx/scx_objects.h"
#include "host/inspect/scx/scx_plan.h"
#include "host/inspect/stack/orc_table.h"
#include "host/kernel/guest_kernel.h"
#include "host/memory/kernel_reader.h"
#include "host/memory/read_budget.h"
#include "proto/dump.pb.h"

namespace ktstr {

// What a dump needs besides the guest's memory.
struct InspectInput {
  // CONFIG_HZ; 0: not known, and nothing is told in ms.
  std::uint32_t hz = 0;
  // By CPU; as the machine had them.
  std::vector<ktstr::v1::Vcpu> vcpus;
  // nullptr: frames are guessed.
  const OrcTable* orc = nullptr;
};

// Fills everything but the header's facts about the host. `memory` is what was captured.
ktstr::v1::Dump inspect_scx(const ScxPlan& plan, const GuestKernel& kernel, KernelReader& memory,
                            const ScxObjects& objects, const InspectInput& input);

// Reads struct scx_exit_info at `info` again into `message`; for when the kernel has filled it meanwhile.
void inspect_exit_info(const ScxPlan& plan, const GuestKernel& kernel, KernelReader& memory, Kva info,
                       ktstr::v1::ScxExitInfo& message);

}  // namespace ktstr
