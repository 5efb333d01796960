// Machines with a real kernel in them: tcg, or kvm with KTSTR_TEST_ACCEL=kvm.
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "host/machine/tcg/tcg_machine.h"
#include "tests/vm/machine/machine_harness.h"

namespace ktstr::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class MachineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!kernel()) GTEST_SKIP() << "KTSTR_TEST_KERNEL_72 does not name a kernel folder";
  }
  // Opened once for all tests.
  static const std::optional<KernelImage>& kernel() {
    static const std::optional<KernelImage> image = test_kernel();
    return image;
  }
  static BootSpec spec(const std::string& what, Entry entry = Entry::kPayload) {
    return test_boot_spec(*kernel(), what, entry);
  }
};

double milliseconds_of(std::chrono::nanoseconds time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

std::size_t count_of(const std::string& text, const std::string& word) {
  std::size_t count = 0;
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) ++count;
  return count;
}

// Boots to power-off and says how long that took.
void boot_and_power_off(BootSpec spec, const std::string& label) {
  MachineUnderTest machine(std::move(spec));
  const auto started = machine.start();
  ASSERT_TRUE(started) << started.error().to_string();
  ASSERT_TRUE(machine.run_until_serial("INIT\r\n")) << machine.serial;
  const auto init = std::chrono::steady_clock::now() - machine.started;
  const auto end = machine.run_to_end();
  ASSERT_TRUE(end) << machine.state();
  EXPECT_EQ(end->kind, MachineEvent::Kind::kPoweredOff) << end->detail;
  EXPECT_EQ(machine.events.size(), 1U);
  EXPECT_NE(machine.serial.find("Linux version"), std::string::npos);
  // The very last message of a kernel that switches itself off.
  EXPECT_NE(machine.serial.find("reboot: Power down"), std::string::npos) << machine.serial;
  EXPECT_GT(machine->vcpu_time().used, milliseconds(100));
  fmt::print("{}: first console byte {:.0f} ms, PID 1 {:.0f} ms\n", label,
             milliseconds_of(machine.first_byte.value_or(seconds(0))), milliseconds_of(init));
}

TEST_F(MachineTest, BootsThePayloadAndPowersOff) {
  boot_and_power_off(spec("off"), "payload");
}

TEST_F(MachineTest, BootsTheBzImageAndPowersOff) {
  boot_and_power_off(spec("off", Entry::kBzImage), "bzImage");
}

TEST_F(MachineTest, BootsWithOneThreadForAllVcpus) {
  KTSTR_TCG_ONLY();
  MachineUnderTest machine(spec("off"), {.single_thread = true});
  ASSERT_TRUE(machine.start());
  const auto end = machine.run_to_end();
  ASSERT_TRUE(end) << machine.state();
  EXPECT_EQ(end->kind, MachineEvent::Kind::kPoweredOff) << end->detail;
  EXPECT_GT(machine->vcpu_time().used, milliseconds(100));
}

TEST_F(MachineTest, FramesTravelBothWays) {
  MachineUnderTest machine(spec("echo"));
  ASSERT_TRUE(machine.start());
  // Sent long before the guest has opened its port.
  std::string sent(1'000'000, '.');
  for (std::size_t i = 0; i < sent.size(); ++i) sent[i] = static_cast<char>('a' + i % 23);
  sent.back() = '!';
  ASSERT_TRUE(machine->frames().send(std::string_view(sent).substr(0, 10)));
  ASSERT_TRUE(machine.run_until_serial("ECHO 1")) << machine.serial;
  ASSERT_TRUE(machine->frames().send(std::string_view(sent).substr(10)));
  ASSERT_TRUE(machine.run_until([&] { return machine.frames.size() >= sent.size(); }));
  EXPECT_TRUE(machine.frames == sent);
  ASSERT_TRUE(machine->frames().send("."));
  const auto end = machine.run_to_end();
  ASSERT_TRUE(end) << machine.state();
  EXPECT_EQ(end->kind, MachineEvent::Kind::kPoweredOff) << end->detail;
}

TEST_F(MachineTest, EverythingWrittenBeforePowerOffArrives) {
  MachineUnderTest machine(spec("flood"));
  ASSERT_TRUE(machine.start());
  ASSERT_TRUE(machine.run_until([&] { return machine.frames.ends_with("LAST"); })) << machine.frames.size();
  EXPECT_EQ(machine.frames.size(), 64U * 32768 + 4);
  ASSERT_TRUE(machine->frames().send("."));
  ASSERT_TRUE(machine.run_to_end());
  EXPECT_EQ(machine.hvc.size(), 4000U);
}

