// KvmMachine's traps and watchpoints: which there are to be, when they can be set, and what becomes of a hit.
#include <algorithm>
#include <chrono>
#include <span>
#include <utility>

#include <fmt/core.h>

#include "host/machine/kvm/kvm_machine.h"

namespace ktstr::kvm {

Expected<void> KvmMachine::set_traps(std::vector<std::uint64_t> addresses) {
  if (state_ == State::kEnded) return fail(ErrorCode::kHost, "cannot set traps: the machine has ended");
  std::ranges::sort(addresses);
  const auto same = std::ranges::unique(addresses);
  addresses.erase(same.begin(), same.end());
  if (addresses.size() > kMaxTraps)
    return fail(ErrorCode::kHost,
                fmt::format("{} traps are more than the {} there can be", addresses.size(), kMaxTraps));
  if (state_ == State::kCreated) {
    trap_addresses_ = std::move(addresses);
    return {};
  }
  return change_traps([&] { trap_addresses_ = std::move(addresses); });
}

Expected<void> KvmMachine::set_watchpoints(std::vector<Watchpoint> watchpoints) {
  if (state_ == State::kEnded) return fail(ErrorCode::kHost, "cannot set watchpoints: the machine has ended");
  if (watchpoints.size() > KvmTraps::kWatchpoints) {
    return fail(ErrorCode::kUsage, fmt::format("{} watchpoints are more than the {} there can be",
                                               watchpoints.size(), KvmTraps::kWatchpoints));
  }
  for (const Watchpoint& one : watchpoints) {
    if ((one.size != 1 && one.size != 2 && one.size != 4 && one.size != 8) || one.address % one.size != 0)
      return fail(ErrorCode::kUsage,
                  fmt::format("no CPU can watch {} bytes at {:#x}: 1, 2, 4 or 8 at a multiple of that",
                              one.size, one.address));
  }
  if (state_ == State::kCreated) {
    watchpoints_ = std::move(watchpoints);
    return {};
  }
  return change_traps([&] { watchpoints_ = std::move(watchpoints); });
}

Expected<void> KvmMachine::change_traps(const std::function<void()>& change) {
  const bool was_running = state_ == State::kRunning;
  if (was_running) {
    const auto paused = pause(kRendezvousLimit);
    if (!paused) return std::unexpected(paused.error());
  }
  if (pause_.missing.empty()) change();
  auto applied = pause_.missing.empty()
                     ? apply_traps()
                     : fail(ErrorCode::kHost, "cannot set traps: not all vCPUs could be stopped");
  if (was_running) {
    if (auto resumed = resume(); !resumed) return resumed;
  }
  return applied;
}

Expected<void> KvmMachine::apply_traps() {
  if (auto chosen = choose_trap_kind(); !chosen) return chosen;
  // A kernel that has not run yet has no tracing sites; a clone's has.
  const auto ports = traps_.port_traps(trap_addresses_, watchpoints_.size());
  traps_wait_ = state_ == State::kCreated && !ports.empty() &&
                !(guest_->times && KvmTraps::sites_ready(guest_->vcpus.front(), guest_->ram_view, ports));
  return traps_.set(guest_->vcpus, guest_->ram_view, trap_addresses_, watchpoints_, !traps_wait_);
}

void KvmMachine::look_for_sites(Vcpu& vcpu) {
  if (!KvmTraps::sites_ready(vcpu, guest_->ram_view, traps_.port_traps(trap_addresses_, watchpoints_.size())))
    return;
  if (traps_wait_.exchange(false)) post({.cpu = vcpu.index()});
}

void KvmMachine::set_waiting_traps() {
  const bool was_running = state_ == State::kRunning;
  if (was_running) {
    // Asked for with the message; but a pause and a resume may have come in between.
    threads_->hold();
    pause_ = threads_->wait_parked(kRendezvousLimit);
    state_ = State::kPaused;
    if (pause_.missing.empty()) hold_clock();
  }
  auto done = pause_.missing.empty()
                  ? apply_traps()
                  : fail(ErrorCode::kHost, "cannot set traps: not all vCPUs could be stopped");
  if (done && was_running) done = resume();
  if (!done) announce({.kind = MachineEvent::Kind::kPaused, .detail = done.error().to_string()});
}

Expected<void> KvmMachine::choose_trap_kind() {
  if (!options_.traps) {
    options_.traps = TrapKind::kBreakpoint;
    if (const auto defect = breakpoint_defect(); !defect.empty()) {
      options_.traps = TrapKind::kPort;
      warnings_.push_back(defect + ": traps are written into the kernel's code");
    }
  }
  traps_.set_kind(*options_.traps);
  return {};
}

// ---------------------------------------------------------------------------------------------------------------------
// Hits

void KvmMachine::keep_writes(std::span<const Message> messages) {
  const std::lock_guard lock(messages_mutex_);
  for (const Message& message : messages)
    if (message.hit && message.hit->watchpoint) messages_.push_back(message);
  if (messages_.empty() || state_ != State::kRunning || threads_->held()) return;
  // Such a vCPU was let go just after it had asked all to stop.
  threads_->hold();
  bell_.ring();
}

bool KvmMachine::forget_hits() {
  const std::lock_guard lock(messages_mutex_);
  std::erase_if(messages_, [](const Message& message) { return message.hit && !message.hit->watchpoint; });
  return std::ranges::any_of(messages_, [](const Message& message) { return message.hit.has_value(); });
}

void KvmMachine::on_hit(const Message& message) {
  pause_ = threads_->wait_parked(kRendezvousLimit);
  state_ = State::kPaused;
  if (pause_.missing.empty()) hold_clock();
  const bool written = message.hit->watchpoint;
  const bool by_port = message.hit->kind == TrapKind::kPort;
  // One that has written is behind its instruction already.
  if (!written) trapped_cpu_ = message.cpu;
  announce({.kind = written ? MachineEvent::Kind::kWritten : MachineEvent::Kind::kTrapped,
            .detail = fmt::format("vCPU {} {} {:#x}", message.cpu,
                                  written ? "has written to" : "is at the trap", message.hit->address),
            .cpu = message.cpu,
            .address = message.hit->address,
            .pause = pause_,
            .trapped_by = written   ? "watchpoint"
                          : by_port ? "port trap"
                                    : "hardware breakpoint"});
}

}  // namespace ktstr::kvm
