#include "host/machine/kvm/devices/virtio_mmio.h"

#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/machine/kvm_devices/mock_guest.h"

using namespace ktstr::kvm;
using namespace ktstr::kvm::mock;
using ::testing::HasSubstr;

namespace {

// Answers every chain of every queue, and counts.
class EchoDevice : public VirtioDevice {
 public:
  std::string_view name() const override { return "echo"; }
  std::uint32_t device_id() const override { return 42; }
  std::uint64_t features() const override { return 0x3; }
  std::size_t queue_count() const override { return 2; }
  void read_config(std::uint64_t offset, std::span<std::byte> data) override {
    for (std::byte& byte : data) byte = std::byte(offset++);
  }
  void write_config(std::uint64_t offset, std::span<const std::byte> data) override {
    config_written = offset + data.size();
  }
  void activate(std::uint64_t features) override {
    ++activations;
    active_features = features;
  }
  void reset() override { ++resets; }
  QueueResult<bool> service(std::span<Virtqueue> queues) override {
    ++services;
    for (Virtqueue& queue : queues) {
      if (!queue.ready()) continue;
      for (bool more = true; more;) {
        const auto got = queue.pop(chain_);
        if (!got) return got;
        if (*got) {
          if (auto pushed = queue.push(chain_.head, 0); !pushed) return std::unexpected(pushed.error());
          ++chains;
          continue;
        }
        const auto added = queue.want_kick();
        if (!added) return added;
        more = *added;
      }
    }
    return false;
  }
  void deliver() override { ++deliveries; }
  void ask() { request_service(); }

  int activations = 0, resets = 0, services = 0, deliveries = 0, chains = 0;
  std::uint64_t active_features = 0;
  std::uint64_t config_written = 0;

 private:
  DescriptorChain chain_;
};

class VirtioMmioTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kFeatures = kVersion1 | kEventIndexBit | kIndirectBit | 1;

  // Up to DRIVER_OK with queue 0.
  void bring_up() {
    ASSERT_TRUE(driver_.negotiate(kFeatures));
    driver_.set_up_queue(0, queue_);
    driver_.driver_ok();
  }

  MockRam ram_{0x100000, 0x20000};
  MockLine line_;
  EchoDevice echo_;
  int requests_ = 0;
  VirtioMmio device_{echo_, ram_.view(), line_, [this] { ++requests_; }};
  MockDriver driver_{device_, ram_};
  MockQueue queue_{ram_, 16, true};
  std::uint64_t buffer_ = ram_.allocate(16);
};

TEST_F(VirtioMmioTest, SaysWhatItIs) {
  EXPECT_EQ(driver_.read(kMagicValue), 0x74726976U);
  EXPECT_EQ(driver_.read(kVersion), 2U);
  EXPECT_EQ(driver_.read(kDeviceId), 42U);
  EXPECT_EQ(driver_.offered_features(), kVersion1 | kRingReset | kEventIndexBit | kIndirectBit | 3);
  driver_.write(kDeviceFeaturesSel, 2);
  EXPECT_EQ(driver_.read(kDeviceFeatures), 0U);
  EXPECT_EQ(driver_.read(kQueueNumMax), 256U);
  driver_.write(kQueueSel, 2);
  EXPECT_EQ(driver_.read(kQueueNumMax), 0U);
  EXPECT_EQ(driver_.read(kShmLenLow), ~0U);
  EXPECT_EQ(driver_.read(kShmLenLow + 4), ~0U);
}

TEST_F(VirtioMmioTest, TakesTheDriversStepsInOrder) {
  bring_up();
  EXPECT_EQ(driver_.read(kStatus), kAcknowledge | kDriver | kFeaturesOk | kDriverOk);
  EXPECT_EQ(echo_.activations, 1);
  EXPECT_EQ(echo_.active_features, kFeatures);
  EXPECT_EQ(requests_, 1) << "the driver may have filled the queue before";
  driver_.write(kQueueSel, 0);
  EXPECT_EQ(driver_.read(kQueueReady), 1U);
}

TEST_F(VirtioMmioTest, IgnoresStepsOutOfOrder) {
  driver_.write(kStatus, kDriver);
  EXPECT_EQ(driver_.read(kStatus), 0U);
  driver_.write(kStatus, kDriverOk | kAcknowledge);
  EXPECT_EQ(driver_.read(kStatus), kAcknowledge);
  driver_.write_features(kFeatures);
  driver_.write(kStatus, kAcknowledge | kDriver | kFeaturesOk);
  EXPECT_EQ(driver_.read(kStatus), kAcknowledge | kDriver) << "features come after DRIVER";
  driver_.write(kStatus, kAcknowledge | kDriver | kDriverOk);
  EXPECT_EQ(driver_.read(kStatus), kAcknowledge | kDriver);
  EXPECT_EQ(echo_.activations, 0);
}

