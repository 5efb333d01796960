#include "host/monitor/exit_traps.h"

#include <algorithm>
#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/kernel/synthetic_btf.h"

namespace ktstr::test {
namespace {

constexpr std::uint64_t kText = 0xffffffff81000000;

// A kernel with these symbols, and BTF of these functions.
class ExitTrapsTest : public testing::Test {
 protected:
  struct Function {
    std::string name;
    std::vector<std::string> parameters;
  };

  std::vector<ExitTrap> find(const std::vector<std::string>& symbols, bool has_sched,
                             const std::vector<Function>& functions = {}) {
    SymbolTable::Builder builder(symbols.size());
    std::uint64_t at = kText;
    for (const std::string& name : symbols) builder.add(name, at += 0x100);
    const SymbolTable table =
        std::move(builder).finish(SymbolSource::kVmlinux, "a test", {kText, kText + 0x10000});
    SyntheticBtf made;
    const int u64 = made.integer("u64", 8);
    if (has_sched) made.structure("scx_sched", 8, {{"all", u64, 0}});
    for (const Function& function : functions) {
      std::vector<SyntheticBtf::Parameter> parameters;
      for (const std::string& name : function.parameters) parameters.push_back({name, u64});
      made.function(function.name, parameters);
    }
    const Btf btf = made.parse();
    return find_exit_traps(table, KernelTypes(btf));
  }
};

TEST_F(ExitTrapsTest, ClaimOfEachSeries) {
  struct Series {
    const char* name;
    std::vector<std::string> symbols;
    bool has_sched;
    const char* claim;
    const char* backstop;
  };
  const std::vector<Series> all = {
      {"6.12",
       {"scx_ops_exit_kind", "scx_ops_error_irq_workfn", "scx_ops_disable_workfn"},
       false,
       "scx_ops_exit_kind",
       "scx_ops_error_irq_workfn"},
      {"6.16",
       {"scx_exit", "scx_vexit", "scx_error_irq_workfn", "scx_disable_workfn"},
       true,
       "scx_vexit",
       "scx_error_irq_workfn"},
      {"6.18",
       {"scx_exit", "scx_error_irq_workfn", "scx_disable_workfn"},
       true,
       "scx_exit",
       "scx_error_irq_workfn"},
      {"7.0",
       {"scx_vexit", "scx_exit", "scx_error_irq_workfn", "scx_disable_workfn"},
       true,
       "scx_vexit",
       "scx_error_irq_workfn"},
      {"7.1",
       {"scx_claim_exit", "scx_vexit", "scx_disable_irq_workfn", "scx_disable_workfn"},
       true,
       "scx_claim_exit",
       "scx_disable_irq_workfn"},
      {"7.2",
       {"scx_vexit", "__scx_exit", "scx_disable_irq_workfn", "scx_disable_workfn"},
       true,
       "scx_vexit",
       "scx_disable_irq_workfn"},
      {"7.3",
       {"scx_exit_bstr", "scx_claim_exit", "scx_disable_irq_workfn", "scx_disable_workfn"},
       true,
       "scx_claim_exit",
       "scx_disable_irq_workfn"},
  };
  for (const Series& series : all) {
    const auto traps = find(series.symbols, series.has_sched);
    ASSERT_EQ(traps.size(), 3u) << series.name;
    EXPECT_EQ(traps[0].symbol, series.claim) << series.name;
    EXPECT_EQ(traps[0].role, ExitTrap::Role::kClaim);
    EXPECT_EQ(traps[1].symbol, series.backstop) << series.name;
    EXPECT_EQ(traps[1].role, ExitTrap::Role::kBackstop);
    EXPECT_EQ(traps[2].role, ExitTrap::Role::kDumped);
    const auto index =
        std::find(series.symbols.begin(), series.symbols.end(), series.claim) - series.symbols.begin();
    EXPECT_EQ(traps[0].address, kText + 0x100 * (static_cast<std::uint64_t>(index) + 1));
    // Without BTF of the function: the order of the source.
    EXPECT_EQ(traps[0].kind, series.has_sched ? 1u : 0u) << series.name;
    EXPECT_EQ(traps[0].sched, series.has_sched ? std::optional<std::uint32_t>(0) : std::nullopt)
        << series.name;
  }
}

TEST_F(ExitTrapsTest, ArgumentsByTheirTypes) {
  const auto traps = find({"scx_vexit"}, true, {{"scx_vexit", {"new_thing", "sch", "exit_code", "kind"}}});
  ASSERT_EQ(traps.size(), 1u);
  EXPECT_EQ(traps[0].sched, 1u);
  EXPECT_EQ(traps[0].kind, 3u);
  EXPECT_EQ(traps[0].exit_code, 2u);
  const auto legacy =
      find({"scx_ops_exit_kind"}, false, {{"scx_ops_exit_kind", {"kind", "exit_code", "fmt"}}});
  ASSERT_EQ(legacy.size(), 1u);
  EXPECT_EQ(legacy[0].sched, std::nullopt);
  EXPECT_EQ(legacy[0].kind, 0u);
}

TEST_F(ExitTrapsTest, WhereTheMessageIsTold) {
  using Form = ExitTrap::Message::Form;
  const auto list = find({"scx_vexit"}, true, {{"scx_vexit", {"sch", "kind", "exit_code", "fmt", "args"}}});
  ASSERT_EQ(list.size(), 1u);
  ASSERT_TRUE(list[0].message);
  EXPECT_EQ(list[0].message->form, Form::kVaList);
  EXPECT_EQ(list[0].message->format, 3u);
  EXPECT_EQ(list[0].message->values, 4u);
  const auto variadic = find({"scx_exit"}, true, {{"scx_exit", {"sch", "kind", "exit_code", "fmt", ""}}});
  ASSERT_EQ(variadic.size(), 1u);
  EXPECT_EQ(variadic[0].message->form, Form::kVariadic);
  // A claim without the message: those on the way to it.
  const auto told = find({"scx_claim_exit", "scx_vexit", "__scx_exit", "scx_bpf_error_bstr"}, true,
                         {{"scx_claim_exit", {"sch", "kind"}},
                          {"scx_vexit", {"sch", "kind", "exit_code", "exit_cpu", "fmt", "args"}},
                          {"scx_bpf_error_bstr", {"fmt", "data", "data__sz", "aux"}}});
  ASSERT_EQ(told.size(), 3u);
  EXPECT_EQ(told[0].role, ExitTrap::Role::kClaim);
  EXPECT_FALSE(told[0].message);
  EXPECT_EQ(told[1].symbol, "scx_vexit");
  EXPECT_EQ(told[1].role, ExitTrap::Role::kTold);
  EXPECT_EQ(told[2].message->form, Form::kArray);
  EXPECT_EQ(told[2].message->bytes, 2u);
}

TEST_F(ExitTrapsTest, NoneWithoutSchedExt) {
  EXPECT_TRUE(find({"_text", "schedule", "scx_bypass"}, false).empty());
}

TEST(Argument, OfTheSystemVAbi) {
  VcpuRegisters registers;
  registers.rdi = 1;
  registers.rsi = 2;
  registers.rdx = 3;
  registers.rcx = 4;
  registers.r8 = 5;
  registers.r9 = 6;
  for (std::uint32_t i = 0; i < 6; ++i) EXPECT_EQ(argument(registers, i), i + 1);
  EXPECT_EQ(argument(registers, 6), std::nullopt);
  EXPECT_EQ(argument(registers, 0xffffffff), std::nullopt);
}

}  // namespace
}  // namespace ktstr::test