TEST_F(MachineTest, RebootIsReset) {
  MachineUnderTest machine(spec("reboot"));
  ASSERT_TRUE(machine.start());
  const auto end = machine.run_to_end();
  ASSERT_TRUE(end) << machine.state();
  EXPECT_EQ(end->kind, MachineEvent::Kind::kReset) << end->detail;
}

TEST_F(MachineTest, PanicIsResetAndItsWordsComeFirst) {
  MachineUnderTest machine(spec("panic"));
  std::size_t at_event = 0;
  ASSERT_TRUE(machine.start());
  machine->set_event_receiver([&](const MachineEvent& event) {
    at_event = machine.serial.size();
    machine.events.push_back(event);
  });
  const auto end = machine.run_to_end();
  ASSERT_TRUE(end) << machine.state();
  EXPECT_EQ(end->kind, MachineEvent::Kind::kReset) << end->detail;
  EXPECT_NE(machine.serial.find("Kernel panic - not syncing"), std::string::npos) << machine.serial;
  EXPECT_EQ(at_event, machine.serial.size());
}

TEST_F(MachineTest, KilledEmulatorIsDied) {
  KTSTR_TCG_ONLY();
  MachineUnderTest machine(spec("beat"));
  ASSERT_TRUE(machine.start());
  ASSERT_TRUE(machine.run_until_serial("BEAT 3 "));
  ::kill(dynamic_cast<TcgMachine&>(*machine).qemu_pid(), SIGKILL);
  const auto end = machine.run_to_end();
  ASSERT_TRUE(end) << machine.state();
  EXPECT_EQ(end->kind, MachineEvent::Kind::kDied);
  EXPECT_NE(end->detail.find("killed by signal 9"), std::string::npos) << end->detail;
  EXPECT_FALSE(machine->pause(seconds(1)));
  EXPECT_FALSE(machine->resume());
}

TEST_F(MachineTest, PausesAndResumesAHundredTimes) {
  MachineUnderTest machine(spec("beat"));
  ASSERT_TRUE(machine.start());
  ASSERT_TRUE(machine.run_until_serial("BEAT 3 "));
  std::vector<std::chrono::nanoseconds> times;
  for (int i = 0; i < 100; ++i) {
    const auto report = machine->pause(seconds(20));
    ASSERT_TRUE(report) << report.error().to_string();
    EXPECT_TRUE(report->missing.empty());
    times.push_back(report->rendezvous);
    ASSERT_TRUE(machine->resume());
    const std::size_t beats = count_of(machine.serial, "BEAT");
    ASSERT_TRUE(machine.run_until([&] { return count_of(machine.serial, "BEAT") > beats; })) << i;
  }
  EXPECT_TRUE(machine.events.empty());
  std::sort(times.begin(), times.end());
  fmt::print("pause: median {:.2f} ms, worst {:.2f} ms\n", milliseconds_of(times[50]),
             milliseconds_of(times[99]));
}

TEST_F(MachineTest, APausedGuestStandsStill) {
  MachineUnderTest machine(spec("beat"));
  ASSERT_TRUE(machine.start());
  ASSERT_TRUE(machine.run_until_serial("BEAT 3 "));
  ASSERT_TRUE(machine->pause(seconds(20)));
  // What was under way when it stopped.
  machine.run_until([] { return false; }, seconds(1));
  const std::size_t length = machine.serial.size();
  const auto used = machine->vcpu_time().used;
  machine.run_until([] { return false; }, seconds(1));
  EXPECT_EQ(machine.serial.size(), length);
  EXPECT_LT(machine->vcpu_time().used - used, milliseconds(10));
  EXPECT_TRUE(machine.events.empty());
}

TEST_F(MachineTest, ALateAnswerToAPauseDoesNoHarm) {
  MachineUnderTest machine(spec("beat"));
  ASSERT_TRUE(machine.start());
  ASSERT_TRUE(machine.run_until_serial("BEAT 3 "));
  // Too short to be answered: every vCPU counts as missing.
  const auto report = machine->pause(std::chrono::nanoseconds(1));
  ASSERT_TRUE(report) << report.error().to_string();
  // A vCPU of the kvm machine may have been quicker.
  if (test_accel() == AccelChoice::kTcg) {
    EXPECT_EQ(report->missing.size(), 2U);
  }
  ASSERT_TRUE(machine->resume());
  const std::size_t beats = count_of(machine.serial, "BEAT");
  ASSERT_TRUE(machine.run_until([&] { return count_of(machine.serial, "BEAT") > beats + 2; }));
  EXPECT_TRUE(machine.events.empty());
}

