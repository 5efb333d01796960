#include "host/monitor/freeze_coordinator.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace ktstr {
namespace {

using std::chrono::nanoseconds;
using Clock = std::chrono::steady_clock;

// A kernel that ends schedulers in good order all day long is not to be slowed down for ever.
constexpr std::uint32_t kMaxIdleHits = 10'000;
constexpr std::uint64_t kMaxExitKind = 1 << 16;
// Enough for some 600 tasks; beyond it copying costs page faults.
constexpr std::size_t kFirstArena = std::size_t{2} << 20;

}  // namespace

FreezeCoordinator::FreezeCoordinator(Machine& machine, ScxDumper& dumper, Options options,
                                     Receivers receivers)
    : machine_(machine),
      dumper_(dumper),
      options_(options),
      receivers_(std::move(receivers)),
      traps_(find_exit_traps(dumper.symbols(), dumper.types())) {
  arena_.prepare(kFirstArena);
}

void FreezeCoordinator::note(const std::string& text) const {
  if (receivers_.on_note) receivers_.on_note(text);
}

// ---------------------------------------------------------------------------------------------------------------------
// Arming

Expected<void> FreezeCoordinator::set_traps() {
  const std::uint64_t slide = dumper_.located() ? dumper_.location().slide : 0;
  const bool has_claim = std::any_of(
      traps_.begin(), traps_.end(), [](const ExitTrap& trap) { return trap.role == ExitTrap::Role::kClaim; });
  std::vector<std::uint64_t> addresses;
  for (const ExitTrap& trap : traps_) {
    // Every scheduler that ends passes the third place; it is of interest after a failure only.
    if (trap.role == ExitTrap::Role::kDumped && !await_kernel_dump_) continue;
    if (trap.role == ExitTrap::Role::kClaim && options_.before_kernel_dump) continue;
    // A guest that goes on makes the message itself.
    if (trap.role == ExitTrap::Role::kTold && (options_.before_kernel_dump || !options_.stop_on_trap))
      continue;
    if (trap.role == ExitTrap::Role::kBackstop && options_.claim_only && has_claim && !await_kernel_dump_)
      continue;
    addresses.push_back(trap.address + slide);
  }
  auto set = machine_.set_traps(std::move(addresses));
  dumper_.symbols().give_back_pages();  // most runs ask for none of them again
  armed_ = set.has_value();
  return set;
}

Expected<void> FreezeCoordinator::arm_before_start() {
  if (traps_.empty() || !options_.no_kaslr) return {};
  return set_traps();
}

Expected<void> FreezeCoordinator::arm_running() {
  if (traps_.empty() || armed_) return {};
  if (receivers_.on_disturbance) receivers_.on_disturbance("stopped to set traps");
  const auto since = Clock::now();
  auto paused = machine_.pause(options_.rendezvous_limit);
  if (!paused) return std::unexpected(std::move(paused.error()));
  auto set = locate(all_registers());
  if (set) set = set_traps();
  auto resumed = resume(since);
  if (!resumed) return resumed;
  return set;
}

const ExitTrap* FreezeCoordinator::trap_at(std::uint64_t address) const {
  const std::uint64_t slide = dumper_.located() ? dumper_.location().slide : 0;
  const auto found = std::find_if(traps_.begin(), traps_.end(),
                                  [&](const ExitTrap& trap) { return trap.address + slide == address; });
  return found == traps_.end() ? nullptr : &*found;
}

// ---------------------------------------------------------------------------------------------------------------------
// The stopped guest

GuestMemory FreezeCoordinator::memory() const {
  std::vector<MemoryRegion> regions;
  for (const RamRegion& region : machine_.ram())
    regions.push_back({Gpa(region.gpa), region.host, region.process});
  auto memory = GuestMemory::create(std::move(regions));
  return memory ? *memory : GuestMemory();
}

std::vector<std::optional<VcpuRegisters>> FreezeCoordinator::all_registers() {
  std::vector<std::optional<VcpuRegisters>> all;
  for (std::uint32_t cpu = 0; cpu < dumper_.plan().max_cpus; ++cpu) {
    auto registers = machine_.registers(cpu);
    all.push_back(registers ? std::optional(*registers) : std::nullopt);
  }
  return all;
}

