// ScxDumper: dumps of one kernel's sched_ext state, whatever holds its memory.
//
// Made once for a kernel image: its symbols, its types, and the plan of what to read. Then, for each dump:
//
//     dumper.locate(...)           once, as soon as the guest's kernel is up; remembered
//     auto capture = dumper.capture(memory, vcpus, hints);     the guest stands still
//     auto dump = dumper.inspect(capture);                     it may run again
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/error.h"
#include "host/inspect/scx/scx_capture.h"
#include "host/inspect/scx/scx_inspect.h"
#include "host/kernel/guest_kernel.h"
#include "host/kernel/kernel_image.h"
#include "host/kernel/kernel_location.h"
#include "host/kernel/kernel_types.h"
#include "host/kernel/symbol_sources.h"
#include "host/kernel/vmcoreinfo.h"
#include "host/machine/machine.h"
#include "host/memory/captured_memory.h"
#include "host/memory/guest_memory.h"
#include "host/memory/kernel_memory.h"
#include "proto/dump.pb.h"

namespace ktstr {

// What a stopped guest consists of. References must outlive the call they are given to.
struct StoppedGuest {
  GuestMemory memory;
  // By CPU; empty where the registers are not known.
  std::span<const std::optional<VcpuRegisters>> registers;
  // What the guest said of itself, if it did.
  const Vmcoreinfo* vmcoreinfo = nullptr;
  std::optional<Kva> text;
};

// The copies of one freeze.
struct ScxCaptured {
  CapturedMemory memory;
  ScxObjects objects;
  std::vector<ktstr::v1::Vcpu> vcpus;
  std::chrono::nanoseconds took{};  // copying
};

class ScxDumper {
 public:
  // `cpus`: how many the guest may have at most. Errors: kKernelLacks when the image has no BTF or no
  // symbols, with what to do; kUsage when a file of `named` belongs to another build.
  static Expected<std::unique_ptr<ScxDumper>> create(const KernelImage& image, const SymbolFiles& named,
                                                     std::uint32_t cpus);
  ScxDumper(const ScxDumper&) = delete;
  ScxDumper& operator=(const ScxDumper&) = delete;

  const SymbolTable& symbols() const { return symbols_.table; }
  const KernelTypes& types() const { return types_; }
  const ScxPlan& plan() const { return plan_; }

  // Finds out where the kernel runs. Errors as of find_kernel(). Keeps what it finds.
  Expected<void> locate(const StoppedGuest& guest);
  // For another guest with the same kernel.
  void forget_location() { location_.reset(); }
  bool located() const { return location_.has_value(); }
  const KernelLocation& location() const { return *location_; }
  // The kernel where it was found; locate() has succeeded.
  const GuestKernel& kernel() const { return *kernel_; }

  // A view of the stopped guest's memory at the kernel's addresses; locate() has succeeded.
  Expected<KernelMemory> view(const GuestMemory& memory) const;

  // Copies everything. `reuse`: memory of an earlier capture, whose pages are present already.
  Expected<ScxCaptured> capture(const StoppedGuest& guest, Kva sched, CapturedMemory reuse = {});
  // A Dump without the header's facts about the host; the image's identity is in it.
  ktstr::v1::Dump inspect(ScxCaptured& captured) const;

 private:
  ScxDumper(const KernelImage& image, KernelSymbols symbols, std::uint32_t cpus);

  const KernelImage& image_;
  KernelSymbols symbols_;
  KernelTypes types_;
  ScxPlan plan_;
  std::uint32_t hz_ = 0;
  std::optional<KernelLocation> location_;
  std::optional<GuestKernel> kernel_;
  mutable std::optional<Expected<OrcTable>> orc_;  // read at the first dump
};

// A vCPU as dumps show it.
ktstr::v1::Vcpu describe_vcpu(std::uint32_t cpu, const VcpuRegisters& registers, const GuestKernel& kernel);

}  // namespace ktstr
