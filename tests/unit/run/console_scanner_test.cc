#include "host/run/console_scanner.h"

#include <gtest/gtest.h>

namespace ktstr {
namespace {

void feed(ConsoleScanner& scanner, std::string_view text) {
  scanner.feed(std::as_bytes(std::span(text.data(), text.size())));
}

TEST(ConsoleScanner, FindsAPanicAndCutsItsTimeStamp) {
  ConsoleScanner scanner;
  feed(scanner, "[    1.234567][    T1] Kernel panic - not syncing: sysrq triggered crash\r\n");
  ASSERT_TRUE(scanner.panic());
  EXPECT_EQ(scanner.panic()->line, "Kernel panic - not syncing: sysrq triggered crash");
}

TEST(ConsoleScanner, FindsAMessageThatArrivesByteByByte) {
  ConsoleScanner scanner;
  for (const char c : std::string("[ 1.0] BUG: kernel NULL pointer dereference, address: 0\n"))
    feed(scanner, {&c, 1});
  ASSERT_TRUE(scanner.oops());
  EXPECT_FALSE(scanner.panic());
}

TEST(ConsoleScanner, OrdinaryBootMessagesAreNothing) {
  ConsoleScanner scanner;
  feed(scanner, "Linux version 7.2.13\nrcu: Hierarchical RCU implementation.\nNMI watchdog: Enabled.\n");
  EXPECT_FALSE(scanner.panic() || scanner.oops() || scanner.lockup());
  EXPECT_TRUE(scanner.warnings().empty());
}

TEST(ConsoleScanner, TellsLockupsFromWarnings) {
  ConsoleScanner scanner;
  feed(scanner,
       "watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [ktstr:77]\nWARNING: CPU: 0 PID: 1 at kernel/x.c:1 "
       "f+0x1/0x2\n");
  ASSERT_TRUE(scanner.lockup());
  EXPECT_EQ(scanner.warnings().size(), 1U);
}

TEST(ConsoleScanner, ALineWithoutEndIsBounded) {
  ConsoleScanner scanner;
  for (int i = 0; i < 1000; ++i) feed(scanner, std::string(1000, 'x'));
  scanner.finish();
  ASSERT_EQ(scanner.tail(1).size(), 1U);
  EXPECT_EQ(scanner.tail(1)[0].size(), ConsoleScanner::kMaxLine);
}

TEST(ConsoleScanner, TerminalEscapesDoNotGetThrough) {
  EXPECT_EQ(printable("a\x1b[31mred\x1b[0m\x07 \xff\r"), "ared? ?");
  EXPECT_EQ(printable("\x1b["), "");
}

TEST(ConsoleScanner, AnInt3WhoseByteIsGoneIsTheEmulators) {
  ConsoleScanner scanner;
  feed(scanner,
       "Oops: int3: 0000 [#1] SMP\nRIP: 0010:__schedule+0x12\nCode: 48 89 e5 0f 1f 44 00 <00> 48 8b\n");
  EXPECT_TRUE(scanner.emulator_int3());
}

TEST(ConsoleScanner, AnInt3ThatIsStillThereIsTheKernels) {
  for (const char* code : {"Code: 48 89 e5 cc <90> 48 8b\n", "Code: 48 89 e5 90 <cc> 48 8b\n"}) {
    ConsoleScanner scanner;
    feed(scanner, "Oops: int3: 0000 [#1] SMP\n");
    feed(scanner, code);
    EXPECT_FALSE(scanner.emulator_int3()) << code;
  }
}

TEST(ConsoleScanner, AnInt3WithoutCodeBytesIsNotExcused) {
  ConsoleScanner scanner;
  feed(scanner, "Oops: int3: 0000 [#1] SMP\nCode: Unable to access opcode bytes at 0x1.\n");
  EXPECT_FALSE(scanner.emulator_int3());
}

TEST(ConsoleScanner, KeepsTheNewestLines) {
  ConsoleScanner scanner;
  for (int i = 0; i < 100; ++i) feed(scanner, std::to_string(i) + "\n");
  EXPECT_EQ(scanner.tail(2), (std::vector<std::string>{"98", "99"}));
}

}  // namespace
}  // namespace ktstr