std::string FreezeCoordinator::vmcoreinfo_text() const {
  if (!vmcoreinfo_at_ || vmcoreinfo_at_->second > Vmcoreinfo::kMaxSize) return {};
  std::string bytes(vmcoreinfo_at_->second, '\0');
  ReadBudget budget(bytes.size(), 100);
  if (!memory().read(vmcoreinfo_at_->first, std::as_writable_bytes(std::span(bytes)), budget)) return {};
  const std::size_t begin = bytes.find("OSRELEASE=");  // the note's header comes before
  if (begin == std::string::npos) return {};
  const std::size_t end = bytes.find('\0', begin);
  return bytes.substr(begin, end == std::string::npos ? end : end - begin);
}

Expected<void> FreezeCoordinator::resume(Clock::time_point since) {
  auto resumed = machine_.resume();
  stood_still_ += Clock::now() - since;
  return resumed;
}

Expected<void> FreezeCoordinator::locate(std::span<const std::optional<VcpuRegisters>> registers) {
  if (dumper_.located()) return {};
  const std::string text = vmcoreinfo_text();
  const auto vmcoreinfo = parse_vmcoreinfo(std::as_bytes(std::span(text)));
  StoppedGuest guest{memory(), registers, vmcoreinfo ? &*vmcoreinfo : nullptr, std::nullopt};
  if (const auto begin = dumper_.symbols().find("_text"); begin && options_.no_kaslr)
    guest.text = Kva(*begin);
  return dumper_.locate(guest);
}

Kva FreezeCoordinator::root_sched(KernelMemory& memory) const {
  ReadBudget budget(64, 64);
  const auto root = dumper_.kernel().symbol("scx_root");
  const auto sched = root ? memory.read<Kva>(*root, budget) : FaultOr<Kva>(Kva());
  return sched ? *sched : Kva();
}

