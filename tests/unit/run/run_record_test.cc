#include "host/run/run_record.h"

#include <fcntl.h>

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

namespace ktstr {
namespace {

namespace fs = std::filesystem;

class RunRecordTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "ktstr-record-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string path() const { return (folder_ / "frames.bin").string(); }
  BoundedLog log() const {
    return {UniqueFd(::open(path().c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)), 1 << 20};
  }
  // Records these frames, and gives them back as an earlier run's.
  RecordedFrames recorded(const std::vector<std::string>& frames) const {
    RunRecord record(log());
    for (const std::string& frame : frames) record.frame(frame);
    auto opened = RecordedFrames::open(path());
    EXPECT_TRUE(opened) << opened.error().to_string();
    return std::move(*opened);
  }
  static std::string heartbeat(std::uint64_t ns) {
    ktstr::v1::Frame frame;
    frame.set_guest_ns(ns);
    frame.mutable_heartbeat()->set_phase("x");
    return frame.SerializeAsString();
  }

  fs::path folder_;
};

TEST_F(RunRecordTest, TheSameFramesAreIdentical) {
  auto earlier = recorded({heartbeat(1), "", heartbeat(2)});
  RunRecord record(BoundedLog(), &earlier);
  for (const std::string& frame : {heartbeat(1), std::string(), heartbeat(2)}) record.frame(frame);
  earlier.finish();
  EXPECT_FALSE(earlier.difference());
  EXPECT_EQ(earlier.compared(), 3U);
}

TEST_F(RunRecordTest, TheFirstDifferenceIsNamedWithItsFrameAndTime) {
  auto earlier = recorded({heartbeat(1), heartbeat(2'000'000'000), heartbeat(3)});
  for (const std::string& frame : {heartbeat(1), heartbeat(2'500'000'000), heartbeat(4)})
    earlier.compare(frame);
  earlier.finish();
  ASSERT_TRUE(earlier.difference());
  EXPECT_EQ(earlier.difference()->frame, 1U);
  EXPECT_NE(earlier.difference()->text.find("heartbeat at 2.000000000 s"), std::string::npos);
  EXPECT_NE(earlier.difference()->text.find("heartbeat at 2.500000000 s"), std::string::npos);
}

TEST_F(RunRecordTest, ARunThatEndsEarlierOrLaterDiffers) {
  auto shorter = recorded({heartbeat(1), heartbeat(2)});
  shorter.compare(heartbeat(1));
  shorter.finish();
  ASSERT_TRUE(shorter.difference());
  EXPECT_EQ(shorter.difference()->frame, 1U);
  auto longer = recorded({heartbeat(1)});
  longer.compare(heartbeat(1));
  longer.compare("\xff");
  ASSERT_TRUE(longer.difference());
  EXPECT_NE(longer.difference()->text.find("no frame, 1 bytes"), std::string::npos)
      << longer.difference()->text;
}

TEST_F(RunRecordTest, ADamagedFileIsAnError) {
  static_cast<void>(recorded({heartbeat(1), heartbeat(2)}));
  fs::resize_file(path(), fs::file_size(path()) - 1);
  const auto opened = RecordedFrames::open(path());
  ASSERT_FALSE(opened);
  EXPECT_NE(opened.error().to_string().find("damaged or cut off"), std::string::npos);
  std::ofstream(path(), std::ios::binary) << std::string("\xff\xff\xff\xff", 4);
  EXPECT_FALSE(RecordedFrames::open(path()));
  EXPECT_FALSE(RecordedFrames::open(path() + ".not"));
}

TEST_F(RunRecordTest, FingerprintsDependOnTheBordersBetweenFrames) {
  ktstr::v1::Determinism a;
  ktstr::v1::Determinism b;
  RunRecord one{BoundedLog()};
  RunRecord two{BoundedLog()};
  one.frame("ab");
  one.frame("c");
  two.frame("a");
  two.frame("bc");
  one.describe(a);
  two.describe(b);
  EXPECT_EQ(a.frames(), 2U);
  EXPECT_NE(a.frames_xxh3(), b.frames_xxh3());
  EXPECT_EQ(a.console_xxh3(), b.console_xxh3());
}

TEST_F(RunRecordTest, TheFirstDisturbanceCounts) {
  RunRecord record{BoundedLog()};
  record.frame("a");
  record.disturbed("ended by SIGINT");
  record.disturbed("something else");
  ktstr::v1::Determinism determinism;
  record.describe(determinism);
  EXPECT_EQ(determinism.identical_until(), "identical until frame 1: ended by SIGINT");
}

}  // namespace
}  // namespace ktstr
