#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "guest/init/scx_state.h"

namespace ktstr::guest {
namespace {

TEST(ScxPhase, IsOneOfFourWordsOrUnknown) {
  EXPECT_EQ(parse_scx_phase("enabled\n"), ScxPhase::kEnabled);
  EXPECT_EQ(parse_scx_phase("enabling\n"), ScxPhase::kEnabling);
  EXPECT_EQ(parse_scx_phase("disabling\n"), ScxPhase::kDisabling);
  EXPECT_EQ(parse_scx_phase("disabled"), ScxPhase::kDisabled);
  for (const char* text : {"", "\n", "enabled ", "ENABLED", "enable", "prep_enabled\n", " enabled"}) {
    EXPECT_EQ(parse_scx_phase(text), ScxPhase::kUnknown) << text;
  }
  EXPECT_EQ(parse_scx_phase(std::string_view("enabled\0", 8)), ScxPhase::kUnknown);
  EXPECT_EQ(to_string(ScxPhase::kEnabled), "enabled");
  EXPECT_EQ(to_string(ScxPhase::kUnknown), "unknown");
}

TEST(OpsName, IsOnePrintableBoundedLine) {
  EXPECT_EQ(parse_ops_name("simple\n"), "simple");
  EXPECT_EQ(parse_ops_name("a\x1b[31m\xff\nsecond"), "a?[31m?");
  EXPECT_EQ(parse_ops_name(std::string(1000, 'x')).size(), 128U);
  EXPECT_EQ(parse_ops_name(""), "");
}

class ScxStateReaderTest : public testing::Test {
 public:
  ScxStateReaderTest() { std::filesystem::create_directories(root_ + "/root"); }
  ~ScxStateReaderTest() override { std::filesystem::remove_all(root_); }
  ScxStateReaderTest(const ScxStateReaderTest&) = delete;
  ScxStateReaderTest& operator=(const ScxStateReaderTest&) = delete;

 protected:
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(root_ + "/" + name) << text;
  }
  static std::string make() {
    std::string name = testing::TempDir() + "scx-state-XXXXXX";
    return ::mkdtemp(name.data());
  }
  std::string root_ = make();
};

TEST_F(ScxStateReaderTest, ReadsStateNameAndSequence) {
  write("state", "enabled\n");
  write("root/ops", "lavd\n");
  write("enable_seq", "17\n");
  const ScxStateReader reader(root_);
  EXPECT_TRUE(reader.supported());
  EXPECT_EQ(reader.read().phase, ScxPhase::kEnabled);
  EXPECT_EQ(reader.read().ops, "lavd");
  EXPECT_EQ(reader.enable_seq(), 17U);
}

TEST_F(ScxStateReaderTest, MissingOrStrangeFilesAreUnknown) {
  const ScxStateReader reader(root_);
  EXPECT_FALSE(reader.supported());
  EXPECT_EQ(reader.phase(), ScxPhase::kUnknown);
  EXPECT_TRUE(reader.read().ops.empty());
  EXPECT_FALSE(reader.enable_seq());
  write("enable_seq", "-1");
  EXPECT_FALSE(reader.enable_seq());
  write("enable_seq", "99999999999999999999999");
  EXPECT_FALSE(reader.enable_seq());
  write("state", std::string(1 << 20, 'e'));
  EXPECT_EQ(reader.phase(), ScxPhase::kUnknown);
}

}  // namespace
}  // namespace ktstr::guest
