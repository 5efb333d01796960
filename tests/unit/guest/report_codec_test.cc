#include "guest/workload/report_codec.h"

#include <cstring>

#include <gtest/gtest.h>

#include "common/crc32c.h"
#include "guest/workload/reservoir.h"

namespace ktstr::guest {
namespace {

using ktstr::v1::WorkerReport;

class ReportCodec : public ::testing::Test {
 protected:
  void SetUp() override {
    auto area = SharedArea::create(2);
    ASSERT_TRUE(area);
    area_.emplace(*std::move(area));
  }
  WorkerSlot& slot() { return area_->slot(1); }
  std::span<std::byte> bytes() { return area_->report(1); }
  // What a worker leaves behind that claims `length` bytes of which the checksum is right.
  void plant(const std::string& content, std::uint32_t length) {
    std::memcpy(bytes().data(), content.data(), content.size());
    slot().report_length = length;
    slot().report_crc = crc32c(bytes().first(std::min<std::size_t>(length, bytes().size())));
    slot().phase.store(static_cast<std::uint32_t>(WorkerPhase::kReported));
  }
  std::optional<SharedArea> area_;
};

TEST_F(ReportCodec, RoundTrip) {
  WorkerReport report;
  report.set_tid(57);  // one byte 0x72 in some encodings: nothing may be stripped
  report.set_work_units(1024);
  report.add_wake_latencies_ns(7);
  report.set_completed(true);
  ASSERT_TRUE(commit_report(report, slot(), bytes()));
  const auto read = read_report(slot(), bytes());
  ASSERT_TRUE(read);
  EXPECT_EQ(read->SerializeAsString(), report.SerializeAsString());
}

TEST_F(ReportCodec, LargestReportFits) {
  WorkerReport report;
  for (std::size_t i = 0; i < Reservoir::kCapacity; ++i) report.add_wake_latencies_ns(~std::uint64_t{0});
  for (std::uint32_t cpu = 0; cpu < 8192; ++cpu) report.add_cpus_used(cpu);
  ASSERT_TRUE(commit_report(report, slot(), bytes()));
  const auto read = read_report(slot(), bytes());
  ASSERT_TRUE(read);
  EXPECT_EQ(read->wake_latencies_ns_size(), static_cast<int>(Reservoir::kCapacity));
}

TEST_F(ReportCodec, OversizedReportGoesWithoutSamples) {
  WorkerReport report;
  report.set_work_units(5);
  for (int i = 0; i < 20000; ++i) report.add_wake_latencies_ns(~std::uint64_t{0});
  ASSERT_TRUE(commit_report(report, slot(), bytes()));
  const auto read = read_report(slot(), bytes());
  ASSERT_TRUE(read);
  EXPECT_EQ(read->work_units(), 5U);
  EXPECT_EQ(read->wake_latencies_ns_size(), 0);
}

TEST_F(ReportCodec, NothingCommitted) {
  EXPECT_FALSE(read_report(slot(), bytes()));
}

TEST_F(ReportCodec, UnknownPhaseIsNoReport) {
  slot().phase.store(0xffffffff);
  EXPECT_FALSE(read_report(slot(), bytes()));
}

TEST_F(ReportCodec, LengthBeyondTheArea) {
  plant("", 0xffffffff);
  EXPECT_FALSE(read_report(slot(), bytes()));
  plant("", static_cast<std::uint32_t>(bytes().size() + 1));
  EXPECT_FALSE(read_report(slot(), bytes()));
}

TEST_F(ReportCodec, Truncated) {
  WorkerReport report;
  report.set_exit_info("a text that is cut");
  ASSERT_TRUE(commit_report(report, slot(), bytes()));
  --slot().report_length;
  EXPECT_FALSE(read_report(slot(), bytes()));  // the checksum
  slot().report_crc = crc32c(bytes().first(slot().report_length));
  EXPECT_FALSE(read_report(slot(), bytes()));  // the encoding
}

TEST_F(ReportCodec, GarbageWithRightChecksum) {
  plant(std::string(64, '\xff'), 64);
  EXPECT_FALSE(read_report(slot(), bytes()));
}

TEST_F(ReportCodec, OverwrittenAfterCommit) {
  WorkerReport report;
  report.set_work_units(77);
  ASSERT_TRUE(commit_report(report, slot(), bytes()));
  bytes()[1] ^= std::byte{1};
  EXPECT_FALSE(read_report(slot(), bytes()));
}

TEST_F(ReportCodec, ImpossibleCounts) {
  WorkerReport samples;
  for (std::size_t i = 0; i <= Reservoir::kCapacity; ++i) samples.add_wake_latencies_ns(1);
  ASSERT_TRUE(commit_report(samples, slot(), bytes()));
  EXPECT_FALSE(read_report(slot(), bytes()));
  WorkerReport cpus;
  cpus.add_cpus_used(8192);
  ASSERT_TRUE(commit_report(cpus, slot(), bytes()));
  EXPECT_FALSE(read_report(slot(), bytes()));
  WorkerReport errors;
  errors.add_setup_errors(std::string(100000, 'x'));
  ASSERT_TRUE(commit_report(errors, slot(), bytes()));
  EXPECT_FALSE(read_report(slot(), bytes()));
}

TEST(ReservoirTest, KeepsEverythingUpToItsCapacity) {
  Reservoir reservoir(Xorshift(1, 2), 4);
  for (std::uint64_t i = 0; i < 4; ++i) reservoir.add(i);
  EXPECT_EQ(reservoir.samples(), (std::vector<std::uint64_t>{0, 1, 2, 3}));
}

TEST(ReservoirTest, EveryPartOfTheStreamIsSampledAlike) {
  Reservoir reservoir(Xorshift(42, 0), 1000);
  for (std::uint64_t i = 0; i < 10000; ++i) reservoir.add(i);
  EXPECT_EQ(reservoir.total(), 10000U);
  ASSERT_EQ(reservoir.samples().size(), 1000U);
  std::size_t early = 0;
  for (const std::uint64_t sample : reservoir.samples()) early += sample < 5000 ? 1U : 0U;
  EXPECT_NEAR(static_cast<double>(early), 500, 60);  // four standard deviations; the seed is fixed
}

TEST(ReservoirTest, SameSeedSameSampleOtherWorkerOtherSample) {
  const auto sample = [](std::uint64_t seed, std::uint64_t worker) {
    Reservoir reservoir(Xorshift(seed, worker), 8);
    for (std::uint64_t i = 0; i < 1000; ++i) reservoir.add(i);
    return reservoir.samples();
  };
  EXPECT_EQ(sample(7, 3), sample(7, 3));
  EXPECT_NE(sample(7, 3), sample(7, 4));
  EXPECT_NE(sample(7, 3), sample(8, 3));
}

}  // namespace
}  // namespace ktstr::guest
