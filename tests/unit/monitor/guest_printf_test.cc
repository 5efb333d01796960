#include "host/monitor/guest_printf.h"

#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/inspect/scx/fake_guest.h"

namespace ktstr::test {
namespace {

constexpr Kva kNowhere{0xffffc90000000000};

class GuestPrintfTest : public testing::Test {
 protected:
  static ReadBudget plenty() { return {std::uint64_t{64} << 10, 2000}; }

  Kva array(const std::vector<std::uint64_t>& values) {
    const Kva at = guest_.alloc(8 * values.size() + 8);
    for (std::size_t i = 0; i < values.size(); ++i) guest_.write(at + 8 * i, values[i]);
    return at;
  }
  ExpandedFormat expand(std::string_view format, const std::vector<std::uint64_t>& values = {}) {
    ReadBudget budget = plenty();
    return expand_format(guest_.memory(), guest_.text(format),
                         GuestVarargs::of_array(array(values), 8 * values.size()), &guest_.kernel(), budget);
  }
  std::string text(std::string_view format, const std::vector<std::uint64_t>& values = {}) {
    const ExpandedFormat expanded = expand(format, values);
    EXPECT_EQ(expanded.problem, "") << format;
    return expanded.text;
  }
  std::uint64_t string(std::string_view text) { return guest_.text(text).value(); }

