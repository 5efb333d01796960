#include "host/machine/tcg/tcg_machine.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include <boost/asio/post.hpp>
#include <fmt/core.h>

#include "common/quote.h"
#include "common/sparse_file.h"
#include "common/wait_status.h"
#include "host/machine/host_resources.h"
#include "host/machine/tcg/emulator_output.h"
#include "host/machine/tcg/pc_memory.h"
#include "host/machine/tcg/qemu_command.h"
#include "host/machine/tcg/register_text.h"
#include "host/machine/tcg/tcg_snapshot.h"

namespace ktstr {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

// QEMU answers within milliseconds; on a host with a hundred of these machines it may take seconds.
constexpr auto kStartLimit = seconds(60);
constexpr auto kCommandLimit = seconds(20);
constexpr auto kSaveLimit = seconds(60);
constexpr auto kExitLimit = seconds(5);
// For handing on what a guest has left behind.
constexpr auto kSettleLimit = seconds(10);
// Steps that may fail to move a vCPU; two in a row are rare.
constexpr int kMaxSteps = 100;
constexpr std::size_t kMaxDrain = std::size_t{64} << 20;

// The string at `key` of a QMP object, "" when there is none.
std::string text_of(const nlohmann::json& object, const char* key) {
  if (!object.is_object()) return {};
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string{};
}

// A SHUTDOWN event (QEMU qapi/run-state.json) as the rest of the program sees it.
MachineEvent ending(const QmpEvent& shutdown) {
  const std::string reason = text_of(shutdown.data, "reason");
  if (reason == "guest-shutdown") return {MachineEvent::Kind::kPoweredOff, "the guest powered off"};
  if (reason == "guest-reset") return {MachineEvent::Kind::kReset, "the guest rebooted"};
  return {MachineEvent::Kind::kDied, fmt::format("QEMU ended for the reason {}", quote(reason))};
}

// The console has to come first: messages before it are lost.
std::vector<KernelArgument> all_kernel_arguments(const BootSpec& spec, const FrameLink& frames) {
  // Under the instruction clock the TSC counts guest nanoseconds (QEMU system/cpu-timers.c, cpu_get_ticks),
  // and nothing that was measured on the host may get into the guest.
  const HostTsc tsc = spec.deterministic ? HostTsc{.steady = true, .hertz = 1e9} : measure_host_tsc();
  auto arguments = tcg_kernel_arguments(tsc, spec.kernel_hz, frames.guest_address());
  arguments.insert(arguments.end(), spec.kernel_arguments.begin(), spec.kernel_arguments.end());
  return arguments;
}

std::unique_ptr<TcgFrameLink> make_frame_link(const BootSpec& spec) {
  if (spec.deterministic) return std::make_unique<DebugPortFrameLink>();
  return std::make_unique<VirtioFrameLink>();
}

}  // namespace

Expected<std::unique_ptr<Machine>> TcgMachine::create(boost::asio::io_context& loop, BootSpec spec,
                                                      bool single_thread) {
  if (auto limits = check_pc_limits(spec); !limits) return std::unexpected(std::move(limits.error()));
  auto qemu = find_qemu(default_qemu_places());
  if (!qemu) return std::unexpected(std::move(qemu.error()));
  if (spec.deterministic && !qemu->multi_thread_safe()) {
    return fail(
        ErrorCode::kUsage,
        fmt::format("a deterministic run needs QEMU 10 or newer, and {} is {}; scripts/fetch-qemu gets one",
                    qemu->path, qemu->version));
  }
  return std::make_unique<TcgMachine>(loop, std::move(spec), std::move(*qemu), single_thread);
}

TcgMachine::TcgMachine(boost::asio::io_context& loop, BootSpec spec, Qemu qemu, bool single_thread)
    : loop_(loop),
      spec_(std::move(spec)),
      qemu_(std::move(qemu)),
      frames_(make_frame_link(spec_)),
      command_line_(join_kernel_arguments(all_kernel_arguments(spec_, *frames_), spec_.command_line)),
      qmp_watch_(loop),
      exit_watch_(loop),
      self_(std::make_shared<TcgMachine*>(this)) {
  if (!qemu_.multi_thread_safe()) {
    warnings_.push_back(fmt::format(
        "QEMU {} is older than 10: all vCPUs share one host thread; scripts/fetch-qemu gets a newer one",
        qemu_.version));
  }
  argv_ = qemu_command(spec_, {.binary = qemu_.path,
                               .firmware_folders = qemu_.firmware_folders,
                               .single_thread = single_thread || !qemu_.multi_thread_safe(),
                               .command_line = command_line_.text});
}

