// Traps, stops and the guest's clocks, with a real kernel. The trap is at __sys_setregid(rgid, egid), which
// nobody but the test's PID 1 calls, with arguments that say which call it is (guest_init.c).
#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <sstream>
#include <thread>

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "host/kernel/symbol_sources.h"
#include "host/machine/kvm/kvm_traps.h"
#include "host/machine/tcg/tcg_machine.h"
#include "tests/vm/machine/machine_harness.h"

namespace ktstr::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;
using Kind = MachineEvent::Kind;

// Some processors, emulated ones, lose hits of breakpoints (host/machine/kvm/kvm_traps.h).
#define KTSTR_NEEDS_EVERY_HIT()                                                     \
  if (test_accel() == AccelChoice::kKvm && test_traps() == TrapKind::kBreakpoint && \
      !kvm::breakpoint_defect().empty())                                            \
  GTEST_SKIP() << kvm::breakpoint_defect()

// Whether a trap may be at any instruction: a port trap needs a call site of the function tracer.
bool traps_go_anywhere() {
  if (test_accel() != AccelChoice::kKvm) return true;
  return test_traps() ? *test_traps() == TrapKind::kBreakpoint : kvm::breakpoint_defect().empty();
}

double milliseconds_of(std::chrono::nanoseconds time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

std::chrono::nanoseconds median(std::vector<std::chrono::nanoseconds> times) {
  std::sort(times.begin(), times.end());
  return times.empty() ? std::chrono::nanoseconds(0) : times[times.size() / 2];
}

struct Opened {
  KernelImage kernel;
  KernelSymbols symbols;
};

class TrapTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!opened()) GTEST_SKIP() << "KTSTR_TEST_KERNEL_72 does not name a kernel folder";
  }
  static std::optional<Opened>& opened() {
    static std::optional<Opened> all = open();
    return all;
  }
  static std::optional<Opened> open() {
    auto kernel = test_kernel();
    if (!kernel) return std::nullopt;
    auto symbols = find_symbols(*kernel);
    EXPECT_TRUE(symbols) << symbols.error().to_string();
    if (!symbols) return std::nullopt;
    return Opened{std::move(*kernel), std::move(*symbols)};
  }
  // nokaslr: where it was linked is where it runs.
  static std::uint64_t address(const char* name) {
    const auto found = opened()->symbols.table.address(name);
    EXPECT_TRUE(found) << found.error().to_string();
    return found.value_or(0);
  }
  static std::uint64_t setregid() { return address("__sys_setregid"); }
  static BootSpec spec(const std::string& what, std::uint32_t cpus = 2) {
    BootSpec boot = test_boot_spec(opened()->kernel, what);
    boot.topology.cores_per_llc = cpus;
    return boot;
  }
};

// The next event, or nothing when none comes.
std::optional<MachineEvent> next_event(MachineUnderTest& machine, std::size_t& seen) {
  if (!machine.run_until([&] { return machine.events.size() > seen; })) return std::nullopt;
  return machine.events[seen++];
}

// One hit of the trap at `trap`: what holds for all of them. Returns the arguments.
struct Call {
  std::uint64_t rgid = 0;
  std::uint64_t egid = 0;
};
Call check_hit(MachineUnderTest& machine, const MachineEvent& event, std::uint64_t trap, std::uint32_t cpus) {
  EXPECT_EQ(event.kind, Kind::kTrapped) << event.detail;
  EXPECT_EQ(event.address, trap);
  EXPECT_TRUE(event.pause.missing.empty());
  EXPECT_EQ(event.pause.stopped_after.size(), cpus);
  EXPECT_LT(event.cpu, cpus);
  for (std::uint32_t cpu = 0; cpu < cpus; ++cpu) {
    const auto regs = machine->registers(cpu);
    EXPECT_TRUE(regs) << regs.error().to_string();
    if (regs && cpu == event.cpu) {
      EXPECT_EQ(regs->rip, trap);
      EXPECT_EQ(regs->rdi, 1000 + event.cpu);
      return {regs->rdi, regs->rsi};
    }
  }
  return {};
}