TEST_F(VirtioMmioTest, BitsThatAreLeftOutStaySet) {
  bring_up();
  driver_.write(kStatus, kAcknowledge);
  EXPECT_EQ(driver_.read(kStatus), kAcknowledge | kDriver | kFeaturesOk | kDriverOk);
  EXPECT_EQ(echo_.activations, 1);
}

TEST_F(VirtioMmioTest, RefusesFeaturesThatWereNotOfferedAndLegacyDrivers) {
  EXPECT_FALSE(driver_.negotiate(kVersion1 | 4));
  EXPECT_FALSE(driver_.negotiate(kVersion1 << 1 | kVersion1));
  EXPECT_FALSE(driver_.negotiate(kEventIndexBit));
  driver_.driver_ok();
  EXPECT_EQ(driver_.read(kStatus) & kDriverOk, 0U);
  EXPECT_TRUE(driver_.negotiate(kVersion1));
}

TEST_F(VirtioMmioTest, FeaturesAreFixedOnceAgreedOn) {
  ASSERT_TRUE(driver_.negotiate(kVersion1));
  driver_.write_features(kFeatures);
  EXPECT_EQ(device_.state().driver_features, kVersion1);
}

TEST_F(VirtioMmioTest, QueuesAreSetUpOnlyAfterFeaturesOkAndFixedWhileReady) {
  driver_.write(kQueueNum, 16);
  EXPECT_EQ(device_.state().queues[0].size, 0U);
  bring_up();
  const VirtioMmioState before = device_.state();
  driver_.write(kQueueNum, 8);
  driver_.write(kQueueDescLow, 0);
  driver_.write(kQueueDeviceHigh, 1);
  EXPECT_EQ(device_.state(), before);
  driver_.write(kQueueSel, 77);
  driver_.write(kQueueReady, 1);
  EXPECT_EQ(driver_.read(kQueueReady), 0U);
}

TEST_F(VirtioMmioTest, AddressesHave64Bits) {
  ASSERT_TRUE(driver_.negotiate(kFeatures));
  driver_.write(kQueueDescHigh, 0x12);
  driver_.write(kQueueDescLow, 0x3456);
  driver_.write(kQueueDriverLow, 0x789a);
  driver_.write(kQueueDriverHigh, 0xbc);
  EXPECT_EQ(device_.state().queues[0].descriptors, 0x1200003456U);
  EXPECT_EQ(device_.state().queues[0].available, 0xbc0000789aU);
}

TEST_F(VirtioMmioTest, AQueueThatCannotBeNeedsAReset) {
  ASSERT_TRUE(driver_.negotiate(kFeatures));
  driver_.write(kQueueSel, 1);
  driver_.write(kQueueNum, 16);
  driver_.write(kQueueReady, 1);
  EXPECT_EQ(driver_.read(kQueueReady), 0U);
  EXPECT_NE(driver_.read(kStatus) & kNeedsReset, 0U);
  EXPECT_EQ(line_.edges, 0) << "no interrupt before DRIVER_OK";
  ASSERT_TRUE(device_.error().has_value());
  EXPECT_THAT(*device_.error(), HasSubstr("echo: queue 1: descriptor table at 0x0"));
  driver_.driver_ok();
  EXPECT_EQ(echo_.activations, 0);
}

TEST_F(VirtioMmioTest, AKickGetsAnswersAndAnEdge) {
  bring_up();
  EXPECT_FALSE(device_.service());
  EXPECT_EQ(line_.edges, 0);
  queue_.want_interrupt();
  queue_.add(buffer_, 1, false);
  ASSERT_TRUE(queue_.needs_kick());
  driver_.write(kQueueNotify, 0);
  EXPECT_EQ(requests_, 2);
  EXPECT_FALSE(device_.service());
  EXPECT_EQ(echo_.chains, 1);
  EXPECT_EQ(line_.edges, 1);
  EXPECT_EQ(driver_.read(kInterruptStatus), 1U);
  EXPECT_EQ(driver_.acknowledge(), 1U);
  EXPECT_EQ(driver_.read(kInterruptStatus), 0U);
  EXPECT_TRUE(queue_.take_used().has_value());
  EXPECT_EQ(echo_.deliveries, 2);
}

TEST_F(VirtioMmioTest, EveryRaiseIsAnEdgeAlsoBeforeTheAcknowledgement) {
  bring_up();
  for (int i = 1; i <= 3; ++i) {
    queue_.want_interrupt();
    queue_.add(buffer_, 1, false);
    device_.service();
    queue_.take_used();
    EXPECT_EQ(line_.edges, i);
    EXPECT_EQ(driver_.read(kInterruptStatus), 1U);
  }
  device_.config_changed();
  EXPECT_EQ(line_.edges, 4);
  driver_.write(kInterruptAck, 1);
  EXPECT_EQ(driver_.read(kInterruptStatus), 2U);
}