TcgMachine::~TcgMachine() {
  TcgMachine::stop();
}

// ---------------------------------------------------------------------------------------------------------------------
// Start

Expected<void> TcgMachine::start() {
  if (state_ != State::kCreated) return fail(ErrorCode::kHost, "a machine is started only once");
  auto started = launch();
  if (!started) {
    stop();
    return propagate(std::move(started.error()), "starting the tcg machine");
  }
  return {};
}

Expected<void> TcgMachine::launch() {
  auto qemu = launch_qemu(spec_, argv_);
  if (!qemu) return std::unexpected(std::move(qemu.error()));
  child_ = std::move(qemu->child);
  memory_ = std::move(qemu->memory);
  state_file_ = std::move(qemu->state);
  if (memory_) ram_ = memory_->regions();
  return connect(*qemu);
}

Expected<void> TcgMachine::connect(LaunchedQemu& qemu) {
  const auto console = [this](ConsolePort port) {
    return [this, port](std::span<const std::byte> bytes) {
      if (console_receiver_) console_receiver_(port, bytes);
    };
  };
  // QEMU's own output first: it explains a failure of everything below.
  auto opened = open_port(std::move(child_->output()),
                          [this](std::span<const std::byte> bytes) { append_output(output_, bytes); });
  if (opened) opened = open_port(std::move(qemu.serial), console(ConsolePort::kSerial));
  if (opened) opened = open_port(std::move(qemu.hvc), console(ConsolePort::kHvc));
  if (opened) {
    opened = open_port(std::move(qemu.frames),
                       [this](std::span<const std::byte> bytes) { frames_->receive(bytes); });
  }
  if (!opened) return std::unexpected(std::move(opened.error()));
  frames_->attach(*opened);
  qmp_.emplace(std::move(qemu.qmp));
  traps_.connect(std::move(qemu.gdb),
                 spec_.deterministic ? GuestTraps::StepTimers::kStand : GuestTraps::StepTimers::kRun);

  if (auto ready = begin_guest(); !ready) return std::unexpected(startup_error(std::move(ready.error())));
  for (const auto& port : ports_) port->start();
  if (auto watched = watch(qmp_watch_, qmp_->fd(), &TcgMachine::on_qmp_readable); !watched) return watched;
  return watch(exit_watch_, child_->pidfd(), &TcgMachine::on_process_end);
}

Expected<void> TcgMachine::begin_guest() {
  if (auto greeted = qmp_->handshake(kStartLimit); !greeted) return greeted;
  const auto cpus = qmp_->execute("query-cpus-fast", {}, kCommandLimit);
  if (!cpus) return std::unexpected(cpus.error());
  std::vector<pid_t> threads;
  for (const auto& cpu : *cpus) {
    const auto tid = cpu.is_object() ? cpu.find("thread-id") : cpu.end();
    if (tid != cpu.end() && tid->is_number_integer()) threads.push_back(tid->get<pid_t>());
  }
  if (auto had = check_cpu_flags(cpus->empty() ? nlohmann::json() : cpus->front()); !had) return had;
  clock_ = VcpuClock(child_->pid(), threads);
  registers_.assign(spec_.topology.cpus(), std::nullopt);
  if (spec_.deterministic) {
    if (auto kept = keep_on_one_cpu(); !kept) return kept;
  }
  if (spec_.snapshot) {
    if (auto loaded = load_snapshot(); !loaded) return loaded;
  }
  if (auto set = traps_.apply(kCommandLimit); !set) return set;
  return go_on();
}

Expected<void> TcgMachine::load_snapshot() {
  if (auto loaded = load_devices(*qmp_, kStartLimit); !loaded) return loaded;
  const auto sizes = node_memory(spec_.topology, spec_.memory_bytes);
  if (!sizes) return std::unexpected(sizes.error());
  auto ram = private_ram(*qmp_, child_->pid(), *sizes, kCommandLimit);
  if (!ram) return std::unexpected(std::move(ram.error()));
  ram_ = *std::move(ram);
  return {};
}

