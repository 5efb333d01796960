// What the host may refuse while a machine is made: each ends start() with an error that says what is
// missing, and leaves nothing behind. What changes the process happens in a child of its own.
#include <grp.h>
#include <linux/capability.h>
#include <linux/kvm.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <array>
#include <fstream>
#include <functional>
#include <sstream>

#include <boost/asio/io_context.hpp>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "host/machine/kvm/kvm_machine.h"
#include "tests/unit/machine/kvm/tiny_guest.h"
#include "tests/unit/machine/kvm/tiny_machine.h"

namespace ktstr::kvm::tiny {
namespace {

// A kernel that writes a letter and switches the power off.
BootSpec make_spec(std::uint32_t cpus) {
  return tiny_spec(MachineCode(kKernel).out8(0x3f8, 'k').power_off(), cpus);
}

// Runs `body` in a child and returns what it says.
std::string in_child(const std::function<std::string()>& body) {
  std::array<int, 2> ends = {};
  if (pipe(ends.data()) != 0) return "no pipe";
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    const std::string text = body();
    [[maybe_unused]] const ssize_t written = write(ends[1], text.data(), text.size());
    _exit(0);
  }
  close(ends[1]);
  std::string text;
  std::array<char, 4096> part = {};
  for (ssize_t got = 0; (got = read(ends[0], part.data(), part.size())) > 0;)
    text.append(part.data(), static_cast<std::size_t>(got));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (status != 0) text += fmt::format("\nthe child ended with status {:#x}", status);
  return text;
}

std::string say(const Belongings& what) {
  std::ostringstream out;
  out << what;
  return out.str();
}

// Starts a machine, after `lower` has been called; the error, or "" for a start that went well. What is left
// behind afterwards is an error of the test's own.
std::string try_start(std::uint32_t cpus, const std::function<void()>& lower,
                      const std::function<void()>& restore) {
  boost::asio::io_context loop;
  { const LoopBell first(loop); }  // the loop opens what it needs when it is first used
  const Belongings before = belongings();
  auto machine = std::make_unique<KvmMachine>(loop, make_spec(cpus), KvmMachineOptions{});
  lower();
  const auto started = machine->start();
  restore();
  std::string text;
  if (!started) {
    if (started.error().code() != ErrorCode::kHost) return "another code: " + started.error().to_string();
    text = started.error().to_string();
    if (text.empty()) return "an error without words";
  }
  machine.reset();
  if (const Belongings after = belongings(); after != before)
    return fmt::format("left behind by '{}': {} instead of {}", text, say(after), say(before));
  return text;
}

bool set_limit(decltype(RLIMIT_AS) what, std::uint64_t limit) {
  struct rlimit both {};
  if (getrlimit(what, &both) != 0) return false;
  both.rlim_cur = limit;
  return setrlimit(what, &both) == 0;
}

TEST(SetUp, ATinyKernelRunsInTheWholeMachine) {
  NEEDS_KVM();
  boost::asio::io_context loop;
  KvmMachine machine(loop, make_spec(2), {});
  std::string output;
  std::optional<MachineEvent> event;
  machine.set_console_receiver([&](ConsolePort, std::span<const std::byte> bytes) {
    output.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  });
  machine.set_event_receiver([&](const MachineEvent& happened) { event = happened; });
  const auto started = machine.start();
  ASSERT_TRUE(started) << started.error().to_string();
  const auto until = std::chrono::steady_clock::now() + 20s;
  while (!event && std::chrono::steady_clock::now() < until) loop.run_one_for(100ms);
  ASSERT_TRUE(event);
  EXPECT_EQ(event->kind, MachineEvent::Kind::kPoweredOff) << event->detail;
  EXPECT_EQ(output, "k");
  machine.stop();
}

// One descriptor more each time, until there are enough.
TEST(SetUp, TooFewDescriptors) {
  NEEDS_KVM();
  const std::string text = in_child([] {
    int refused = 0;
    for (std::uint64_t more = 0; more < 100; ++more) {
      std::string error = try_start(
          2,
          [more] {
            const UniqueFd next(dup(0));
            set_limit(RLIMIT_NOFILE, static_cast<std::uint64_t>(next.get()) + more);
          },
          [] { set_limit(RLIMIT_NOFILE, 1024); });
      if (error.empty()) return fmt::format("{}", refused > 8 ? "good" : "too few were refused");
      if (error.find("Too many open files") == std::string::npos) return error;
      ++refused;
    }
    return std::string("never enough");
  });
  EXPECT_EQ(text, "good");
}

std::uint64_t address_space() {
  std::ifstream file("/proc/self/statm");
  std::uint64_t pages = 0;
  file >> pages;
  return pages * 4096;
}

TEST(SetUp, TooLittleAddressSpace) {
  NEEDS_KVM();
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "AddressSanitizer itself needs terabytes of it";
#endif
  const std::string text = in_child([] {
    int refused = 0;
    for (std::uint64_t more = 8 * kMiB; more < kGiB; more += 8 * kMiB) {
      std::string error = try_start(
          4, [more] { set_limit(RLIMIT_AS, address_space() + more); },
          [] { set_limit(RLIMIT_AS, RLIM_INFINITY); });
      if (error.empty()) return fmt::format("{}", refused > 5 ? "good" : "too few were refused");
      if (error.find("Cannot allocate memory") == std::string::npos &&
          error.find("Resource temporarily unavailable") == std::string::npos)
        return error;
      ++refused;
    }
    return std::string("never enough");
  });
  EXPECT_EQ(text, "good");
}

// Root may have any number of threads: so the real user becomes another one, and the rights to go beyond a
// limit go away; files are still opened as root.
bool limit_threads() {
  if (setresuid(65534, 0, 0) != 0) return false;
  __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  std::array<__user_cap_data_struct, 2> data = {};
  if (syscall(SYS_capget, &header, data.data()) != 0) return false;
  data[0].effective &= ~(1U << CAP_SYS_ADMIN | 1U << CAP_SYS_RESOURCE);
  return syscall(SYS_capset, &header, data.data()) == 0;
}

TEST(SetUp, MoreVcpusThanKvmTakes) {
  NEEDS_KVM();
  const std::string text = try_start(
      100'000, [] {}, [] {});
  EXPECT_NE(text.find("100000 vCPUs are more than the "), std::string::npos) << text;
}

TEST(SetUp, TooFewThreads) {
  NEEDS_KVM();
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  const std::string text = in_child([] {
    if (!limit_threads()) return std::string("good");
    // Of this user's processes only ours count, normally.
    int refused = 0;
    for (std::uint64_t limit = 1; limit < 1000; ++limit) {
      std::string error = try_start(
          3, [limit] { set_limit(RLIMIT_NPROC, limit); }, [] { set_limit(RLIMIT_NPROC, 4096); });
      if (error.empty()) return fmt::format("{}", refused > 0 ? "good" : "none was refused");
      if (error.find("cannot make a thread for a vCPU: Resource temporarily unavailable") ==
          std::string::npos)
        return error;
      ++refused;
    }
    return std::string("never enough");
  });
  EXPECT_EQ(text, "good");
}

// The one thing that users run into: what to do is said, by name.
TEST(SetUp, NoPermission) {
  NEEDS_KVM();
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  struct stat st {};
  ASSERT_EQ(stat("/dev/kvm", &st), 0);
  if ((st.st_mode & 06) == 06) GTEST_SKIP() << "everybody may use this /dev/kvm";
  const std::string text = in_child([] {
    if (setgroups(0, nullptr) != 0 || setresgid(65534, 65534, 65534) != 0 ||
        setresuid(65534, 65534, 65534) != 0)
      return std::string("cannot become nobody");
    const auto vm = Vm::create();
    if (vm) return std::string("it opens");
    if (vm.error().code() != ErrorCode::kHost) return std::string("another code");
    return vm.error().to_string() + "\n" + vm.error().detail();
  });
  EXPECT_NE(text.find("/dev/kvm may not be opened by nobody"), std::string::npos) << text;
  EXPECT_TRUE(text.find("usermod -aG") != std::string::npos ||
              text.find("/etc/udev/rules.d") != std::string::npos)
      << text;
}

TEST(SetUp, ACapabilityThatIsMissingIsNamed) {
  NEEDS_KVM();
  const Belongings before = belongings();
  {
    const auto vm = Vm::create([](int kvm) {
      auto answers = ask_capabilities(kvm);
      for (CapabilityAnswer& answer : answers)
        if (answer.capability->number == KVM_CAP_IMMEDIATE_EXIT) answer.value = 0;
      return answers;
    });
    ASSERT_FALSE(vm);
    EXPECT_EQ(vm.error().code(), ErrorCode::kHost);
    EXPECT_NE(vm.error().to_string().find("KVM_CAP_IMMEDIATE_EXIT (without it "), std::string::npos)
        << vm.error().to_string();
    EXPECT_EQ(vm.error().to_string().find("KVM_CAP_IRQCHIP"), std::string::npos);
  }
  EXPECT_EQ(belongings(), before);
}

}  // namespace
}  // namespace ktstr::kvm::tiny
