#include "host/run/file_sender.h"

#include <gtest/gtest.h>

namespace ktstr {
namespace {

class FileSenderTest : public ::testing::Test {
 protected:
  void bundle() {
    auto made = all_.bundle_beyond(base_);
    ASSERT_TRUE(made) << made.error().to_string();
    files_ = std::move(*made);
  }
  FileSender sender(std::uint64_t window) {
    return FileSender(
        files_,
        [this](const v1::Frame& frame) -> Expected<void> {
          if (fails_) return fail(ErrorCode::kHost, "the port is closed");
          sent_.push_back(frame);
          return {};
        },
        window);
  }
  static std::uint64_t size_of(const v1::FileData& data) {
    return data.inflated() != 0 ? data.inflated() : data.data().size();
  }
  std::uint64_t data_sent() const {
    std::uint64_t bytes = 0;
    for (const v1::Frame& frame : sent_) bytes += size_of(frame.file_data());
    return bytes;
  }

  InitramfsBuilder base_, all_;
  FileBundle files_;
  std::vector<v1::Frame> sent_;
  bool fails_ = false;
};

TEST_F(FileSenderTest, OnlyWhatTheInitramfsDoesNotHoldIsSent) {
  ASSERT_TRUE(base_.add_bytes("/lib/base", "base", 0644));
  all_ = base_;
  ASSERT_TRUE(all_.add_bytes("/ktstr/bin/program", "contents", 0755));
  ASSERT_TRUE(all_.add_bytes("/lib/empty", "", 0600));
  ASSERT_TRUE(all_.add_symlink("/lib/link", "empty"));
  bundle();
  FileSender files = sender(100);
  ASSERT_TRUE(files.pump());
  EXPECT_TRUE(files.done());
  ASSERT_EQ(sent_.size(), 6U);
  EXPECT_EQ(sent_[0].file().path(), "/ktstr");
  EXPECT_EQ(sent_[0].file().kind(), v1::File::FOLDER);
  EXPECT_EQ(sent_[1].file().path(), "/ktstr/bin");
  EXPECT_EQ(sent_[2].file().path(), "/ktstr/bin/program");
  EXPECT_EQ(sent_[2].file().mode(), 0755U);
  EXPECT_EQ(sent_[2].file().size(), 8U);
  EXPECT_EQ(sent_[3].file_data().data(), "contents");
  EXPECT_EQ(sent_[4].file().path(), "/lib/empty");
  EXPECT_EQ(sent_[5].file().target(), "empty");
}

TEST_F(FileSenderTest, NoMoreThanAWindowIsOnItsWay) {
  const std::string large(5 * FileSender::kChunk + 7, 'x');
  ASSERT_TRUE(all_.add_bytes("/large", large, 0644));
  bundle();
  FileSender files = sender(2 * FileSender::kChunk);
  ASSERT_TRUE(files.pump());
  EXPECT_EQ(data_sent(), 2 * FileSender::kChunk);
  EXPECT_FALSE(files.done());
  ASSERT_TRUE(files.pump());
  EXPECT_EQ(data_sent(), 2 * FileSender::kChunk);
  files.acknowledge(UINT64_MAX);  // more than was sent
  ASSERT_TRUE(files.pump());
  EXPECT_EQ(data_sent(), 2 * FileSender::kChunk);
  files.acknowledge(FileSender::kChunk);
  files.acknowledge(0);  // not taken back
  ASSERT_TRUE(files.pump());
  EXPECT_EQ(data_sent(), 3 * FileSender::kChunk);
  for (std::uint64_t taken = 2; taken < 6; ++taken) {
    files.acknowledge(taken * FileSender::kChunk);
    ASSERT_TRUE(files.pump());
  }
  EXPECT_TRUE(files.done());
  EXPECT_EQ(data_sent(), large.size());
}

TEST_F(FileSenderTest, WhatGetsShorterIsPackedAndTheRestIsNot) {
  ASSERT_TRUE(all_.add_bytes("/long", std::string(1000, 'x'), 0644));
  ASSERT_TRUE(all_.add_bytes("/short", "x", 0644));
  bundle();
  FileSender files = sender(2000);
  ASSERT_TRUE(files.pump());
  ASSERT_EQ(sent_.size(), 4U);
  EXPECT_EQ(sent_[1].file_data().inflated(), 1000U);
  EXPECT_LT(sent_[1].file_data().data().size(), 100U);
  EXPECT_EQ(sent_[3].file_data().inflated(), 0U);
  EXPECT_EQ(sent_[3].file_data().data(), "x");
}

TEST_F(FileSenderTest, NothingToSendIsDoneAtOnce) {
  bundle();
  EXPECT_TRUE(sender(1).done());
}

TEST_F(FileSenderTest, APortThatFailsIsAnError) {
  ASSERT_TRUE(all_.add_bytes("/a", "a", 0644));
  bundle();
  fails_ = true;
  FileSender files = sender(1);
  EXPECT_FALSE(files.pump());
}

}  // namespace
}  // namespace ktstr