// The state is in QEMU's format, for which the emulator's version stands. A guest's TSC is the host's.
Machine::SnapshotTerms TcgMachine::snapshot_terms() const {
  return {.state_version = 1, .host = {{"CPU", host_cpu_model()}}};
}

Expected<std::string> TcgMachine::save(const SnapshotFiles& files) {
  if (spec_.deterministic)
    return fail(ErrorCode::kUsage,
                "a deterministic guest cannot be saved: clones of it are not deterministic");
  if (spec_.snapshot)
    return fail(ErrorCode::kUsage, "a clone is not saved again: its memory is its emulator's");
  if (!qemu_.multi_thread_safe())
    return fail(ErrorCode::kUsage,
                fmt::format("QEMU {} cannot save a guest to a file, QEMU 10 can", qemu_.version));
  if (state_ != State::kPaused) return fail(ErrorCode::kHost, "only a paused guest can be saved");
  const auto sizes = node_memory(spec_.topology, spec_.memory_bytes);
  if (!sizes) return std::unexpected(sizes.error());
  auto saved = save_devices(*qmp_, kSaveLimit);
  handle_events_later();
  if (saved) saved = copy_file(state_file_.get(), files.state.get());
  if (!saved) return std::unexpected(std::move(saved.error()));
  SparseWriter ram(files.ram.get());
  for (std::size_t node = 0; node < sizes->size(); ++node) {
    if (auto copied = ram.append_file(memory_->files()[node].get(), (*sizes)[node]); !copied)
      return propagate(std::move(copied.error()), "writing guest RAM");
  }
  auto contents = ram.finish();
  if (!contents) return propagate(std::move(contents.error()), "writing guest RAM");
  return std::move(contents->checksum);
}

Expected<void> TcgMachine::keep_on_one_cpu() {
  auto taken = OneHostCpu::take();
  if (!taken) return std::unexpected(std::move(taken.error()));
  host_cpu_ = *std::move(taken);
  return host_cpu_->confine(child_->pid());
}

// What tcg does not emulate, QEMU only warns of, and leaves out.
Expected<void> TcgMachine::check_cpu_flags(const nlohmann::json& cpu) {
  const auto path = cpu.is_object() ? cpu.find("qom-path") : cpu.end();
  for (const std::string& flag : spec_.cpu_flags) {
    if (!flag.starts_with('+') || path == cpu.end()) continue;
    const auto value =
        qmp_->execute("qom-get", {{"path", *path}, {"property", flag.substr(1)}}, kCommandLimit);
    if (!value || !value->is_boolean() || !value->get<bool>())
      return fail(ErrorCode::kUsage, fmt::format("--cpu-flags: the emulated CPU cannot have {}", flag));
  }
  return {};
}

Error TcgMachine::startup_error(Error&& error) {
  // Only a closed connection means that the process is about to end.
  const auto status =
      child_->reap(error.errno_value() == ECONNRESET ? milliseconds(kExitLimit) : milliseconds(0));
  for (const auto& port : ports_) port->drain(kMaxDrain);
  const std::string words = emulator_words(output_);
  if (!status) return std::move(std::move(error).with_detail(words));
  if (error.code() == ErrorCode::kUsage) return std::move(error);
  if (complains_about_cpu_flag(words))
    return {ErrorCode::kUsage, "--cpu-flags: QEMU knows no such flag: " + first_line(words)};
  const bool image = complains_about_image(words);
  std::string message = image ? fmt::format("QEMU cannot boot this kernel image: {}", first_line(words))
                              : fmt::format("QEMU did not start ({})", describe_exit(*status));
  return std::move(
      Error(image ? ErrorCode::kUsage : ErrorCode::kHost, std::move(message)).with_detail(words));
}

Expected<std::shared_ptr<StreamPort>> TcgMachine::open_port(UniqueFd fd, StreamPort::Receiver receiver) {
  auto port = StreamPort::create(loop_, std::move(fd), std::move(receiver));
  if (port) ports_.push_back(*port);
  return port;
}

