#include "host/machine/kvm/kvm_machine.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <span>
#include <utility>

#include <fmt/core.h>

#include "common/xxh3.h"
#include "host/machine/host_resources.h"
#include "host/machine/kvm/kvm_arguments.h"
#include "host/machine/kvm/kvm_state.h"
#include "host/machine/kvm/state_file.h"
#include "proto/kvm_state.pb.h"

namespace ktstr::kvm {
namespace {

using namespace std::chrono_literals;

// How long a character may lie in KVM's ring.
constexpr auto kLookAtWrites = 100ms;
// How long stop() waits for vCPUs before it takes what they have written.
constexpr auto kLastWordsLimit = 1s;
// Rounds of handing on what an ended guest has left; each is bounded by the devices.
constexpr int kMaxDrainRounds = 100000;

std::vector<KernelArgument> all_kernel_arguments(const BootSpec& spec, std::string_view frames) {
  auto arguments = kvm_kernel_arguments(frames);
  arguments.insert(arguments.end(), spec.kernel_arguments.begin(), spec.kernel_arguments.end());
  return arguments;
}

MachineEvent ending(GuestEnd end, const std::string& detail) {
  switch (end) {
    case GuestEnd::kPoweredOff:
      return {.kind = MachineEvent::Kind::kPoweredOff, .detail = detail};
    case GuestEnd::kReset:
      return {.kind = MachineEvent::Kind::kReset, .detail = detail};
    case GuestEnd::kTripleFault:
      return {.kind = MachineEvent::Kind::kReset, .detail = "triple fault: " + detail};
    case GuestEnd::kFailed:
      break;
  }
  return {.kind = MachineEvent::Kind::kDied, .detail = detail};
}

}  // namespace

KvmMachine::KvmMachine(boost::asio::io_context& loop, BootSpec spec, KvmMachineOptions options)
    : loop_(loop),
      spec_(std::move(spec)),
      options_(std::move(options)),
      frames_(*this),
      bell_(loop),
      doorbell_(loop),
      look_at_writes_(loop) {
  command_line_ =
      join_kernel_arguments(all_kernel_arguments(spec_, frames_.guest_address()), spec_.command_line);
}

KvmMachine::~KvmMachine() {
  state_ = State::kEnded;
  end_vcpus();
}

// ---------------------------------------------------------------------------------------------------------------------
// Calls

Expected<void> KvmMachine::start() {
  if (state_ != State::kCreated) return fail(ErrorCode::kHost, "the machine was started already");
  if (auto built = build(); !built) {
    stop();
    return propagate(std::move(built.error()), "starting the kvm machine");
  }
  if (guest_->times) {
    guest_clock_.hold_times(*guest_->times);
    if (auto released = guest_clock_.release(guest_->vm, guest_->vcpus); !released) {
      stop();
      return propagate(std::move(released.error()), "starting a clone's clock");
    }
  }
  state_ = State::kRunning;
  threads_->go();
  arm_look_at_writes();
  // For what the base's guest had left in its queues, and kicks for them that nobody has seen.
  if (guest_->times) bell_.ring();
  return {};
}

Expected<void> KvmMachine::build() {
  if (auto enough = check_host_memory(spec_.memory_bytes, host_memory()); !enough) return enough;
  if (auto opened = bell_.open(-1, [this] { on_bell(); }); !opened) return opened;
  auto guest = build_guest(spec_, command_line_.text, options_.host_use,
                           {.power_off = on_vcpu([this] { post({.end = GuestEnd::kPoweredOff}); }),
                            .reset = on_vcpu([this] { post({.end = GuestEnd::kReset}); }),
                            .attention = on_vcpu([this] { bell_.ring(); })});
  if (!guest) return std::unexpected(std::move(guest.error()));
  guest_ = *std::move(guest);
  warnings_.insert(warnings_.end(), guest_->warnings.begin(), guest_->warnings.end());
  guest_->console->set_receiver(kHvcPort, [this](std::span<const std::byte> bytes) {
    if (console_receiver_) console_receiver_(ConsolePort::kHvc, bytes);
  });
  guest_->console->set_receiver(kFramesPort,
                                [this](std::span<const std::byte> bytes) { frames_.receive(bytes); });
  if (auto opened = doorbell_.open(guest_->console_doorbell.get(), [this] { on_bell(); }); !opened)
    return opened;
  exits_ = std::make_unique<VcpuExits>(
      *guest_, traps_,
      ExitCallbacks{.ended = on_vcpu([this](std::uint32_t cpu, GuestEnd end, std::string detail) {
                      post({.cpu = cpu, .end = end, .detail = std::move(detail)});
                    }),
                    .trapped = on_vcpu(
                        [this](std::uint32_t cpu, const TrapHit& hit) { post({.cpu = cpu, .hit = hit}); })});
  threads_ = std::make_unique<VcpuThreads>();
  auto started = threads_->start(
      guest_->vcpus,
      [this](Vcpu& vcpu, int error) {
        const auto next = exits_->handle(vcpu, error);
        if (traps_wait_ && next == VcpuThreads::Next::kRun) look_for_sites(vcpu);
        return next;
      },
      {.host_cpus = options_.host_use.vcpu_cpus, .fifo_priority = options_.host_use.fifo_priority});
  if (!started) return started;
  clock_ = VcpuClock(getpid(), threads_->thread_ids());
  return trap_addresses_.empty() && watchpoints_.empty() ? Expected<void>() : apply_traps();
}

Expected<PauseReport> KvmMachine::pause(std::chrono::nanoseconds limit) {
  if (state_ == State::kPaused) return pause_;
  if (state_ != State::kRunning) return fail(ErrorCode::kHost, "cannot pause: the machine does not run");
  threads_->hold();
  pause_ = threads_->wait_parked(limit);
  state_ = State::kPaused;
  if (pause_.missing.empty()) hold_clock();
  return pause_;
}

void KvmMachine::hold_clock() {
  guest_->coalesced.drain();
  pause_.clock_held = GuestClock::described(guest_clock_.hold(guest_->vm, guest_->vcpus));
}

Expected<void> KvmMachine::resume() {
  if (state_ == State::kRunning) return {};
  if (state_ != State::kPaused) return fail(ErrorCode::kHost, "cannot resume: the machine has ended");
  if (trapped_cpu_) {
    const std::uint32_t cpu = *std::exchange(trapped_cpu_, std::nullopt);
    if (auto passed = traps_.pass(guest_->vcpus[cpu], guest_->ram_view); !passed) return passed;
  }
  // The guest's time goes on where it stood. (KVM's went on; a guest that saw the gap would find its tasks
  // stalled.)
  if (auto released = guest_clock_.release(guest_->vm, guest_->vcpus); !released) return released;
  const bool more_writes = pause_.missing.empty() && forget_hits();
  state_ = State::kRunning;
  threads_->go();
  if (more_writes) threads_->hold();
  // For what devices have put off.
  bell_.ring();
  return {};
}

Machine::SnapshotTerms KvmMachine::snapshot_terms() const {
  std::string flags;
  for (const std::string& flag : host_cpu_flags()) flags += flag + " ";
  SnapshotTerms terms{.state_version = kKvmStateVersion,
                      .host = {{"CPU", host_cpu_model()}, {"CPU flags", Xxh3::hex_of(flags)}}};
  // CPUID says so.
  if (has_realtime_hint(spec_.topology, options_.host_use)) terms.host["pinned vCPUs"] = "yes";
  utsname names{};
  if (::uname(&names) == 0) terms.host["kernel"] = names.release;
  return terms;
}

Expected<std::string> KvmMachine::save(const SnapshotFiles& files) {
  if (state_ != State::kPaused) return fail(ErrorCode::kHost, "only a paused guest can be saved");
  if (!pause_.missing.empty())
    return fail(ErrorCode::kHost, "cannot save the guest: not all vCPUs could be stopped");
  {
    const std::lock_guard lock(messages_mutex_);
    if (std::ranges::any_of(messages_, [](const Message& message) { return message.end.has_value(); }))
      return fail(ErrorCode::kHost, "cannot save the guest: it has just ended");
    // The instruction is done, so that a clone would never tell of it.
    if (std::ranges::any_of(messages_,
                            [](const Message& message) { return message.hit && message.hit->watchpoint; }))
      return fail(ErrorCode::kHost, "cannot save the guest: it has just written to what is watched");
  }
  const auto times = guest_clock_.times(guest_->vcpus);
  if (!times) return std::unexpected(times.error());
  v1::KvmState state;
  if (auto saved = save_kvm_state(*guest_, *times, state); !saved)
    return std::unexpected(std::move(saved.error()));
  if (auto written = write_kvm_state(state, files.state.get()); !written)
    return std::unexpected(std::move(written.error()));
  // Traps are the machine's, not the guest's.
  traps_.lift(guest_->ram_view);
  auto saved = guest_->ram.save(files.ram.get());
  traps_.put_back(guest_->ram_view);
  return saved;
}

void KvmMachine::stop() {
  const bool had_more_to_say = alive() && guest_ && threads_;
  // The receiver that is called below may call this again.
  state_ = State::kEnded;
  if (had_more_to_say) {
    threads_->hold();
    [[maybe_unused]] const auto parked = threads_->wait_parked(kLastWordsLimit);
    drain_serial();
  }
  end_vcpus();
}

void KvmMachine::end_vcpus() {
  bell_.close();
  doorbell_.close();
  look_at_writes_.cancel();
  if (threads_ && !threads_->end()) {
    // A vCPU is still in KVM_RUN and uses all of it, or has an exit answered and may call us when that is
    // done.
    const std::lock_guard lock(there_->mutex);
    there_->machine = false;
    [[maybe_unused]] KvmGuest* const guest = guest_.release();
    [[maybe_unused]] VcpuExits* const exits = exits_.release();
    [[maybe_unused]] VcpuThreads* const threads = threads_.release();
    warnings_.emplace_back("a vCPU did not stop: its thread and the guest's memory stay until ktstr-vm ends");
    return;
  }
  threads_.reset();
  // A receiver that stops the machine is called from within the console, which therefore has to live a little
  // longer.
  if (serving_) retired_ = std::move(guest_);
  guest_.reset();
}

bool KvmMachine::serve_console() {
  serving_ = true;
  const bool more = guest_->console_registers->service();
  serving_ = false;
  retired_.reset();
  return more;
}

std::vector<RamRegion> KvmMachine::ram() const {
  return guest_ ? guest_->ram.regions() : std::vector<RamRegion>();
}

Expected<VcpuRegisters> KvmMachine::registers(std::uint32_t cpu) {
  if (!guest_ || state_ == State::kRunning)
    return fail(ErrorCode::kHost, "registers can be read of a paused machine only");
  if (cpu >= guest_->vcpus.size()) return fail(ErrorCode::kUsage, fmt::format("there is no vCPU {}", cpu));
  if (!threads_->parked(cpu)) return fail(ErrorCode::kHost, fmt::format("vCPU {} has not stopped", cpu));
  return guest_->vcpus[cpu].registers();
}

MachineStatistics KvmMachine::statistics() const {
  MachineStatistics statistics;
  if (!guest_ || !threads_ || !exits_) return statistics;
  statistics.first_run = threads_->first_run();
  statistics.exits = exits_->counts();
  statistics.vcpus = clock_.read_each();
  for (std::size_t i = 0; i < std::min(statistics.vcpus.size(), guest_->statistics.size()); ++i)
    statistics.vcpus[i].counters = guest_->statistics[i].read();
  return statistics;
}

Expected<void> KvmMachine::Frames::send(std::string_view bytes) {
  if (!machine_.alive()) return fail(ErrorCode::kHost, "cannot send to the guest: the machine does not run");
  return machine_.guest_->console->send(kFramesPort, bytes);
}

// ---------------------------------------------------------------------------------------------------------------------
// What happens by itself

// On a vCPU's thread. The others are asked to stop at once, not when the loop gets to it; and before the loop
// hears of it, so that a message of machine that is not held is an old one.
void KvmMachine::post(Message message) {
  threads_->hold();
  {
    const std::lock_guard lock(messages_mutex_);
    messages_.push_back(std::move(message));
  }
  bell_.ring();
}

void KvmMachine::on_bell() {
  if (!alive()) return;
  if (state_ == State::kRunning && !drain()) return;
  std::vector<Message> messages;
  {
    const std::lock_guard lock(messages_mutex_);
    messages.swap(messages_);
  }
  // The end of the guest comes before its traps.
  for (const Message& message : messages)
    if (message.end) return finish(message);
  // Those that have hit besides the first are held before their traps, and hit again when they run; so do
  // those that hit while the machine was being paused.
  if (std::ranges::any_of(messages, [](const Message& message) { return !message.hit; })) {
    keep_writes(messages);
    return set_waiting_traps();
  }
  const bool announce_first = !messages.empty() && state_ == State::kRunning && threads_->held();
  // Those that have written do not do it again: their turn comes after the next resume.
  keep_writes(std::span(messages).subspan(announce_first ? 1 : 0));
  if (announce_first) on_hit(messages.front());
}

bool KvmMachine::drain() {
  drain_serial();
  if (!alive()) return false;
  const bool more = serve_console();
  if (!alive()) return false;
  if (more) bell_.ring();
  // The driver would wait for its buffers for ever.
  if (const auto error = guest_->console_registers->error()) {
    finish({.end = GuestEnd::kFailed,
            .detail = "the guest's driver broke the rules of its virtio console: " + *error});
    return false;
  }
  return true;
}

// Not with a bell for each write, because there is no exit that could ring it. A kernel's console ends each
// message with an access that is an exit (the line status), so this finds something only with other guests.
void KvmMachine::arm_look_at_writes() {
  look_at_writes_.expires_after(kLookAtWrites);
  look_at_writes_.async_wait([this](const boost::system::error_code& error) {
    if (error || !alive()) return;
    guest_->coalesced.drain();
    arm_look_at_writes();
  });
}

void KvmMachine::drain_serial() {
  guest_->coalesced.drain();
  const std::string output = guest_->serial->take_output();
  if (guest_->serial->dropped() > 0 && !console_lost_) {
    console_lost_ = true;
    warnings_.emplace_back("the guest wrote faster to its console than it could be read: a part is lost");
  }
  if (!output.empty() && console_receiver_)
    console_receiver_(ConsolePort::kSerial, std::as_bytes(std::span(output)));
}

void KvmMachine::finish(const Message& message) {
  threads_->hold();
  pause_ = threads_->wait_parked(kRendezvousLimit);
  drain_serial();
  for (int round = 0; alive() && round < kMaxDrainRounds && serve_console(); ++round) {
  }
  if (!alive()) return;
  state_ = State::kEnded;
  announce(ending(*message.end, message.detail));
}

void KvmMachine::announce(const MachineEvent& event) {
  if (event_receiver_) event_receiver_(event);
}

}  // namespace ktstr::kvm