// The string that the guest's PID 1 makes in mark_memory.
std::string marker() {
  std::string text(64, '\0');
  for (unsigned i = 0; i < 64; ++i) {
    text[i] = static_cast<char>(static_cast<unsigned char>("Gur zntvp cntr"[i % 14]) ^ (i * 5 & 0x7f));
  }
  return text;
}

// The marker, where the guest says its page lies.
void expect_marker(MachineUnderTest& machine) {
  ASSERT_TRUE(machine.run_until_serial("BEAT 1 ")) << machine.serial;
  const std::size_t at = machine.serial.find("PAGE ");
  ASSERT_NE(at, std::string::npos) << machine.serial;
  const std::uint64_t gpa = std::strtoull(machine.serial.c_str() + at + 5, nullptr, 16);
  ASSERT_NE(gpa, 0U);
  ASSERT_TRUE(machine->pause(seconds(20)));
  for (const RamRegion& region : machine->ram()) {
    if (gpa < region.gpa || gpa - region.gpa >= region.host.size()) continue;
    EXPECT_EQ(std::memcmp(region.host.data() + (gpa - region.gpa), marker().data(), 64), 0);
    return;
  }
  FAIL() << "no region has " << std::hex << gpa;
}

TEST_F(MachineTest, GuestMemoryIsReadable) {
  MachineUnderTest machine(spec("memory"));
  ASSERT_TRUE(machine.start());
  expect_marker(machine);
}

TEST_F(MachineTest, TwoNodesAroundTheHoleBelow4GiB) {
  BootSpec big = spec("memory");
  big.memory_bytes = std::uint64_t{5} << 30;
  big.topology = {.numa_nodes = 2, .llcs = 2, .cores_per_llc = 1, .threads_per_core = 1};
  MachineUnderTest machine(std::move(big));
  const auto started = machine.start();
  ASSERT_TRUE(started) << started.error().to_string();
  const auto ram = machine->ram();
  ASSERT_EQ(ram.size(), 3U);
  EXPECT_EQ(ram[2].gpa, (std::uint64_t{4} << 30));
  expect_marker(machine);
}

TEST_F(MachineTest, TheGuestSeesTheTopologyThatWasAskedFor) {
  BootSpec wide = spec("topology");
  wide.command_line += " quiet";
  wide.memory_bytes = std::uint64_t{1} << 30;
  wide.topology = {.numa_nodes = 2, .llcs = 3, .cores_per_llc = 2, .threads_per_core = 2};
  MachineUnderTest machine(std::move(wide));
  ASSERT_TRUE(machine.start());
  ASSERT_TRUE(machine.run_to_end());
  const auto expect = [&](int cpu, const char* file, const char* list) {
    const auto line = fmt::format("/sys/devices/system/cpu/cpu{}/{}: {}\r\n", cpu, file, list);
    EXPECT_NE(machine.serial.find(line), std::string::npos) << line << machine.serial;
  };
  expect(0, "cache/index3/shared_cpu_list", "0-3");
  expect(7, "cache/index3/shared_cpu_list", "4-7");
  expect(8, "cache/index3/shared_cpu_list", "8-11");
  expect(0, "topology/thread_siblings_list", "0-1");
  expect(11, "topology/thread_siblings_list", "10-11");
  EXPECT_NE(machine.serial.find("node0/cpulist: 0-3\r\n"), std::string::npos) << machine.serial;
  EXPECT_NE(machine.serial.find("node1/cpulist: 4-11\r\n"), std::string::npos) << machine.serial;
}

TEST_F(MachineTest, RegistersOfAPausedGuest) {
  MachineUnderTest machine(spec("spin"));
  ASSERT_TRUE(machine.start());
  EXPECT_FALSE(machine->registers(0)) << "of a running machine";
  ASSERT_TRUE(machine.run_until_serial("SPIN\r\n")) << machine.serial;
  ASSERT_TRUE(machine->pause(seconds(20)));
  int in_user_mode = 0;
  int halted = 0;
  for (std::uint32_t cpu = 0; cpu < 2; ++cpu) {
    const auto regs = machine->registers(cpu);
    ASSERT_TRUE(regs) << regs.error().to_string();
    const bool user = (regs->cs & 3) == 3;
    in_user_mode += user ? 1 : 0;
    halted += regs->halted.value() ? 1 : 0;
    EXPECT_EQ(regs->rip >> 47, user ? 0U : 0x1ffffU) << std::hex << regs->rip;
    EXPECT_EQ(regs->idt_limit, 0xfffU);
    EXPECT_EQ(regs->idt_base >> 47, 0x1ffffU);
    EXPECT_NE(regs->cr3, 0U);
    EXPECT_EQ(regs->cr0 & 0x80000001, 0x80000001U);  // paging, protected mode
    EXPECT_EQ(regs->efer & 0x500, 0x500U);           // long mode enabled, active
  }
  // PID 1 spins on one vCPU; the other is idle most of the time.
  EXPECT_LE(in_user_mode, 1);
  EXPECT_LE(halted, 1);
  EXPECT_FALSE(machine->registers(2));
}