// The guest makes 20 calls on each vCPU; every one of them has to be seen, once and in order.
void count_every_call(BootSpec boot, std::uint64_t trap, MachineOptions options = {}) {
  const std::uint32_t cpus = boot.topology.cpus();
  MachineUnderTest machine(std::move(boot), std::move(options));
  ASSERT_TRUE(machine->set_traps({trap}));
  ASSERT_TRUE(machine.start());
  std::vector<std::uint64_t> calls(cpus, 0);
  std::vector<std::chrono::nanoseconds> resumes, turns;
  auto last = Clock::now();
  std::size_t seen = 0;
  while (true) {
    const auto event = next_event(machine, seen);
    ASSERT_TRUE(event) << machine.state();
    if (event->kind == Kind::kPoweredOff) break;
    turns.push_back(Clock::now() - last);
    const Call call = check_hit(machine, *event, trap, cpus);
    ASSERT_FALSE(::testing::Test::HasFailure()) << event->detail << machine.serial;
    EXPECT_EQ(call.egid, 100 + calls[event->cpu]) << "vCPU " << event->cpu;
    ++calls[event->cpu];
    const auto begin = Clock::now();
    const auto resumed = machine->resume();
    ASSERT_TRUE(resumed) << resumed.error().to_string();
    resumes.push_back(Clock::now() - begin);
    last = begin;
  }
  EXPECT_EQ(calls, std::vector<std::uint64_t>(cpus, 20));
  EXPECT_NE(machine.serial.find(fmt::format("CALLED {}\r\n", 20 * cpus)), std::string::npos)
      << machine.serial;
  fmt::print("{} vCPUs: resume {:.2f} ms, from resume to the next hit {:.2f} ms (medians)\n", cpus,
             milliseconds_of(median(resumes)), milliseconds_of(median(turns)));
}

TEST_F(TrapTest, EveryCallIsSeenOnOneVcpu) {
  count_every_call(spec("calls", 1), setregid());
}

TEST_F(TrapTest, EveryCallIsSeenOnTwoVcpus) {
  KTSTR_NEEDS_EVERY_HIT();
  count_every_call(spec("calls", 2), setregid());
}

TEST_F(TrapTest, EveryCallIsSeenWithOneThreadForAllVcpus) {
  KTSTR_TCG_ONLY();
  count_every_call(spec("calls", 2), setregid(), {.single_thread = true});
}

TEST_F(TrapTest, EveryCallIsSeenInADeterministicGuest) {
  KTSTR_TCG_ONLY();
  BootSpec boot = spec("calls", 2);
  boot.deterministic = DeterministicClock{};
  count_every_call(std::move(boot), setregid());
}

// What a machine chooses by itself is what sees every hit.
TEST_F(TrapTest, AMachineThatChoosesSaysWhyNotBreakpoints) {
  if (test_accel() != AccelChoice::kKvm || test_traps()) GTEST_SKIP() << "of a kvm machine that chooses";
  const std::string defect = kvm::breakpoint_defect();
  MachineUnderTest machine(spec("calls", 1));
  ASSERT_TRUE(machine->set_traps({setregid()}));
  ASSERT_TRUE(machine.start());
  bool said = false;
  for (const std::string& one : machine->warnings())
    said = said || one == defect + ": traps are written into the kernel's code";
  EXPECT_EQ(said, !defect.empty()) << defect;
}

// Seconds of CLOCK_MONOTONIC in the last whole line "BEAT n seconds".
double last_beat(const std::string& serial) {
  const std::size_t end = serial.rfind("\r\n");
  const std::size_t at = serial.rfind("BEAT ", end);
  if (end == std::string::npos || at == std::string::npos) return 0;
  return std::strtod(serial.c_str() + serial.find(' ', at + 5), nullptr);
}

// In the timer's interrupt the vCPU has no timer, and the other one is idle: QEMU takes such a guest, while
// it is being stopped, for one that waits for the next thing to come, be it the date's alarm at midnight.
TEST_F(TrapTest, TheInstructionClockDoesNotLeapAtATrapInTheTimersInterrupt) {
  KTSTR_TCG_ONLY();
  BootSpec boot = spec("beat");
  boot.deterministic = DeterministicClock{};
  MachineUnderTest machine(std::move(boot));
  ASSERT_TRUE(machine.start());
  ASSERT_TRUE(machine.run_until_serial("BEAT 3 "));
  ASSERT_TRUE(machine->set_traps({address("hrtimer_interrupt")}));
  std::size_t seen = 0;
  constexpr int kHits = 30;
  for (int i = 0; i < kHits; ++i) {
    const auto event = next_event(machine, seen);
    ASSERT_TRUE(event && event->kind == Kind::kTrapped) << machine.serial;
    if (i + 1 == kHits) {
      ASSERT_TRUE(machine->set_traps({}));
    }
    ASSERT_TRUE(machine->resume());
  }
  const std::size_t length = machine.serial.size();
  ASSERT_TRUE(machine.run_until([&] { return machine.serial.find("BEAT ", length) != std::string::npos; }));
  ASSERT_TRUE(machine.run_until([&] { return machine.serial.ends_with("\r\n"); }));
  EXPECT_LT(last_beat(machine.serial), 60) << machine.serial;
}

