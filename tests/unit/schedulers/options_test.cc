#include "schedulers/ktstr-sched/options.h"

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace ktstr::sched {
namespace {

std::optional<std::uint64_t> setting(const Options& options, const std::string& variable) {
  const auto found = std::find_if(options.settings.rbegin(), options.settings.rend(),
                                  [&](const Setting& s) { return s.variable == variable; });
  if (found == options.settings.rend()) return std::nullopt;
  return found->value;
}

Options parsed(const std::vector<std::string>& arguments) {
  const Expected<Options> options = parse_options(arguments);
  EXPECT_TRUE(options) << (options ? "" : options.error().to_string());
  return options.value_or(Options{});
}

std::string error_of(const std::vector<std::string>& arguments) {
  const Expected<Options> options = parse_options(arguments);
  if (options) return "";
  EXPECT_EQ(options.error().code(), ErrorCode::kUsage);
  return options.error().to_string();
}

TEST(SchedOptions, NothingIsHealthy) {
  const Options options = parsed({});
  EXPECT_TRUE(options.settings.empty());
  EXPECT_EQ(options.timeout_ms, 5000U);
  EXPECT_FALSE(options.partial);
}

TEST(SchedOptions, SecondsAreStoredAsMilliseconds) {
  EXPECT_EQ(setting(parsed({"--stall-after", "1.5"}), "stall_after_ms"), 1500U);
  EXPECT_EQ(setting(parsed({"--error-after=2"}), "error_after_ms"), 2000U);
  EXPECT_EQ(parsed({"--exit-after", "3"}).exit_after_ms, 3000U);
}

TEST(SchedOptions, ZeroSecondsIsAtOnceAndNotNever) {
  EXPECT_EQ(setting(parsed({"--stall-after", "0"}), "stall_after_ms"), 1U);
  EXPECT_EQ(parsed({"--exit-after", "0"}).exit_after_ms, 1U);
}

TEST(SchedOptions, SomeValuesMayBeLeftOut) {
  const Options options = parsed({"--bad-dispatch", "--slow", "--unfair"});
  EXPECT_EQ(setting(options, "bad_dispatch_after_ms"), 1000U);
  EXPECT_EQ(setting(options, "fault_slow_us"), 200U);
  EXPECT_EQ(setting(options, "fault_unfair"), 1U);
  EXPECT_EQ(setting(parsed({"--slow=500"}), "fault_slow_us"), 500U);
}

TEST(SchedOptions, MicrosecondsAreStoredAsNanoseconds) {
  const Options options = parsed({"--race", "--race-window", "0.5", "--slice-us", "1000"});
  EXPECT_EQ(setting(options, "race_window_ns"), 500U);
  EXPECT_EQ(setting(options, "slice_ns"), 1'000'000U);
}

TEST(SchedOptions, HoldOnNamesAPlace) {
  EXPECT_EQ(setting(parsed({"--hold-on", "bpf"}), "hold_on_bpf"), 1U);
  const Options options = parsed({"--hold-on=dsq"});
  EXPECT_EQ(setting(options, "hold_on_bpf"), 0U);
  EXPECT_TRUE(options.hold_on_dsq);
  EXPECT_NE(error_of({"--hold-on", "disk"}).find("neither dsq nor bpf"), std::string::npos);
}

TEST(SchedOptions, BadValuesAreNamed) {
  EXPECT_NE(error_of({"--hold-every", "0"}).find("--hold-every: '0' is not a whole number from 1"),
            std::string::npos);
  for (const char* bad : {"", "x", "1x", "-1", "nan", "inf", "1e99", " 1"}) {
    EXPECT_NE(error_of({"--stall-after", bad}), "") << bad;
  }
  EXPECT_NE(error_of({"--hold-every", "1.5"}), "");
  EXPECT_NE(error_of({"--timeout-ms", "30001"}), "");
  EXPECT_NE(error_of({"--dump-size", "131073"}), "");
}

TEST(SchedOptions, BadUseIsNamed) {
  EXPECT_NE(error_of({"--stall"}).find("unknown option --stall;"), std::string::npos);
  EXPECT_NE(error_of({"stall"}).find("is no option"), std::string::npos);
  EXPECT_NE(error_of({"--stall-after"}).find("needs a value"), std::string::npos);
  EXPECT_NE(error_of({"--unfair=1"}).find("takes no value"), std::string::npos);
  EXPECT_NE(error_of({"--"}), "");
}

TEST(SchedOptions, HelpNamesEveryOption) {
  EXPECT_TRUE(parsed({"-h"}).help);
  const std::string text = help_text();
  for (const char* name : {"stall-after", "hold-every", "hold-on", "error-after", "bad-dispatch", "slow",
                           "unfair", "scatter", "race", "race-window", "fail-verify", "exit-after",
                           "timeout-ms", "dump-size", "slice-us", "seed", "partial"}) {
    EXPECT_NE(text.find("  --" + std::string(name)), std::string::npos) << name;
  }
}

TEST(SchedOptions, ASpinAndASysRq) {
  const Options options = parsed({"--spin-after", "1", "--spin-for=2.5", "--sysrq-after", "0.5"});
  EXPECT_EQ(setting(options, "spin_after_ms"), 1000U);
  EXPECT_EQ(setting(options, "spin_for_ms"), 2500U);
  EXPECT_EQ(options.sysrq_after_ms, 500U);
  EXPECT_NE(error_of({"--spin-for", "11"}), "");
}

}  // namespace
}  // namespace ktstr::sched
