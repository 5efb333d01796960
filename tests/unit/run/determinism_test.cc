// What follows from a seed, and how inputs of two runs are compared.
#include "host/run/determinism.h"

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "common/xxh3.h"

namespace ktstr {
namespace {

namespace fs = std::filesystem;
using ktstr::v1::InputFile;

TEST(Seed, IsAWholeNumber) {
  for (const char* good : {"0", "1", "18446744073709551615"}) EXPECT_TRUE(derive_from_seed(good)) << good;
  for (const char* bad : {"", "x", "-1", "1x", " 1", "1.5", "0x10", "18446744073709551616"}) {
    const auto derived = derive_from_seed(bad);
    ASSERT_FALSE(derived) << bad;
    EXPECT_EQ(derived.error().code(), ErrorCode::kUsage);
    EXPECT_NE(derived.error().to_string().find("whole number"), std::string::npos);
  }
}

TEST(Seed, TheSameGivesTheSameAndAnotherGivesAnother) {
  const auto one = derive_from_seed("1");
  ASSERT_TRUE(one);
  EXPECT_EQ(one->SerializeAsString(), derive_from_seed("1")->SerializeAsString());
  const auto two = derive_from_seed("2");
  EXPECT_NE(one->random_seed(), two->random_seed());
  EXPECT_NE(one->jitter_seed(), two->jitter_seed());
}

TEST(Seed, BothClockRatesOccurAndNoOther) {
  int slow = 0;
  for (int seed = 0; seed < 100; ++seed) {
    const auto derived = derive_from_seed(std::to_string(seed));
    ASSERT_TRUE(derived);
    ASSERT_TRUE(derived->clock_shift() == 2 || derived->clock_shift() == 3);
    EXPECT_NE(derived->jitter_seed(), 0U);
    slow += derived->clock_shift() == 3 ? 1 : 0;
  }
  EXPECT_GT(slow, 20);
  EXPECT_LT(slow, 80);
}

TEST(PlanForGuest, SaysNothingAboutTheHost) {
  ktstr::v1::RunPlan plan;
  plan.set_schema_version(1);
  plan.set_run_id("20261121T000000Z-abc");
  plan.mutable_kernel()->set_path("/home/me/bzImage");
  plan.mutable_kernel()->set_release("7.2");
  plan.mutable_kernel()->set_config_source("/home/me/.config");
  plan.mutable_kernel()->set_command_line("quiet");
  plan.mutable_scheduler()->set_host_path("/home/me/scx");
  plan.mutable_scheduler()->set_guest_path("/ktstr/bin/scx");
  plan.add_includes()->set_host_path("/home/me/file");
  const auto lean = plan_for_guest(plan);
  EXPECT_EQ(lean.SerializeAsString().find("/home/me"), std::string::npos);
  EXPECT_TRUE(lean.run_id().empty());
  EXPECT_EQ(lean.scheduler().guest_path(), "/ktstr/bin/scx");
  EXPECT_EQ(lean.kernel().release(), "7.2");
}

TEST(PlanForGuest, AddsNoScheduler) {
  EXPECT_FALSE(plan_for_guest({}).has_scheduler());
}

InputFile input(const std::string& kind, const std::string& path, const std::string& content,
                const std::string& guest_path = "") {
  InputFile file;
  file.set_kind(kind);
  file.set_path(path);
  file.set_guest_path(guest_path);
  file.set_bytes(content.size());
  file.set_xxh3(Xxh3::hex_of(content));
  return file;
}

google::protobuf::RepeatedPtrField<InputFile> list(const std::vector<InputFile>& inputs) {
  return {inputs.begin(), inputs.end()};
}

TEST(CompareInputs, EqualOnesAreNoChange) {
  const std::vector<InputFile> inputs{input("kernel", "/k", "a"), input("plan", "", "b")};
  EXPECT_TRUE(compare_inputs(list(inputs), inputs).empty());
}

TEST(CompareInputs, NamesWhatIsNewGoneOrDifferent) {
  const std::vector<InputFile> then{input("kernel", "/k", "abc"), input("plan", "", "b"),
                                    input("guest file", "/old", "c", "/lib/libc.so")};
  const std::vector<InputFile> now{input("kernel", "/k", "abcd"), input("plan", "", "b"),
                                   input("guest file", "/new", "c", "/lib/libm.so")};
  const auto changes = compare_inputs(list(then), now);
  ASSERT_EQ(changes.size(), 3U);
  EXPECT_EQ(changes[0], "kernel '/k' has changed: 3 bytes then, 4 now");
  EXPECT_EQ(changes[1], "guest file '/lib/libc.so' is not used any more");
  EXPECT_EQ(changes[2], "guest file '/lib/libm.so' was not there then");
}

TEST(CompareInputs, AFileThatMovedButIsTheSameInTheGuestIsNoChange) {
  EXPECT_TRUE(compare_inputs(list({input("guest file", "/old/scx", "c", "/ktstr/bin/scx")}),
                             {input("guest file", "/new/scx", "c", "/ktstr/bin/scx")})
                  .empty());
}

TEST(CheckInputFiles, ReadsThemAgain) {
  std::string pattern = (fs::temp_directory_path() / "ktstr-inputs-XXXXXX").string();
  ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
  const fs::path folder = pattern;
  std::ofstream(folder / "same") << "content";
  std::ofstream(folder / "changed") << "content!";
  const auto changes = check_input_files(
      list({input("kernel", (folder / "same").string(), "content"),
            input("kernel", (folder / "changed").string(), "content"),
            input("kernel", (folder / "gone").string(), "content"), input("plan", "", "whatever")}));
  ASSERT_EQ(changes.size(), 2U);
  EXPECT_NE(changes[0].find("changed' has changed: 7 bytes then, 8 now"), std::string::npos) << changes[0];
  EXPECT_NE(changes[1].find("gone': No such file"), std::string::npos) << changes[1];
  fs::remove_all(folder);
}

}  // namespace
}  // namespace ktstr