  FakeGuest guest_;
};

TEST_F(GuestPrintfTest, PlainTextAndPercent) {
  EXPECT_EQ(text("Disabled"), "Disabled");
  EXPECT_EQ(text(""), "");
  EXPECT_EQ(text("100%% of %s", {string("it")}), "100% of it");
}

// The formats of kernel/sched/ext.c.
TEST_F(GuestPrintfTest, TheKernelsOwn) {
  EXPECT_EQ(text("%s[%d] failed to run for %u.%03us", {string("worker"), 73, 3, 50}),
            "worker[73] failed to run for 3.050s");
  EXPECT_EQ(text("invalid DSQ ID 0x%016llx", {0xbad}), "invalid DSQ ID 0x0000000000000bad");
  EXPECT_EQ(text("%s", {string("ktstr_sched: error on request after 1004 ms")}),
            "ktstr_sched: error on request after 1004 ms");
}

TEST_F(GuestPrintfTest, Integers) {
  EXPECT_EQ(text("%d %i %u", {0xffffffffffffffff, 0x1fffffffe, 0xffffffffffffffff}), "-1 -2 4294967295");
  EXPECT_EQ(text("%ld %lld %zd %hd %hhd", {~0ULL, ~0ULL, ~0ULL, 0x18000, 0x1ff}), "-1 -1 -1 -32768 -1");
  EXPECT_EQ(text("%lld", {0x8000000000000000}), "-9223372036854775808");
  EXPECT_EQ(text("%llu %lx %X %o", {~0ULL, 0xabcdef, 0xabcdef, 8}), "18446744073709551615 abcdef ABCDEF 10");
  EXPECT_EQ(text("[%5d|%-5d|%05d|%+d|% d]", {42, 42, 0xffffffd6, 42, 42}), "[   42|42   |-0042|+42| 42]");
  EXPECT_EQ(text("%#x %#o %#010x %.4d %8.4d", {255, 8, 255, 7, 7}), "0xff 010 0x000000ff 0007     0007");
  EXPECT_EQ(text("[%*d|%-*d|%*d]", {4, 1, 4, 2, 0xfffffffc, 3}), "[   1|2   |3   ]");
}

TEST_F(GuestPrintfTest, StringsAndCharacters) {
  EXPECT_EQ(text("[%5s|%-5s|%.2s|%.*s]", {string("abc"), string("abc"), string("abc"), 1, string("abc")}),
            "[  abc|abc  |ab|a]");
  EXPECT_EQ(text("%c%3c", {'x', 'y'}), "x  y");
  EXPECT_EQ(text("one%ctwo", {0}), "one");
  EXPECT_EQ(text("%s", {0}), "(null)");
}

TEST_F(GuestPrintfTest, Pointers) {
  EXPECT_EQ(text("%p %px", {0x1234, 0x1234}), "0x0000000000001234 0000000000001234");
  const std::uint64_t function = guest_.symbol("scx_vexit").value();
  EXPECT_EQ(text("%pS %ps", {function + 4, function + 4}).substr(0, 9), "scx_vexit");
  EXPECT_EQ(text("at %ps!", {function}), "at scx_vexit!");
  const ExpandedFormat bitmap = expand("%*pbl", {8, 0x1000});
  EXPECT_EQ(bitmap.text, "0x0000000000001000");
  EXPECT_NE(bitmap.problem.find("%pbl"), std::string::npos) << bitmap.problem;
}

TEST_F(GuestPrintfTest, WhatCannotBeReadIsSaid) {
  const ExpandedFormat lost = expand("it is %s, %d", {kNowhere.value(), 5});
  EXPECT_EQ(lost.text, "it is (unreadable), 5");
  EXPECT_NE(lost.problem.find("a string cannot be read"), std::string::npos) << lost.problem;
  const ExpandedFormat few = expand("%d and %d", {1});
  EXPECT_EQ(few.text, "1 and ");
  EXPECT_NE(few.problem.find("fewer arguments"), std::string::npos) << few.problem;
  ReadBudget budget = plenty();
  const ExpandedFormat none =
      expand_format(guest_.memory(), kNowhere, GuestVarargs::of_array(Kva(), 0), nullptr, budget);
  EXPECT_EQ(none.text, "");
  EXPECT_NE(none.problem.find("the format string"), std::string::npos) << none.problem;
}

TEST_F(GuestPrintfTest, HostileFormats) {
  EXPECT_NE(expand("%q %d", {1}).problem, "");
  EXPECT_EQ(expand("a%", {1}).text, "a%");
  EXPECT_EQ(expand("%", {}).text, "%");
  EXPECT_EQ(expand("%-", {}).text, "%-");
  // Widths and precisions that would fill a disk.
  EXPECT_EQ(text("%999999999999999999999d", {1}).size(), kMaxMessage);
  EXPECT_EQ(text("%.999999999d", {1}).size(), kMaxMessage);
  EXPECT_EQ(text("%*d", {0x7fffffff, 1}).size(), kMaxMessage);
  EXPECT_EQ(text("%*d", {0x80000000, 1}).size(), kMaxMessage);
  EXPECT_EQ(text("%.*d", {0x80000000, 1}), "1");
  std::string many;
  for (int i = 0; i < 100; ++i) many += "%1000d";
  EXPECT_EQ(expand(many, std::vector<std::uint64_t>(100, 1)).text.size(), kMaxMessage);
  // No end within reach.
  EXPECT_EQ(text(std::string(5000, 'x')).size(), kMaxMessage);
  EXPECT_EQ(text("%s", {string(std::string(5000, 'y'))}).size(), kMaxMessage);
}

TEST_F(GuestPrintfTest, TheBudgetEndsIt) {
  ReadBudget budget(100, 3);
  std::string many;
  for (int i = 0; i < 50; ++i) many += "%d ";
  const ExpandedFormat expanded = expand_format(
      guest_.memory(), guest_.text(many), GuestVarargs::of_array(array({1, 2, 3}), 4000), nullptr, budget);
  EXPECT_NE(expanded.problem, "");
}

TEST_F(GuestPrintfTest, ArgumentsAtAFunctionsEntry) {
  VcpuRegisters registers;
  registers.r8 = 1;
  registers.r9 = 2;
  const Kva stack = array({0xdead, 3, 4});
  registers.rsp = stack.value();
  ReadBudget budget = plenty();
  EXPECT_EQ(expand_format(guest_.memory(), guest_.text("%d %d %d %d"), GuestVarargs::at_entry(registers, 4),
                          nullptr, budget)
                .text,
            "1 2 3 4");
  // Named arguments that lie on the stack themselves.
  EXPECT_EQ(
      expand_format(guest_.memory(), guest_.text("%d"), GuestVarargs::at_entry(registers, 7), nullptr, budget)
          .text,
      "4");
}

TEST_F(GuestPrintfTest, ArgumentsOfAVaList) {
  const Kva saved = array({11, 12, 13, 14, 15, 16});
  const Kva overflow = array({17, 18});
  const auto list = [&](std::uint32_t gp_offset) {
    const Kva at = guest_.alloc(24);
    guest_.write(at, gp_offset);
    guest_.write(at + 4, std::uint32_t{48});
    guest_.write(at + 8, overflow.value());
    guest_.write(at + 16, saved.value());
    return at;
  };
  ReadBudget budget = plenty();
  const auto read = [&](std::uint32_t gp_offset) {
    auto arguments = GuestVarargs::of_va_list(guest_.memory(), list(gp_offset), budget);
    if (!arguments) return arguments.error();
    return expand_format(guest_.memory(), guest_.text("%d %d %d"), *arguments, nullptr, budget).text;
  };
  EXPECT_EQ(read(32), "15 16 17");
  EXPECT_EQ(read(0), "11 12 13");
  EXPECT_EQ(read(40), "16 17 18");
  for (const std::uint32_t bad : {4U, 56U, 0xfffffff8U})
    EXPECT_NE(read(bad).find("no va_list"), std::string::npos);
  EXPECT_FALSE(GuestVarargs::of_va_list(guest_.memory(), kNowhere, budget));
}

}  // namespace
}  // namespace ktstr::test