TEST_F(TrapTest, AVcpuThatSpinsInUserModeStopsLikeTheOthers) {
  MachineUnderTest machine(spec("callspin"));
  ASSERT_TRUE(machine->set_traps({setregid()}));
  ASSERT_TRUE(machine.start());
  // Now and then the spinner is inside an interrupt; so this goes on until it was seen often enough.
  const auto deadline = Clock::now() + kBootLimit;
  std::size_t seen = 0;
  std::uint64_t calls = 0;
  for (int in_user_mode = 0; in_user_mode < 20; ++calls) {
    ASSERT_LT(Clock::now(), deadline) << in_user_mode << " of " << calls;
    const auto event = next_event(machine, seen);
    ASSERT_TRUE(event && event->kind == Kind::kTrapped) << machine.serial;
    EXPECT_EQ(event->cpu, 0U);
    EXPECT_EQ(check_hit(machine, *event, setregid(), 2).egid, 100 + calls);
    const auto other = machine->registers(1);
    ASSERT_TRUE(other);
    in_user_mode += (other->cs & 3) == 3 ? 1 : 0;
    ASSERT_TRUE(machine->resume());
  }
}

TEST_F(TrapTest, TrapsAreSetAndRemovedWhileTheGuestRuns) {
  MachineUnderTest machine(spec("callforever"));
  ASSERT_TRUE(machine.start());
  ASSERT_TRUE(machine.run_until_serial("CALL 3\r\n"));
  std::size_t seen = 0;
  for (int round = 0; round < 5; ++round) {
    const auto set = machine->set_traps({setregid()});
    ASSERT_TRUE(set) << set.error().to_string();
    for (int i = 0; i < 3; ++i) {
      const auto event = next_event(machine, seen);
      ASSERT_TRUE(event && event->kind == Kind::kTrapped) << machine.serial;
      if (i < 2) {
        ASSERT_TRUE(machine->resume());
      }
    }
    // Set and taken away in a paused guest; twice, because breakpoints of the stub stack.
    const std::uint64_t another = traps_go_anywhere() ? setregid() + 1 : address("__sys_setreuid");
    ASSERT_TRUE(machine->set_traps({setregid(), setregid(), another}));
    ASSERT_TRUE(machine->set_traps({}));
    ASSERT_TRUE(machine->resume());
    const std::size_t length = machine.serial.size();
    ASSERT_TRUE(machine.run_until([&] {
      const auto news = std::string_view(machine.serial).substr(length);
      return std::count(news.begin(), news.end(), '\n') > 5;
    }));
    EXPECT_EQ(machine.events.size(), seen);
  }
}

// Pauses the running guest again and again, longer and longer apart, until a vCPU stands at `trap`: its event
// has not been handed out, because the loop does not run meanwhile. The guest is paused at the end.
bool pause_at_trap(MachineUnderTest& machine, std::uint64_t trap, std::uint32_t cpus) {
  const auto deadline = Clock::now() + kBootLimit;
  for (auto time = milliseconds(0); Clock::now() < deadline;
       time = std::min(2 * time + milliseconds(1), milliseconds(200))) {
    const auto paused = machine->pause(seconds(20));
    EXPECT_TRUE(paused) << paused.error().to_string();
    if (!paused) return false;
    for (std::uint32_t cpu = 0; cpu < cpus; ++cpu) {
      const auto regs = machine->registers(cpu);
      EXPECT_TRUE(regs) << regs.error().to_string();
      if (regs && regs->rip == trap) return true;
    }
    EXPECT_TRUE(machine->resume());
    std::this_thread::sleep_for(time);  // a slow host's guest does nothing in a shorter time
  }
  return false;
}

