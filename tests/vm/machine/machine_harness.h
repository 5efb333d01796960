// What the machine tests share: a kernel, an initramfs with the test's PID 1, and a machine whose output is
// kept.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>

#include "host/kernel/kernel_image.h"
#include "host/machine/create.h"
#include "host/machine/machine.h"

namespace ktstr::test {

// Generous: the tests also run on loaded machines. Nothing waits this long when all is well.
inline constexpr std::chrono::seconds kBootLimit{120};

// Printed, with the test's name behind it, when a guest that lives has not said a word in that time:
// tests/nested/unless_stood_still looks for it.
inline constexpr const char* kStoodStill = "stood still before its first message: the guest of";

// The kernel in the folder that KTSTR_TEST_KERNEL_72 names, or another one by KTSTR_TEST_MACHINE_SERIES
// ("618"); nothing when it is not set.
std::optional<KernelImage> test_kernel();

// PID 1 and the modules that it loads, as an uncompressed archive.
struct InitramfsFile {
  UniqueFd fd;
  std::uint64_t size = 0;
};
InitramfsFile test_initramfs(const KernelImage& kernel);

enum class Entry { kPayload, kBzImage };

// What to boot, with `what` for the test's PID 1 to do.
BootSpec test_boot_spec(const KernelImage& kernel, const std::string& what, Entry entry = Entry::kPayload);

// The kind of machine to test: KTSTR_TEST_ACCEL=kvm, else tcg.
AccelChoice test_accel();
// How a kvm machine traps: KTSTR_TEST_TRAPS=port or breakpoint, else it chooses.
std::optional<TrapKind> test_traps();

// For what only one kind of machine has.
#define KTSTR_TCG_ONLY() \
  if (test_accel() != AccelChoice::kTcg) GTEST_SKIP() << "of the tcg machine"

// A machine on a loop of its own.
class MachineUnderTest {
 public:
  explicit MachineUnderTest(BootSpec spec, MachineOptions options = {});
  Machine& operator*() { return *machine_; }
  Machine* operator->() { return machine_.get(); }

  // Runs the loop until `done` says so or the limit has passed; returns whether it did.
  bool run_until(const std::function<bool()>& done, std::chrono::seconds limit = kBootLimit);
  // Until ttyS0 has shown `text`.
  bool run_until_serial(const std::string& text) {
    return run_until([&] { return serial.find(text) != std::string::npos; });
  }
  // Until the machine has ended by itself; the event of its end.
  std::optional<MachineEvent> run_to_end();

  // For the message of a test whose guest does not do what it should: where its vCPUs are, twice; what they
  // did in the three seconds in between; and what the guest has printed.
  std::string state();

  std::string serial;
  std::string hvc;
  std::string frames;
  std::vector<MachineEvent> events;
  // When the first console byte came, counted from start().
  std::optional<std::chrono::nanoseconds> first_byte;
  std::chrono::steady_clock::time_point started;
  // Called after every console chunk, when set.
  std::function<void()> on_console;

  Expected<void> start();
  boost::asio::io_context& loop() { return loop_; }

 private:
  std::string places();
  void say_stood_still();

  boost::asio::io_context loop_;
  std::unique_ptr<Machine> machine_;
};

}  // namespace ktstr::test