TEST_F(MachineTest, AReceiverMayStopTheMachine) {
  MachineUnderTest machine(spec("beat"));
  ASSERT_TRUE(machine.start());
  bool stopped = false;
  machine.on_console = [&] {
    if (stopped || machine.serial.find("BEAT 2 ") == std::string::npos) return;
    stopped = true;
    machine->stop();
  };
  ASSERT_TRUE(machine.run_until([&] { return stopped; }));
  machine->stop();
  EXPECT_TRUE(machine->ram().empty());
  EXPECT_TRUE(machine.events.empty());
  // Nothing is left on the loop, so it does not wait.
  machine.loop().restart();
  machine.loop().run_for(seconds(10));
  EXPECT_TRUE(machine.loop().stopped());
}

// As a session does at the guest's goodbye: from within the device that brought it.
TEST_F(MachineTest, AReceiverOfFramesMayStopTheMachine) {
  MachineUnderTest machine(spec("echo"));
  bool stopped = false;
  machine->frames().set_receiver([&](std::span<const std::byte>) {
    stopped = true;
    machine->stop();
  });
  ASSERT_TRUE(machine.start());
  ASSERT_TRUE(machine->frames().send("some bytes"));
  ASSERT_TRUE(machine.run_until([&] { return stopped; })) << machine.serial;
  EXPECT_TRUE(machine->ram().empty());
  EXPECT_TRUE(machine.events.empty());
}

TEST_F(MachineTest, AFileThatIsNoKernelIsAUsageError) {
  BootSpec bad = spec("off");
  const UniqueFd file(memfd_create("no-kernel", MFD_CLOEXEC));
  const std::string text(100'000, 'x');
  ASSERT_EQ(::write(file.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  bad.kernel = UniqueFd(dup(file.get()));
  MachineUnderTest machine(std::move(bad));
  const auto started = machine.start();
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code(), ErrorCode::kUsage)
      << started.error().to_string() << started.error().detail();
}

TEST_F(MachineTest, MoreMemoryThanTheHostHasIsAHostError) {
  BootSpec big = spec("off");
  big.memory_bytes = std::uint64_t{500} << 30;
  MachineUnderTest machine(std::move(big));
  const auto started = machine.start();
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code(), ErrorCode::kHost);
  EXPECT_NE(started.error().to_string().find("500 GiB"), std::string::npos) << started.error().to_string();
}

// A process that boots a machine, says the emulator's pid, and then hangs: what a SIGKILL finds.
[[noreturn]] void boot_and_hang(BootSpec spec, int report_fd) {
  MachineUnderTest machine(std::move(spec));
  pid_t pid = -1;
  if (machine.start()) pid = dynamic_cast<TcgMachine&>(*machine).qemu_pid();
  if (::write(report_fd, &pid, sizeof(pid)) != sizeof(pid)) _exit(1);
  while (true) ::pause();
}

TEST_F(MachineTest, NothingIsLeftWhenWeAreKilled) {
  KTSTR_TCG_ONLY();
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd from_child(ends[0]);
  const UniqueFd to_parent(ends[1]);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) boot_and_hang(spec("beat"), to_parent.get());
  pid_t qemu = -1;
  ASSERT_EQ(::read(from_child.get(), &qemu, sizeof(qemu)), static_cast<ssize_t>(sizeof(qemu)));
  ASSERT_GT(qemu, 0);
  const UniqueFd watch(static_cast<int>(syscall(SYS_pidfd_open, qemu, 0)));
  ASSERT_TRUE(watch);
  ::kill(child, SIGKILL);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  pollfd ended{.fd = watch.get(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&ended, 1, 20'000), 1) << "QEMU outlives us";
}

TEST_F(MachineTest, StopLeavesNoProcessAndNoDescriptor) {
  const auto descriptors = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
  };
  pid_t qemu = -1;
  const auto before = descriptors();
  {
    MachineUnderTest machine(spec("beat"));
    ASSERT_TRUE(machine.start());
    if (test_accel() == AccelChoice::kTcg) qemu = dynamic_cast<TcgMachine&>(*machine).qemu_pid();
    ASSERT_TRUE(machine.run_until_serial("Linux version"));
  }
  if (qemu != -1) {
    EXPECT_EQ(::kill(qemu, 0), -1);
  }
  EXPECT_EQ(descriptors(), before);
}

}  // namespace
}  // namespace ktstr::test