TEST_F(TrapTest, AHitWhileWeStopTheGuestIsNotLost) {
  KTSTR_NEEDS_EVERY_HIT();
  MachineUnderTest machine(spec("calls", 2));
  ASSERT_TRUE(machine->set_traps({setregid()}));
  ASSERT_TRUE(machine.start());
  std::vector<std::uint64_t> calls(2, 0);
  std::size_t seen = 0;
  while (true) {
    const auto event = next_event(machine, seen);
    ASSERT_TRUE(event) << machine.state();
    if (event->kind == Kind::kPoweredOff) break;
    const Call call = check_hit(machine, *event, setregid(), 2);
    EXPECT_EQ(call.egid, 100 + calls[event->cpu]);
    ++calls[event->cpu];
    ASSERT_FALSE(HasFailure()) << event->detail;
    ASSERT_TRUE(machine->resume());
    if (calls[0] + calls[1] == 40) continue;
    ASSERT_TRUE(pause_at_trap(machine, setregid(), 2))
        << fmt::format("after {} and {} calls: ", calls[0], calls[1]) << machine.state();
    ASSERT_TRUE(machine->resume());
  }
  EXPECT_EQ(calls, std::vector<std::uint64_t>(2, 20));
  EXPECT_NE(machine.serial.find("CALLED 40\r\n"), std::string::npos) << machine.serial;
}

// The address of the `hlt` of an idle vCPU.
std::uint64_t find_hlt(Machine& machine, std::uint64_t idle) {
  // Where the kernel's text lies without KASLR: __START_KERNEL_map is address 0.
  const std::uint64_t gpa = idle - 0xffffffff80000000;
  for (const RamRegion& region : machine.ram()) {
    if (gpa < region.gpa || gpa + 64 > region.gpa + region.host.size()) continue;
    const auto code = region.host.subspan(gpa - region.gpa, 64);
    const auto hlt = std::find(code.begin(), code.end(), std::byte{0xf4});
    if (hlt != code.end()) return idle + static_cast<std::uint64_t>(hlt - code.begin());
  }
  return 0;
}

// The step over `hlt` lasts until something wakes the vCPU: its timer does.
void leave_hlt(BootSpec boot, std::uint64_t idle, MachineOptions options) {
  MachineUnderTest machine(std::move(boot), std::move(options));
  ASSERT_TRUE(machine.start());
  ASSERT_TRUE(machine.run_until_serial("BEAT 3"));
  const std::uint64_t hlt = find_hlt(*machine, idle);
  ASSERT_NE(hlt, 0U);
  ASSERT_TRUE(machine->set_traps({hlt}));
  std::size_t seen = 0;
  for (int i = 0; i < 10; ++i) {
    const auto event = next_event(machine, seen);
    ASSERT_TRUE(event && event->kind == Kind::kTrapped) << machine.serial;
    EXPECT_EQ(event->address, hlt);
    const auto resumed = machine->resume();
    ASSERT_TRUE(resumed) << resumed.error().to_string();
  }
}

TEST_F(TrapTest, ATrapAtHltIsLeftWhenTheVcpuIsWoken) {
  if (!traps_go_anywhere()) GTEST_SKIP() << "not with port traps";
  leave_hlt(spec("beat"), address("pv_native_safe_halt"), {});
}

TEST_F(TrapTest, ATrapAtHltIsLeftWithOneThreadForAllVcpus) {
  KTSTR_TCG_ONLY();
  leave_hlt(spec("beat"), address("pv_native_safe_halt"), {.single_thread = true});
}