// The kind of exit that a scheduler has claimed so far; 0: none.
std::uint64_t FreezeCoordinator::exit_kind_of(KernelMemory& memory, Kva sched) const {
  ReadBudget budget(64, 64);
  std::optional<Kva> at;
  if (sched.value() != 0 && dumper_.plan().sched.exit_kind)
    at = sched + dumper_.plan().sched.exit_kind->offset;
  if (dumper_.plan().sched.legacy) at = dumper_.kernel().symbol("scx_exit_kind");
  const auto kind = at ? memory.read<std::uint32_t>(*at, budget) : FaultOr<std::uint32_t>(0U);
  return kind ? *kind : 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Traps

// A scheduler fails once: the first error is claimed, later ones find the exit taken. What ends schedulers in
// good order (unregistering, SysRq-S) has kinds below SCX_EXIT_ERROR.
bool FreezeCoordinator::worth_a_dump(const ExitTrap& trap, const VcpuRegisters& registers, Stop& stop) {
  auto view = dumper_.view(memory());
  if (!view) return false;
  if (trap.sched) stop.sched = Kva(argument(registers, *trap.sched).value_or(0));
  if (stop.sched.value() == 0) stop.sched = root_sched(*view);
  const std::uint64_t least = dumper_.plan().constants.exit_error;
  if (trap.role == ExitTrap::Role::kBackstop) {
    stop.kind = exit_kind_of(*view, stop.sched);
    return !pending_ && stop.kind >= least && stop.kind <= kMaxExitKind;
  }
  stop.kind = argument(registers, trap.kind.value_or(1)).value_or(0) & 0xffffffff;
  return stop.kind >= least && stop.kind <= kMaxExitKind && exit_kind_of(*view, stop.sched) == 0;
}

std::string FreezeCoordinator::name_of_kind(std::uint64_t kind) const {
  for (const Enumerator& one : dumper_.plan().constants.exit_kinds) {
    if (one.value == kind) return one.name;
  }
  return {};
}

// ---------------------------------------------------------------------------------------------------------------------
// The message of a scheduler that fails, before the kernel has made it

void FreezeCoordinator::listen(const ExitTrap& trap, std::uint32_t cpu, const VcpuRegisters& registers) {
  auto view = dumper_.view(memory());
  if (!view || !trap.message) return;
  // One of these functions calls the next; the last one's is what the kernel will print.
  ExpandedFormat message = expand_message(*trap.message, registers, *view, &dumper_.kernel());
  const bool worse = heard_ && heard_->cpu == cpu && !message.problem.empty();
  if (!worse) heard_ = {cpu, trap.symbol, std::move(message)};
}

void FreezeCoordinator::take_message(const VcpuRegisters& registers, Stop& stop) {
  auto heard = std::exchange(heard_, std::nullopt);
  if (stop.trap->message) {
    auto view = dumper_.view(memory());
    stop.told = stop.trap->symbol;
    if (view) stop.message = expand_message(*stop.trap->message, registers, *view, &dumper_.kernel());
  } else if (heard && heard->cpu == stop.cpu) {
    stop.told = heard->symbol;
    stop.message = std::move(heard->message);
  } else {
    stop.message.problem = stop.trap->symbol + " is not told it, and no function that is was passed";
  }
}

void FreezeCoordinator::add_message(const Stop& stop, Pending& pending) const {
  if (stop.trap == nullptr || stop.trap->role != ExitTrap::Role::kClaim ||
      pending.sched >= static_cast<std::size_t>(pending.dump.scheds_size()))
    return;
  pending.message_problem = stop.message.problem;
  if (stop.message.text.empty()) return;
  auto& info = *pending.dump.mutable_scheds(static_cast<int>(pending.sched))->mutable_exit_info();
  info.set_msg(stop.message.text);
  info.set_read("at the trap, from the arguments of " + stop.told);
}

// ---------------------------------------------------------------------------------------------------------------------

// Of a guest that stands still anyway.
void FreezeCoordinator::change_traps() {
  if (auto set = set_traps(); !set) note("cannot change the traps: " + set.error().to_string());
}

bool FreezeCoordinator::on_trap(const MachineEvent& event) {
  Stop stop{.reason = "trap",
            .trap = trap_at(event.address),
            .address = event.address,
            .cpu = event.cpu,
            .sched = {},
            .kind = 0,
            .pause = event.pause,
            .since = Clock::now(),
            .trapped_by = event.trapped_by};
  if (receivers_.on_disturbance)
    receivers_.on_disturbance(
        fmt::format("stopped at {}", stop.trap != nullptr ? stop.trap->symbol : "a trap"));
  bool go_on = true;
  const auto registers = machine_.registers(event.cpu);
  auto located = dumper_.located() ? Expected<void>() : locate(all_registers());
  if (!located) note("the guest's kernel was not found: " + located.error().to_string());
  if (stop.trap != nullptr && registers && located) {
    if (stop.trap->role == ExitTrap::Role::kTold) {
      listen(*stop.trap, event.cpu, *registers);
    } else if (stop.trap->role == ExitTrap::Role::kDumped) {
      add_exit_info("after the kernel's own dump");
      finish();
      await_kernel_dump_ = false;
      change_traps();
    } else if (dumps_ < options_.max_dumps && worth_a_dump(*stop.trap, *registers, stop)) {
      await_kernel_dump_ = true;
      change_traps();
      go_on = !options_.stop_on_trap;
      if (stop.trap->role == ExitTrap::Role::kClaim) take_message(*registers, stop);
      failure_ = name_of_kind(stop.kind);
      if (failure_.empty()) failure_ = fmt::format("exit kind {}", stop.kind);
      if (!stop.message.text.empty()) failure_ += ": " + stop.message.text;
      if (auto frozen = freeze(stop, go_on); !frozen) note("no dump: " + frozen.error().to_string());
      return go_on;
    } else if (stop.trap->role == ExitTrap::Role::kBackstop && pending_) {
      add_exit_info("before the kernel's own dump");
    } else if (heard_.reset(); ++idle_hits_ == kMaxIdleHits) {
      note(fmt::format("{} schedulers ended without an error: traps are off", kMaxIdleHits));
      traps_.clear();
      change_traps();
    }
  }
  if (auto resumed = resume(stop.since); !resumed) note("cannot resume: " + resumed.error().to_string());
  return true;
}

Expected<void> FreezeCoordinator::dump_now(const std::string& reason, bool resume) {
  if (dumps_ >= options_.max_dumps)
    return fail(ErrorCode::kHost, fmt::format("{} dumps were taken of this run already", dumps_));
  if (receivers_.on_disturbance) receivers_.on_disturbance("stopped for a dump (" + reason + ")");
  const auto since = Clock::now();
  auto paused = machine_.pause(options_.rendezvous_limit);
  if (!paused) return std::unexpected(std::move(paused.error()));
  return freeze({.reason = reason,
                 .trap = nullptr,
                 .address = 0,
                 .cpu = 0,
                 .sched = {},
                 .kind = 0,
                 .pause = std::move(*paused),
                 .since = since},
                resume);
}

// ---------------------------------------------------------------------------------------------------------------------
// The dump

void FreezeCoordinator::fill_header(const Stop& stop, nanoseconds frozen,
                                    ktstr::v1::DumpHeader& header) const {
  header.set_reason(stop.reason);
  if (stop.trap != nullptr) {
    header.set_trap(stop.trap->symbol);
    header.set_trap_address(stop.address);
    header.set_trap_cpu(stop.cpu);
    header.set_trap_exit_kind(stop.kind);
    header.set_trap_exit_kind_name(name_of_kind(stop.kind));
    header.set_trap_sched(stop.sched.value());
    header.set_trapped_by(stop.trapped_by);
  }
  header.set_rendezvous_ns(static_cast<std::uint64_t>(stop.pause.rendezvous.count()));
  header.set_frozen_ns(static_cast<std::uint64_t>(frozen.count()));
  header.set_clock_held(stop.pause.clock_held);
  for (const std::uint32_t cpu : stop.pause.missing) header.add_vcpus_missing(cpu);
  for (const PauseReport::Whereabouts& where : stop.pause.missing_at)
    header.add_vcpus_missing_where(
        where.rip ? fmt::format("{} [{}]", where.text, dumper_.kernel().describe(Kva(*where.rip)))
                  : where.text);
}

Expected<void> FreezeCoordinator::freeze(const Stop& stop, bool go_on) {
  const auto registers = all_registers();
  auto captured = [&]() -> Expected<ScxCaptured> {
    if (auto located = locate(registers); !located) return std::unexpected(std::move(located.error()));
    return dumper_.capture({memory(), registers, nullptr, std::nullopt}, stop.sched, std::move(arena_));
  }();
  const nanoseconds frozen = Clock::now() - stop.since;
  if (captured && receivers_.on_stopped) {
    auto core = receivers_.on_stopped(dumps_ + 1, {memory(), registers, nullptr, std::nullopt});
    if (!core) {
      const std::string lost = "no core: " + core.error().to_string();
      note(lost);
      std::string& incomplete = captured->objects.incomplete;
      incomplete += (incomplete.empty() ? "" : "; ") + lost;
    }
  }
  if (go_on) {
    if (auto resumed = resume(stop.since); !resumed) note("cannot resume: " + resumed.error().to_string());
  }
  if (!captured) return std::unexpected(std::move(captured.error()));
  for (std::size_t cpu = 0; cpu < captured->vcpus.size() && cpu < stop.pause.stopped_after.size(); ++cpu) {
    if (const auto after = stop.pause.stopped_after[cpu])
      captured->vcpus[cpu].set_stopped_after_ns(static_cast<std::uint64_t>(after->count()));
  }
  finish();  // an earlier one that still waits
  Pending pending{dumper_.inspect(*captured), Kva(), 0, {}};
  fill_header(stop, frozen, *pending.dump.mutable_header());
  for (std::size_t i = 0; i < captured->objects.scheds.size(); ++i) {
    const SchedObjects& sched = captured->objects.scheds[i];
    if (i == 0 || sched.sched == stop.sched) {
      pending.exit_info = sched.exit_info;
      pending.sched = i;
    }
  }
  add_message(stop, pending);
  arena_ = std::move(captured->memory);
  ++dumps_;
  pending_ = std::move(pending);
  // Only the exit of a scheduler that goes on leads past the place where the kernel's dump is complete.
  if (stop.trap == nullptr || !go_on) finish();
  return {};
}

void FreezeCoordinator::add_exit_info(const char* when) {
  if (!pending_ || pending_->exit_info.value() == 0 ||
      pending_->sched >= static_cast<std::size_t>(pending_->dump.scheds_size()))
    return;
  auto view = dumper_.view(memory());
  if (!view) return;
  auto& message = *pending_->dump.mutable_scheds(static_cast<int>(pending_->sched))->mutable_exit_info();
  inspect_exit_info(dumper_.plan(), dumper_.kernel(), *view, pending_->exit_info, message);
  message.set_read(when);
  pending_->message_problem.clear();
}

void FreezeCoordinator::finish() {
  if (!pending_) return;
  ktstr::v1::Dump dump = std::move(pending_->dump);
  if (!pending_->message_problem.empty()) {
    auto& absence = *dump.add_absent();
    absence.set_what("exit message, or a part of it");
    absence.set_reason(pending_->message_problem);
  }
  pending_.reset();
  if (receivers_.on_dump) receivers_.on_dump(dumps_, std::move(dump));
}

}  // namespace ktstr