Expected<void> TcgMachine::watch(boost::asio::posix::stream_descriptor& watcher, int fd,
                                 void (TcgMachine::*on_ready)()) {
  UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  boost::system::error_code error;
  if (copy) watcher.assign(copy.get(), error);
  if (!copy || error) return fail(ErrorCode::kHost, "cannot watch QEMU's descriptors");
  (void)copy.release();
  rewatch(watcher, on_ready);
  return {};
}

void TcgMachine::rewatch(boost::asio::posix::stream_descriptor& watcher, void (TcgMachine::*on_ready)()) {
  if (!watcher.is_open()) return;
  watcher.async_wait(boost::asio::posix::descriptor_base::wait_read,
                     [weak = std::weak_ptr(self_), on_ready](const boost::system::error_code& error) {
                       const auto self = weak.lock();
                       if (!error && self) ((*self)->*on_ready)();
                     });
}

// ---------------------------------------------------------------------------------------------------------------------
// What happens by itself

void TcgMachine::on_qmp_readable() {
  if (!alive()) return;
  const auto pumped = qmp_->pump();
  handle_events();
  if (!alive()) return;
  if (pumped) {
    rewatch(qmp_watch_, &TcgMachine::on_qmp_readable);
  } else if (pumped.error().errno_value() != ECONNRESET) {
    finish({MachineEvent::Kind::kDied, pumped.error().to_string()});
  }
  // A closed connection: the process is about to end, and exit_watch_ will say how.
}

void TcgMachine::on_process_end() {
  if (!alive()) return;
  // A SHUTDOWN event may be among the last words. That the connection ends is no news here.
  [[maybe_unused]] const auto pumped = qmp_->pump();
  handle_events();
  if (!alive()) return;
  const auto status = child_->reap(kExitLimit);
  drain_ports();
  if (!alive()) return;
  std::string detail =
      fmt::format("QEMU ended by itself ({})", status ? describe_exit(*status) : "unknown how");
  if (const std::string words = emulator_words(output_); !words.empty()) detail += ":\n" + words;
  finish({MachineEvent::Kind::kDied, std::move(detail)});
}

void TcgMachine::handle_events() {
  for (QmpEvent& event : qmp_->take_events()) events_.push_back(std::move(event));
  for (const QmpEvent& event : std::exchange(events_, {})) {
    if (!alive()) return;
    if (event.name == "SHUTDOWN") {
      finish(ending(event));
    } else if (event.name == "STOP" && own_stop_pending_) {
      own_stop_pending_ = false;
    } else if (event.name == "STOP" && state_ == State::kRunning) {
      on_stop();
    }
  }
  // What came while we asked QEMU something.
  if (alive()) handle_events_later();
}

void TcgMachine::on_stop() {
  const auto status = qmp_->execute("query-status", {}, kCommandLimit);
  const std::string word = status ? text_of(*status, "status") : "unknown";
  // A shutdown stops the machine too, and its STOP comes first. And when the guest runs, this stop is
  // history.
  if (word == "shutdown" || word == "running") return;
  state_ = State::kPaused;
  if (word == "debug") return on_hit();
  announce({MachineEvent::Kind::kPaused, fmt::format("QEMU stopped the guest: {}", quote(word))});
}

void TcgMachine::on_hit() {
  const auto rips = instruction_pointers();
  if (!rips) {
    return announce({MachineEvent::Kind::kPaused,
                     "QEMU stopped the guest at a trap, nobody knows where: " + rips.error().to_string()});
  }
  const auto cpu = traps_.next_trapped(*rips, last_trapped_);
  if (!cpu) {
    // Nobody else sets breakpoints, so this is not expected; the guest need not stand still for it.
    if (auto going = go_on(); !going) {
      announce({MachineEvent::Kind::kPaused,
                "QEMU stopped the guest and does not continue it: " + going.error().to_string()});
    }
    return;
  }
  const std::uint64_t address = (*rips)[*cpu];
  trapped_ = Trapped{*cpu, address};
  last_trapped_ = *cpu;
  announce({MachineEvent::Kind::kTrapped, fmt::format("vCPU {} is at the trap {:#x}", *cpu, address), *cpu,
            address, empty_report(), "emulator's breakpoint"});
}

