#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <stdexcept>

#include <gtest/gtest.h>

#include "common/frame_codec.h"
#include "guest/init/crash_reporter.h"
#include "guest/init/crash_text.h"
#include "guest/init/own_symbols.h"
#include "tests/unit/guest/init_pair.h"

namespace ktstr::guest {
namespace {

TEST(CrashFrame, IsAFrameLikeAnyOther) {
  const std::string backtrace(300, 'b');  // needs a two-byte length
  std::array<char, 1000> buffer{};
  const std::size_t size = encode_crash_frame(buffer, 123456789, 7, "reason", backtrace);
  ASSERT_GT(size, kFrameHeaderSize);

  FrameDecoder decoder;
  decoder.feed(std::as_bytes(std::span(buffer)).first(size));
  const auto payload = decoder.next();
  ASSERT_TRUE(payload);
  v1::Frame frame;
  ASSERT_TRUE(frame.ParseFromString(*payload));
  EXPECT_EQ(frame.guest_ns(), 123456789U);
  EXPECT_EQ(frame.init_crash().reason(), "reason");
  EXPECT_EQ(frame.init_crash().backtrace(), backtrace);
  EXPECT_EQ(decoder.stats().lost, 7U);  // the sequence number arrived
}

TEST(CrashFrame, DoesNotOverrunItsBuffer) {
  std::array<char, 64> buffer{};
  EXPECT_EQ(encode_crash_frame(buffer, 1, 0, "reason", std::string(100, 'b')), 0U);
  EXPECT_EQ(encode_crash_frame(std::span(buffer).first(8), 1, 0, "", ""), 0U);
}

TEST(CrashText, FormatsAndCuts) {
  CrashText<16> text;
  text << "a\x01\xff";
  text.hex(0xdeadbeef).dec(0).dec(18446744073709551615U);
  EXPECT_EQ(text.view(), "a??0xdeadbeef018");
}

[[gnu::noinline]] int find_me() {
  return ::getpid();
}

TEST(OwnSymbols, NamesAFunctionOfThisProgram) {
  const OwnSymbols symbols;
  const auto symbol = symbols.find(reinterpret_cast<std::uintptr_t>(&find_me) + 1);
  EXPECT_NE(symbol.name.find("find_me"), std::string_view::npos);
  EXPECT_EQ(symbol.offset, 1U);
  EXPECT_TRUE(symbols.find(1).name.empty());
  EXPECT_GT(find_me(), 0);
}

// Runs `crash` in a child with the reporter installed; returns the frames that come out and the child's wait
// status.
template <typename F>
std::pair<std::vector<v1::Frame>, int> crash_in_child(F crash) {
  test::HostEnd host;
  const UniqueFd port = host.take_guest_fd();
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(STDERR_FILENO);
    ::open("/dev/null", O_WRONLY);
    install_crash_reporter();
    set_crash_frame_port(port.get());
    set_crash_sequence(0);
    crash();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return {host.receive(), status};
}

TEST(CrashReporter, ReportsASignalWithABacktrace) {
  const auto [frames, status] = crash_in_child([] { ::raise(SIGSEGV); });
  ASSERT_EQ(frames.size(), 1U);
  EXPECT_TRUE(frames[0].init_crash().reason().starts_with("PID 1 got SIGSEGV"));
  EXPECT_NE(frames[0].init_crash().backtrace().find("TestBody"), std::string::npos)
      << frames[0].init_crash().backtrace();
  EXPECT_EQ(WEXITSTATUS(status), 134);
}

[[noreturn]] void throw_error() {
  throw std::runtime_error("why not");
}

TEST(CrashReporter, ReportsAnUncaughtException) {
  const auto [frames, status] = crash_in_child([]() noexcept { throw_error(); });
  ASSERT_EQ(frames.size(), 1U);
  EXPECT_NE(frames[0].init_crash().reason().find("why not"), std::string::npos);
  EXPECT_EQ(WEXITSTATUS(status), 134);
}

TEST(CrashReporter, LeavesForkedChildrenAlone) {
  const auto [frames, status] = crash_in_child([] {
    const pid_t worker = ::fork();
    if (worker == 0) ::raise(SIGABRT);
    int worker_status = 0;
    ::waitpid(worker, &worker_status, 0);
    ::_exit(WIFSIGNALED(worker_status) ? WTERMSIG(worker_status) : 99);
  });
  EXPECT_TRUE(frames.empty());
  EXPECT_EQ(WEXITSTATUS(status), SIGABRT);
}

}  // namespace
}  // namespace ktstr::guest