TEST_F(TrapTest, TooManyTrapsAreRefusedAndTheOldOnesStay) {
  MachineUnderTest machine(spec("calls", 1));
  ASSERT_TRUE(machine->set_traps({setregid()}));
  std::vector<std::uint64_t> many;
  for (std::uint64_t i = 0; i <= kMaxTraps; ++i) many.push_back(0x1000 * i);
  const auto refused = machine->set_traps(many);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::kHost);
  ASSERT_TRUE(machine.start());
  std::size_t seen = 0;
  const auto event = next_event(machine, seen);
  ASSERT_TRUE(event && event->kind == Kind::kTrapped) << machine.serial;
  // Functions that this guest does not call.
  many.clear();
  static constexpr std::array kNames = {
      "__x64_sys_setreuid",    "__x64_sys_setuid",      "__x64_sys_setgid",      "__x64_sys_setresuid",
      "__x64_sys_setfsuid",    "__x64_sys_setfsgid",    "__x64_sys_sethostname", "__x64_sys_setdomainname",
      "__x64_sys_getpriority", "__x64_sys_setpriority", "__x64_sys_acct",        "__x64_sys_chroot",
      "__x64_sys_pivot_root",  "__x64_sys_swapon",      "__x64_sys_swapoff",     "__x64_sys_quotactl"};
  for (const char* const name : kNames) many.push_back(address(name));
  ASSERT_EQ(many.size(), kMaxTraps);
  const auto most = machine->set_traps(many);
  EXPECT_TRUE(most) << most.error().to_string();
  EXPECT_TRUE(machine->resume());
  const auto end = machine.run_to_end();
  ASSERT_TRUE(end);
  EXPECT_EQ(end->kind, Kind::kPoweredOff) << end->detail;
}

TEST_F(TrapTest, AnEmulatorKilledAtATrapIsAnErrorAndNoHang) {
  KTSTR_TCG_ONLY();
  MachineUnderTest machine(spec("calls", 2));
  ASSERT_TRUE(machine->set_traps({setregid()}));
  ASSERT_TRUE(machine.start());
  std::size_t seen = 0;
  ASSERT_TRUE(next_event(machine, seen)) << machine.serial;
  ::kill(dynamic_cast<TcgMachine&>(*machine).qemu_pid(), SIGKILL);
  const auto resumed = machine->resume();
  ASSERT_FALSE(resumed);
  EXPECT_EQ(resumed.error().code(), ErrorCode::kHost);
  EXPECT_FALSE(machine->set_traps({}));
  const auto end = machine.run_to_end();
  ASSERT_TRUE(end);
  EXPECT_EQ(end->kind, Kind::kDied) << end->detail;
  EXPECT_FALSE(machine->set_traps({}));
}

// Everything a guest wrote, with or without a trap.
std::string deterministic_console(BootSpec boot, std::vector<std::uint64_t> traps) {
  boot.deterministic = DeterministicClock{.shift = 2, .seed = 7};
  MachineUnderTest machine(std::move(boot));
  EXPECT_TRUE(machine->set_traps(std::move(traps)));
  EXPECT_TRUE(machine.start());
  const auto end = machine.run_to_end();
  EXPECT_TRUE(end && end->kind == Kind::kPoweredOff) << machine.serial;
  EXPECT_EQ(machine.events.size(), 1U);
  return machine.serial;
}

TEST_F(TrapTest, ATrapThatIsNotHitDoesNotChangeADeterministicGuest) {
  KTSTR_TCG_ONLY();
  const std::string without = deterministic_console(spec("calls"), {});
  // The second one shares its page with code that runs all the time; no instruction begins there.
  const std::string with = deterministic_console(spec("calls"), {address("panic"), address("schedule") + 1});
  EXPECT_NE(without.find("CALLED 40\r\n"), std::string::npos) << without;
  EXPECT_EQ(without, with);
}

// What the guest last said of its clocks (guest_init.c, watch_clocks); ns.
struct ClockLine {
  long long mono = 0, worst_mono = 0, worst_real = 0, drift = 0;
};
// Waits for a line that was begun after now.
ClockLine next_clock_line(MachineUnderTest& machine) {
  const std::size_t length = machine.serial.size();
  ClockLine line;
  EXPECT_TRUE(machine.run_until([&] {
    const std::size_t at = machine.serial.find("\nCLOCK ", length);
    if (at == std::string::npos || machine.serial.find('\n', at + 1) == std::string::npos) return false;
    std::istringstream words(machine.serial.substr(at));
    std::string clock;
    return static_cast<bool>(words >> clock >> line.mono >> line.worst_mono >> line.worst_real >> line.drift);
  })) << machine.serial;
  return line;
}

