#include "host/machine/tcg/child_process.h"

#include <fcntl.h>
#include <poll.h>

#include <cerrno>
#include <csignal>

#include <gtest/gtest.h>

#include "common/wait_status.h"

namespace ktstr {
namespace {

using std::chrono::milliseconds;

// All the child prints, until it closes its output.
std::string output_of(ChildProcess& child) {
  std::string text;
  char buffer[4096];
  while (true) {
    pollfd ready{.fd = child.output().get(), .events = POLLIN, .revents = 0};
    if (poll(&ready, 1, 20'000) != 1) return text + "(silence)";
    const ssize_t got = ::read(child.output().get(), buffer, sizeof(buffer));
    if (got <= 0) return text;
    text.append(buffer, static_cast<std::size_t>(got));
  }
}

Expected<ChildProcess> shell(const std::string& script, std::vector<InheritedFd> fds = {}) {
  return ChildProcess::spawn({"/bin/sh", "-c", script}, fds);
}

TEST(ChildProcess, OutputAndExitCode) {
  auto child = shell("echo out; echo err >&2; exit 7");
  ASSERT_TRUE(child) << child.error().to_string();
  EXPECT_EQ(output_of(*child), "out\nerr\n");
  const auto status = child->reap(milliseconds(20'000));
  ASSERT_TRUE(status);
  EXPECT_EQ(describe_exit(*status), "exit code 7");
}

TEST(ChildProcess, AProgramThatDoesNotExist) {
  const auto child = ChildProcess::spawn({"/nonexistent/program"}, {});
  ASSERT_FALSE(child);
  EXPECT_EQ(child.error().errno_value(), ENOENT);
  EXPECT_NE(child.error().to_string().find("/nonexistent/program"), std::string::npos);
}

TEST(ChildProcess, HasOnlyTheDescriptorsItWasGiven) {
  const UniqueFd not_inherited(open("/dev/null", O_RDONLY));  // no O_CLOEXEC
  const UniqueFd a(open("/etc/passwd", O_RDONLY | O_CLOEXEC));
  const UniqueFd b(open("/dev/zero", O_RDONLY | O_CLOEXEC));
  // Targets that are the other's source: nothing may be overwritten.
  auto child =
      shell("readlink /proc/self/fd/0 /proc/self/fd/3 /proc/self/fd/4 /proc/self/fd/5; ls /proc/self/fd",
            {{a.get(), 4}, {b.get(), 3}});
  ASSERT_TRUE(child) << child.error().to_string();
  // ls has its own folder open as 5.
  EXPECT_EQ(output_of(*child), "/dev/null\n/dev/zero\n/etc/passwd\n0\n1\n2\n3\n4\n5\n");
}

TEST(ChildProcess, SignalsAreAsInAFreshProcess) {
  sigset_t blocked;
  sigset_t before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  sigprocmask(SIG_BLOCK, &blocked, &before);
  auto child = shell("grep -E '^Sig(Blk|Ign)' /proc/self/status");
  sigprocmask(SIG_SETMASK, &before, nullptr);
  ASSERT_TRUE(child);
  EXPECT_EQ(output_of(*child), "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

TEST(ChildProcess, DiesWithItsOwner) {
  pid_t pid = -1;
  {
    auto child = shell("exec sleep 1000");
    ASSERT_TRUE(child);
    pid = child->pid();
    EXPECT_FALSE(child->reap(milliseconds(0)));
    const ChildProcess moved = std::move(*child);
    EXPECT_EQ(::kill(pid, 0), 0);
  }
  EXPECT_EQ(::kill(pid, 0), -1);
}

TEST(ChildProcess, HugePagesCanBeForbidden) {
  for (const bool huge_pages : {true, false}) {
    auto child = ChildProcess::spawn({"/bin/sh", "-c", "grep -q '^THP_enabled:.*0$' /proc/self/status"}, {},
                                     huge_pages);
    ASSERT_TRUE(child) << child.error().to_string();
    const auto status = child->reap(std::chrono::seconds(10));
    ASSERT_TRUE(status);
    EXPECT_EQ(describe_exit(*status), huge_pages ? "exit code 1" : "exit code 0");
  }
}

TEST(ChildProcess, KillIsIdempotentAndSeen) {
  auto child = shell("exec sleep 1000");
  ASSERT_TRUE(child);
  child->kill();
  child->kill();
  const auto status = child->reap(milliseconds(0));
  ASSERT_TRUE(status);
  EXPECT_EQ(describe_exit(*status), "killed by signal 9 (Killed)");
}

}  // namespace
}  // namespace ktstr
