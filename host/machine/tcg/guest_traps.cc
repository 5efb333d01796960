#include "host/machine/tcg/guest_traps.h"

#include <algorithm>
#include <utility>

#include <fmt/core.h>

#include "host/machine/machine.h"

namespace ktstr {
namespace {

std::unexpected<Error> not_connected() {
  return fail(ErrorCode::kHost, "there is no connection to QEMU's gdb stub");
}

}  // namespace

Expected<void> GuestTraps::want(std::vector<std::uint64_t> addresses) {
  std::sort(addresses.begin(), addresses.end());
  addresses.erase(std::unique(addresses.begin(), addresses.end()), addresses.end());
  if (addresses.size() > kMaxTraps) {
    return fail(ErrorCode::kHost, fmt::format("a machine can have {} traps, and {} were asked for", kMaxTraps,
                                              addresses.size()));
  }
  wanted_ = std::move(addresses);
  return {};
}

bool GuestTraps::wanted(std::uint64_t address) const {
  return std::binary_search(wanted_.begin(), wanted_.end(), address);
}

void GuestTraps::connect(UniqueFd socket, StepTimers timers) {
  timers_ = timers;
  gdb_.emplace(std::move(socket));
}

void GuestTraps::disconnect() {
  gdb_.reset();
  prepared_ = false;
  set_.clear();
}

Expected<void> GuestTraps::apply(std::chrono::nanoseconds limit) {
  if (wanted_ == set_) return {};
  if (!gdb_) return not_connected();
  if (!prepared_ && timers_ == StepTimers::kRun) {
    if (auto kept = gdb_->keep_timers_in_steps(limit); !kept) {
      return propagate(std::move(kept.error()), "preparing QEMU for traps");
    }
    prepared_ = true;
  }
  for (const std::uint64_t address : std::vector(set_)) {
    if (wanted(address)) continue;
    if (auto removed = gdb_->remove_breakpoint(address, limit); !removed) {
      return propagate(std::move(removed.error()), fmt::format("removing the trap at {:#x}", address));
    }
    std::erase(set_, address);
  }
  for (const std::uint64_t address : wanted_) {
    const auto place = std::lower_bound(set_.begin(), set_.end(), address);
    if (place != set_.end() && *place == address) continue;
    if (auto inserted = gdb_->insert_breakpoint(address, limit); !inserted) {
      return propagate(std::move(inserted.error()), fmt::format("setting a trap at {:#x}", address));
    }
    set_.insert(place, address);
  }
  return {};
}

Expected<void> GuestTraps::step(std::uint32_t cpu, std::chrono::nanoseconds limit) {
  if (!gdb_) return not_connected();
  if (auto stepped = gdb_->step(cpu, limit); !stepped) {
    return propagate(std::move(stepped.error()), fmt::format("moving vCPU {} over its trap", cpu));
  }
  return {};
}

void GuestTraps::settle() {
  if (gdb_) gdb_->drain();
}

std::optional<std::uint32_t> GuestTraps::next_trapped(std::span<const std::uint64_t> rips,
                                                      std::uint32_t last) const {
  for (std::size_t i = 1; i <= rips.size(); ++i) {
    const std::size_t cpu = (last + i) % rips.size();
    if (wanted(rips[cpu])) return static_cast<std::uint32_t>(cpu);
  }
  return std::nullopt;
}

}  // namespace ktstr