// Pauses `count` times for `hold` each and checks that the guest's clocks stood still meanwhile.
void check_clocks(MachineUnderTest& machine, int count, std::chrono::nanoseconds hold) {
  const ClockLine before = next_clock_line(machine);
  const auto begin = Clock::now();
  std::vector<std::chrono::nanoseconds> stops;
  std::chrono::nanoseconds paused{};
  for (int i = 0; i < count; ++i) {
    const auto report = machine->pause(seconds(20));
    ASSERT_TRUE(report) << report.error().to_string();
    ASSERT_EQ(report->stopped_after.size(), 2U);
    stops.push_back(report->rendezvous);
    const auto parked = Clock::now();
    std::this_thread::sleep_for(hold);  // this is what is tested
    paused += Clock::now() - parked;
    ASSERT_TRUE(machine->resume());
    machine.run_until([] { return true; });
  }
  const ClockLine after = next_clock_line(machine);
  const auto elapsed = Clock::now() - begin;
  std::sort(stops.begin(), stops.end());
  fmt::print(
      "{} pauses of {:.0f} ms: stop median {:.2f} ms, worst {:.2f} ms; largest step of MONOTONIC {:.1f} ms, "
      "REALTIME {:.1f} ms, drift {} ns\n",
      count, milliseconds_of(hold), milliseconds_of(stops[stops.size() / 2]), milliseconds_of(stops.back()),
      static_cast<double>(after.worst_mono) / 1e6, static_cast<double>(after.worst_real) / 1e6, after.drift);
  // A clock that ran on would be ahead by all of `paused`. Half of it is left for the time the console took,
  // by which `before` is older than `begin`.
  EXPECT_LT(after.mono - before.mono, (elapsed - paused / 2).count());
  EXPECT_LT(std::abs(after.drift - before.drift), 1'000'000);
  if (hold >= seconds(1)) {
    EXPECT_LT(after.worst_mono, (hold / 2).count());
    EXPECT_LT(after.worst_real, (hold / 2).count());
  }
  EXPECT_EQ(machine.serial.find("BACKWARDS"), std::string::npos);
  EXPECT_TRUE(machine.events.empty());
}

// Where a host takes the CPU away between two readings, the watchdog of clock sources (7.2: "frequency skew")
// finds microseconds, and gives up a TSC that nobody uses. A TSC that was not held with kvm-clock would
// differ from it by the pause.
void expect_no_skew(const std::string& serial) {
  const std::size_t at = serial.find("due to frequency skew");
  if (at == std::string::npos) return;
  long long intervals[2] = {0, 0};
  std::size_t line = at;
  for (long long& interval : intervals) {
    line = serial.find(" interval:", line + 1);
    if (line == std::string::npos) return;  // not written yet
    interval = std::strtoll(serial.c_str() + line + std::strlen(" interval:"), nullptr, 10);
  }
  EXPECT_LT(std::abs(intervals[0] - intervals[1]), 10'000'000) << serial;
}

void expect_no_complaint(const MachineUnderTest& machine) {
  for (const char* complaint : {"unstable", "soft lockup", "rcu_sched", "rcu_preempt detected", "Oops"}) {
    if (test_accel() == AccelChoice::kKvm && complaint == std::string_view("unstable")) continue;
    EXPECT_EQ(machine.serial.find(complaint), std::string::npos) << machine.serial;
  }
  if (test_accel() == AccelChoice::kKvm) expect_no_skew(machine.serial);
}

// A guest in a loaded guest takes minutes to boot.
bool boot_to_clocks(MachineUnderTest& machine) {
  return machine.start() &&
         machine.run_until([&] { return machine.serial.find("CLOCK ") != std::string::npos; },
                           3 * kBootLimit);
}

TEST_F(TrapTest, ClocksOfTheGuestDoNotJumpOverPauses) {
  MachineUnderTest machine(spec("clocks"));
  ASSERT_TRUE(boot_to_clocks(machine)) << machine.serial;
  check_clocks(machine, 1, seconds(3));
  check_clocks(machine, 100, milliseconds(30));
  expect_no_complaint(machine);
}

// Longer than the kernel's limit for a soft lock-up, 20 s.
TEST_F(TrapTest, APauseOf25SecondsIsNoLockup) {
  MachineUnderTest machine(spec("clocks"));
  ASSERT_TRUE(boot_to_clocks(machine)) << machine.serial;
  check_clocks(machine, 1, seconds(25));
  // The watchdog looks every 4 s.
  const long long resumed = next_clock_line(machine).mono;
  while (!HasFailure() && next_clock_line(machine).mono < resumed + 5'000'000'000) {
  }
  expect_no_complaint(machine);
}

}  // namespace
}  // namespace ktstr::test