Expected<std::vector<std::uint64_t>> TcgMachine::instruction_pointers() {
  std::vector<std::uint64_t> rips;
  for (std::uint32_t cpu = 0; cpu < registers_.size(); ++cpu) {
    const auto regs = registers(cpu);
    if (!regs) return std::unexpected(regs.error());
    rips.push_back(regs->rip);
  }
  return rips;
}

void TcgMachine::handle_events_later() {
  if (!qmp_->has_events() && events_.empty()) return;
  boost::asio::post(loop_, [weak = std::weak_ptr(self_)] {
    const auto self = weak.lock();
    if (self && (*self)->alive()) (*self)->handle_events();
  });
}

void TcgMachine::drain_ports() {
  // A receiver may call stop, which closes the ports; the list itself stays.
  for (const auto& port : std::vector(ports_)) port->drain(kMaxDrain);
}

// The guest does not run any more, but its last bytes may be on their way: in a socket, or in QEMU, which
// waits for room in one. A command is answered by the same main loop that moves these bytes, so two rounds of
// "read everything, ask something" in which nothing came mean that there is nothing.
void TcgMachine::settle() {
  const auto deadline = Clock::now() + kSettleLimit;
  int quiet_rounds = 0;
  while (quiet_rounds < 2 && alive() && Clock::now() < deadline) {
    std::size_t moved = 0;
    for (const auto& port : std::vector(ports_)) moved += port->drain(kMaxDrain);
    if (!alive() || !qmp_->execute("query-status", {}, kCommandLimit)) break;
    quiet_rounds = moved == 0 ? quiet_rounds + 1 : 0;
  }
  if (alive()) drain_ports();
}

void TcgMachine::finish(const MachineEvent& event) {
  settle();
  if (!alive()) return;
  if (spec_.snapshot && event.kind != MachineEvent::Kind::kDied) {
    close_all();  // its RAM is in the emulator, which stands still until stop
  } else {
    end_process();
  }
  state_ = State::kEnded;
  announce(event);
}

void TcgMachine::announce(const MachineEvent& event) {
  if (event_receiver_) event_receiver_(event);
}

void TcgMachine::end_process() {
  if (child_) {
    (void)clock_.read();
    child_->kill();
  }
  close_all();
}

void TcgMachine::close_all() {
  boost::system::error_code ignored;
  qmp_watch_.close(ignored);
  exit_watch_.close(ignored);
  for (const auto& port : std::vector(ports_)) port->close();
  traps_.disconnect();
}

void TcgMachine::stop() {
  state_ = State::kEnded;
  end_process();
  ram_.clear();
  memory_.reset();
}

// ---------------------------------------------------------------------------------------------------------------------
// What is asked for

Expected<PauseReport> TcgMachine::pause(std::chrono::nanoseconds limit) {
  if (!alive()) return fail(ErrorCode::kHost, "cannot pause a machine that does not run");
  const auto begin = Clock::now();
  PauseReport report = empty_report();
  // QEMU answers when the last vCPU thread is parked (system/cpus.c, pause_all_vcpus).
  const auto stopped = qmp_->execute("stop", {}, limit);
  report.rendezvous = Clock::now() - begin;
  if (!stopped && stopped.error().errno_value() == ETIMEDOUT) {
    own_stop_pending_ = true;
    state_ = State::kPaused;
    // Which vCPU it is that does not park, QEMU does not say.
    for (std::uint32_t cpu = 0; cpu < spec_.topology.cpus(); ++cpu) report.missing.push_back(cpu);
    handle_events_later();
    return report;
  }
  if (!stopped) return std::unexpected(stopped.error());
  forget_own_stops();
  const auto status = qmp_->execute("query-status", {}, kCommandLimit);
  handle_events_later();
  if (!status) return std::unexpected(status.error());
  const std::string word = text_of(*status, "status");
  if (word == "shutdown") return fail(ErrorCode::kHost, "cannot pause: the guest has switched itself off");
  if (word == "running") return fail(ErrorCode::kHost, "QEMU says it stopped, and runs");
  state_ = State::kPaused;
  return report;
}

PauseReport TcgMachine::empty_report() const {
  PauseReport report;
  report.stopped_after.resize(spec_.topology.cpus());
  // system/cpus.c, do_vm_stop(): cpu_disable_ticks().
  report.clock_held = "the emulator's virtual clock";
  return report;
}