TEST_F(VirtioMmioTest, RequestsServiceOnceUntilItWasGiven) {
  bring_up();
  EXPECT_EQ(requests_, 1);
  driver_.write(kQueueNotify, 0);
  driver_.write(kQueueNotify, 1);
  echo_.ask();
  EXPECT_EQ(requests_, 1);
  device_.service();
  echo_.ask();
  EXPECT_EQ(requests_, 2);
}

TEST_F(VirtioMmioTest, NothingIsDoneBeforeTheDriverIsReady) {
  ASSERT_TRUE(driver_.negotiate(kFeatures));
  driver_.set_up_queue(0, queue_);
  queue_.add(buffer_, 1, false);
  driver_.write(kQueueNotify, 0);
  EXPECT_EQ(requests_, 0);
  EXPECT_FALSE(device_.service());
  EXPECT_EQ(echo_.services, 0);
  driver_.driver_ok();
  EXPECT_EQ(requests_, 1);
  device_.service();
  EXPECT_EQ(echo_.chains, 1);
}

TEST_F(VirtioMmioTest, AHostileChainNeedsAResetAndTheReasonIsKept) {
  bring_up();
  queue_.add(0x666, 1, false);
  EXPECT_FALSE(device_.service());
  EXPECT_NE(driver_.read(kStatus) & kNeedsReset, 0U);
  EXPECT_EQ(driver_.read(kInterruptStatus), 2U);
  EXPECT_EQ(line_.edges, 1);
  ASSERT_TRUE(device_.error().has_value());
  EXPECT_EQ(*device_.error(),
            "echo: queue 0: chain 0: descriptor 0: buffer at 0x666, 1 bytes, is not in RAM");
  const int services = echo_.services;
  device_.service();
  driver_.write(kQueueNotify, 0);
  EXPECT_EQ(echo_.services, services) << "no queue is looked at any more";

  // A reset helps, and the first reason stays for the result.
  MockQueue fresh(ram_, 8, true);
  ASSERT_TRUE(driver_.negotiate(kFeatures));
  driver_.set_up_queue(0, fresh);
  driver_.driver_ok();
  fresh.add(buffer_, 1, false);
  device_.service();
  EXPECT_TRUE(fresh.take_used().has_value());
  EXPECT_TRUE(device_.error().has_value());
}

TEST_F(VirtioMmioTest, AResetForgetsAll) {
  const VirtioMmioState fresh = device_.state();
  bring_up();
  queue_.want_interrupt();
  queue_.add(buffer_, 1, false);
  device_.service();
  driver_.write(kStatus, 0);
  EXPECT_EQ(device_.state(), fresh);
  EXPECT_EQ(echo_.resets, 2);
  EXPECT_EQ(driver_.read(kInterruptStatus), 0U);
  bring_up();
  EXPECT_EQ(echo_.activations, 2);
}

TEST_F(VirtioMmioTest, AQueueIsTakenBackAndStartsAnew) {
  bring_up();
  queue_.add(buffer_, 1, false);
  device_.service();
  driver_.write(kQueueSel, 0);
  driver_.write(kQueueReady, 0);
  EXPECT_EQ(driver_.read(kQueueReady), 0U);
  queue_.add(buffer_, 1, false);
  device_.service();
  EXPECT_EQ(echo_.chains, 1);
  MockQueue fresh(ram_, 8, true);
  driver_.set_up_queue(0, fresh);
  fresh.add(buffer_, 1, false);
  device_.service();
  EXPECT_EQ(echo_.chains, 2);
}

TEST_F(VirtioMmioTest, QueueResetWorksWhenAgreedOn) {
  bring_up();
  driver_.write(kQueueReset, 1);
  EXPECT_EQ(driver_.read(kQueueReady), 1U) << "not agreed on";
  ASSERT_TRUE(driver_.negotiate(kFeatures | kRingReset));
  driver_.set_up_queue(0, queue_);
  driver_.driver_ok();
  driver_.write(kQueueReset, 1);
  EXPECT_EQ(driver_.read(kQueueReset), 0U);
  EXPECT_EQ(driver_.read(kQueueReady), 0U);
  EXPECT_EQ(device_.state().queues[0], VirtqueueState{});
}

TEST_F(VirtioMmioTest, ADriverThatFailedIsLeftAlone) {
  bring_up();
  driver_.write(kStatus, driver_.read(kStatus) | kFailed);
  queue_.add(buffer_, 1, false);
  device_.service();
  EXPECT_EQ(echo_.chains, 0);
}

