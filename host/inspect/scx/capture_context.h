// CaptureContext: what the parts of the walk through a stopped guest share. Internal to host/inspect/scx.
//
// The parts build on each other, each one knowing only those before it: tasks, dispatch queues, schedulers,
// CPUs. scx_capture.cc runs them in the order of importance.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "host/inspect/reasons.h"
#include "host/inspect/scx/scx_capture.h"
#include "host/inspect/walk/list.h"

namespace ktstr {

struct CaptureContext {
  const ScxPlan& plan;
  const GuestKernel& kernel;
  KernelReader& memory;
  CapturedMemory& captured;
  const CaptureHints& hints;
  const CaptureLimits& limits;
  ReadBudget budget;
  ScxObjects objects;
  // Of the short lists, one after the other. Adding a task leaves it alone, adding a queue does not.
  ListContents list;

  void absent(std::string_view what, std::string reason) {
    auto& absence = objects.absent.emplace_back();
    absence.set_what(std::string(what));
    absence.set_reason(std::move(reason));
  }
  void flaw(std::string path, std::string text) {
    if (objects.flaws.size() < FaultLog::kMax)
      objects.flaws.push_back({std::move(path), std::move(text)});
    else
      ++objects.flaws_left_out;
  }
  // A limit ended a part of the walk; each is said once.
  void incomplete(const std::string& what) {
    std::string& all = objects.incomplete;
    if (all.find(what) == std::string::npos) add_reason(all, what);
  }
  void note_break(std::string path, const ListContents& walked) {
    if (walked.broken && walked.broken->kind != WalkBreak::Kind::kUninitialised)
      flaw(std::move(path), walked.broken->to_string());
  }

  // The pointer at `at`, or in that member of `object`; 0 where it cannot be read or there is no such member.
  Kva pointer(Kva at) {
    const auto value = memory.read<Kva>(at, budget);
    return value ? *value : Kva();
  }
  Kva pointer(Kva object, const std::optional<Place>& place) {
    return place ? pointer(object + place->offset) : Kva();
  }
  void keep(Kva kva, std::uint64_t size) {
    // What could not be copied is a fault when it is looked for.
    [[maybe_unused]] const auto kept = captured.capture(memory, kva, size, budget);
  }

  // Symbols come from an image that names no variables.
  bool names_functions_only() const { return kernel.symbols().source() == SymbolSource::kImage; }
  // NUMA nodes, at least 1.
  std::uint32_t nodes() {
    const auto at = kernel.symbol("nr_node_ids");
    if (!at) return 1;
    const auto count = memory.read<std::uint32_t>(*at, budget);
    if (!count) return 1;
    keep(*at, 4);
    return std::clamp<std::uint32_t>(*count, 1, kMaxNumaNodes);
  }
};

}  // namespace ktstr