void TcgMachine::forget_own_stops() {
  for (QmpEvent& event : qmp_->take_events()) events_.push_back(std::move(event));
  std::erase_if(events_, [](const QmpEvent& event) { return event.name == "STOP"; });
}

Expected<void> TcgMachine::resume() {
  if (state_ == State::kRunning) return {};
  if (!alive()) return fail(ErrorCode::kHost, "cannot resume a machine that has ended");
  if (auto left = leave_trap(); !left) {
    handle_events_later();
    return left;
  }
  return go_on();
}

Expected<void> TcgMachine::leave_trap() {
  if (!trapped_ || !traps_.wanted(trapped_->address)) return {};
  const std::uint32_t cpu = trapped_->cpu;
  const auto before = registers(cpu);
  if (!before) return std::unexpected(before.error());
  // A step may have moved nothing (guest_traps.h). After that many it is an instruction that changes nothing.
  for (int i = 0; i < kMaxSteps; ++i) {
    if (auto stepped = step(cpu); !stepped) return stepped;
    const auto after = registers(cpu);
    if (!after) return std::unexpected(after.error());
    if (*after != *before) break;
  }
  trapped_.reset();
  return {};
}

Expected<void> TcgMachine::step(std::uint32_t cpu) {
  std::fill(registers_.begin(), registers_.end(), std::nullopt);
  const auto stepped = traps_.step(cpu, kCommandLimit);
  // An instruction that has not ended in time is running still.
  const auto status = qmp_->execute(stepped ? "query-status" : "stop", {}, kCommandLimit);
  forget_own_stops();
  if (!stepped) return stepped;
  if (!status) return std::unexpected(status.error());
  if (text_of(*status, "status") == "shutdown") {
    return fail(ErrorCode::kHost, "cannot resume: the guest has switched itself off");
  }
  return {};
}

Expected<void> TcgMachine::go_on() {
  traps_.settle();
  const auto going = qmp_->execute("cont", {}, kCommandLimit);
  handle_events_later();
  if (!going) return std::unexpected(going.error());
  std::fill(registers_.begin(), registers_.end(), std::nullopt);
  trapped_.reset();
  state_ = State::kRunning;
  return {};
}

Expected<void> TcgMachine::set_traps(std::vector<std::uint64_t> addresses) {
  if (state_ == State::kEnded) return fail(ErrorCode::kHost, "cannot set traps in a machine that has ended");
  if (auto accepted = traps_.want(std::move(addresses)); !accepted) return accepted;
  if (state_ == State::kCreated) return {};
  if (state_ == State::kPaused) {
    // A stop that is not done yet: the stub must not be spoken to before. QMP answers in order.
    const auto status =
        own_stop_pending_ ? qmp_->execute("query-status", {}, kCommandLimit) : nlohmann::json();
    handle_events_later();
    if (!status) return std::unexpected(status.error());
    return traps_.apply(kCommandLimit);
  }
  const auto paused = pause(kCommandLimit);
  if (!paused) return propagate(Error(paused.error()), "stopping the guest to set traps");
  auto applied = !paused->missing.empty()
                     ? fail(ErrorCode::kHost, "the guest does not stop to have traps set")
                     : traps_.apply(kCommandLimit);
  if (auto going = go_on(); !going) return going;
  return applied;
}

Expected<VcpuRegisters> TcgMachine::registers(std::uint32_t cpu) {
  if (state_ != State::kPaused)
    return fail(ErrorCode::kHost, "registers can be read of a paused machine only");
  if (cpu >= registers_.size()) {
    return fail(ErrorCode::kHost,
                fmt::format("there is no vCPU {}, the machine has {}", cpu, registers_.size()));
  }
  if (registers_[cpu]) return *registers_[cpu];
  const auto text = qmp_->execute("human-monitor-command",
                                  {{"command-line", "info registers"}, {"cpu-index", cpu}}, kCommandLimit);
  handle_events_later();
  if (!text) return std::unexpected(text.error());
  if (!text->is_string()) return fail(ErrorCode::kHost, "QEMU answers `info registers` with no text");
  auto parsed = parse_register_text(text->get_ref<const std::string&>());
  if (parsed) registers_[cpu] = *parsed;
  return parsed;
}

}  // namespace ktstr