TEST_F(VirtioMmioTest, RegistersTake32AlignedBitsOnly) {
  EXPECT_EQ(read_register(device_, kMagicValue, 1), 0U);
  EXPECT_EQ(read_register(device_, kMagicValue, 2), 0U);
  EXPECT_EQ(read_register(device_, kMagicValue, 8), 0U);
  EXPECT_EQ(read_register(device_, kVersion + 2, 4), 0U);
  write_register(device_, kStatus, kAcknowledge, 1);
  write_register(device_, kStatus, kAcknowledge, 8);
  EXPECT_EQ(driver_.read(kStatus), 0U);
}

TEST_F(VirtioMmioTest, TheConfigurationSpaceTakesAnyWidth) {
  EXPECT_EQ(read_register(device_, kConfig, 1), 0U);
  EXPECT_EQ(read_register(device_, kConfig + 1, 2), 0x0201U);
  EXPECT_EQ(read_register(device_, kConfig + 2, 4), 0x05040302U);
  write_register(device_, kConfig + 4, 1, 2);
  EXPECT_EQ(echo_.config_written, 6U);
}

TEST_F(VirtioMmioTest, AChangedConfigurationCountsAGenerationThatOutlivesResets) {
  EXPECT_EQ(driver_.read(kConfigGeneration), 0U);
  device_.config_changed();
  EXPECT_EQ(line_.edges, 0) << "nobody is there";
  bring_up();
  device_.config_changed();
  EXPECT_EQ(driver_.read(kConfigGeneration), 2U);
  EXPECT_EQ(driver_.acknowledge(), 2U);
  driver_.write(kStatus, 0);
  EXPECT_EQ(driver_.read(kConfigGeneration), 2U);
}

// The driver on one thread, as a vCPU, the loop on another: every chain is answered, every wait ends, and
// after a reset the device leaves the memory alone.
class VirtioMmioThreads : public ::testing::Test {
 protected:
  // Edges that can be waited for.
  struct Line : InterruptLine {
    void trigger() override {
      ++edges;
      edges.notify_one();
    }
    std::atomic<int> edges{0};
  };

  VirtioMmioThreads() {
    loop_ = std::thread([this] {
      for (int seen = 0; !done_;) {
        requests_.wait(seen);
        seen = requests_;
        while (device_.service()) {
        }
      }
    });
  }
  ~VirtioMmioThreads() override {
    done_ = true;
    request();
    loop_.join();
  }
  void request() {
    ++requests_;
    requests_.notify_one();
  }
  // Sends `count` chains through a fresh queue, as many at a time as it takes, and waits for the answers.
  void exchange(int count) {
    int sent = 0;
    for (int answered = 0; answered < count;) {
      const int seen = line_.edges;
      while (sent < count && queue_.add(ram_.begin(), 1, false)) {
        if (++sent % 3 == 0 && queue_.needs_kick()) driver_.write(kQueueNotify, 0);
      }
      if (queue_.needs_kick()) driver_.write(kQueueNotify, 0);
      const int before = answered;
      while (const auto used = queue_.take_used()) {
        queue_.release(used->first);
        ++answered;
      }
      queue_.want_interrupt();
      if (queue_.has_used() || answered > before) continue;  // room for more
      line_.edges.wait(seen);
      driver_.acknowledge();
    }
  }

  MockRam ram_{0x100000, 0x20000};
  EchoDevice echo_;
  Line line_;
  std::atomic<int> requests_{0};
  std::atomic<bool> done_{false};
  VirtioMmio device_{echo_, ram_.view(), line_, [this] { request(); }};
  MockDriver driver_{device_, ram_};
  MockQueue queue_{ram_, 16, true};
  std::thread loop_;
};

TEST_F(VirtioMmioThreads, NoKickAndNoInterruptIsLost) {
  constexpr int kRounds = 20;
  constexpr int kChains = 1000;
  for (int round = 0; round < kRounds; ++round) {
    queue_.restart();  // would show a device that still writes
    ASSERT_TRUE(driver_.negotiate(kVersion1 | kEventIndexBit));
    driver_.set_up_queue(0, queue_);
    driver_.driver_ok();
    exchange(kChains);
    driver_.write(kStatus, 0);
  }
  EXPECT_EQ(device_.error(), std::nullopt);
  EXPECT_EQ(echo_.chains, kRounds * kChains);
}

TEST_F(VirtioMmioThreads, ResetsInTheMiddleOfTheWorkEndIt) {
  for (int round = 0; round < 300; ++round) {
    queue_.restart();
    ASSERT_TRUE(driver_.negotiate(kVersion1 | kEventIndexBit));
    driver_.set_up_queue(0, queue_);
    driver_.driver_ok();
    for (int i = 0; i < 16; ++i) queue_.add(ram_.begin(), 1, false);
    driver_.write(kQueueNotify, 0);
    driver_.write(kStatus, 0);
  }
  EXPECT_EQ(device_.error(), std::nullopt);
}

}  // namespace
