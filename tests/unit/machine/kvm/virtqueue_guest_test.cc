// A guest program that drives the virtio console wrongly: it gets an error in the device, and nothing else
// happens.
#include <sys/eventfd.h>

#include <gtest/gtest.h>

#include "host/machine/kvm/guest_layout.h"
#include "tests/unit/machine/kvm/tiny_guest.h"
#include "tests/unit/machine/kvm/virtio_driver.h"

namespace ktstr::kvm::tiny {
namespace {

constexpr std::uint32_t kNeedsReset = 64;
constexpr std::uint16_t kNext = 1, kWrite = 2, kIndirect = 4;

// What a well-behaved driver does, with the addresses that are given, and one kick.
MachineCode driver(const Queue& queue) {
  MachineCode code(kCode);
  return write_driver(code, queue).power_off();
}

class Virtqueues : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string lacking = no_kvm(); !lacking.empty()) GTEST_SKIP() << lacking;
    guest_ = std::make_unique<TinyGuest>();
    guest_->guest->console->set_receiver(kHvcPort, [this](std::span<const std::byte> bytes) {
      output_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    });
  }
  void describe(std::uint16_t index, std::uint64_t gpa, std::uint32_t size, std::uint16_t flags,
                std::uint16_t next) {
    guest_->set_number(kDescriptors + 16U * index, gpa);
    guest_->set_number(kDescriptors + 16U * index + 8,
                       size | std::uint64_t{flags} << 32 | std::uint64_t{next} << 48);
  }
  // Heads 0, and an index.
  void offer(std::uint16_t head, std::uint16_t index = 1) {
    guest_->set_number(kAvailable, std::uint64_t{index} << 16 | std::uint64_t{head} << 32);
  }
  // Runs the driver, then answers its kick as the event loop does.
  void run(const Queue& queue = {}) {
    guest_->put(driver(queue), kCode);
    const auto end = guest_->run();
    ASSERT_TRUE(end);
    ASSERT_EQ(end->end, GuestEnd::kPoweredOff) << end->detail;
    // The kick came as an event, not as an exit.
    eventfd_t kicks = 0;
    ASSERT_EQ(eventfd_read(guest_->guest->console_doorbell.get(), &kicks), 0);
    EXPECT_EQ(kicks, 1U);
    for (int i = 0; i < 1000 && guest_->guest->console_registers->service(); ++i) {
    }
  }
  void expect_error(std::string_view why) {
    const auto error = guest_->guest->console_registers->error();
    ASSERT_TRUE(error) << why;
    EXPECT_NE(error->find(why), std::string::npos) << *error;
    EXPECT_NE(guest_->guest->console_registers->state().status & kNeedsReset, 0U);
    EXPECT_EQ(output_, "");
  }

  std::unique_ptr<TinyGuest> guest_;
  std::string output_;
};

TEST_F(Virtqueues, ARightOne) {
  const std::string_view text = "right";
  guest_->put(kBuffer, {text.begin(), text.end()});
  describe(0, kBuffer, 5, 0, 0);
  offer(0);
  run();
  EXPECT_FALSE(guest_->guest->console_registers->error());
  EXPECT_EQ(output_, "right");
  EXPECT_EQ(guest_->number_at(kUsed) >> 16 & 0xffff, 1U);
}

TEST_F(Virtqueues, AChainThatGoesRoundInACircle) {
  describe(0, kBuffer, 5, kNext, 1);
  describe(1, kBuffer, 5, kNext, 0);
  offer(0);
  run();
  expect_error("");
}

TEST_F(Virtqueues, ABufferWhereNoRamIs) {
  describe(0, 0xd0000000, 5, 0, 0);
  offer(0);
  run();
  expect_error("");
}

TEST_F(Virtqueues, ABufferOverTheEndOfRam) {
  describe(0, kTinyRam - 4, 5, 0, 0);
  offer(0);
  run();
  expect_error("");
}

TEST_F(Virtqueues, AnAddressThatWraps) {
  describe(0, ~std::uint64_t{0} - 2, 0xffffffff, 0, 0);
  offer(0);
  run();
  expect_error("");
}

TEST_F(Virtqueues, AHugeLength) {
  describe(0, kBuffer, 0xffffffff, 0, 0);
  offer(0);
  run();
  expect_error("");
}

TEST_F(Virtqueues, AHeadBeyondTheQueue) {
  offer(kQueueSize);
  run();
  expect_error("");
}

TEST_F(Virtqueues, ANextBeyondTheQueue) {
  describe(0, kBuffer, 5, kNext, 0xffff);
  offer(0);
  run();
  expect_error("");
}

TEST_F(Virtqueues, MoreOfferedThanThereIsRoomFor) {
  describe(0, kBuffer, 5, 0, 0);
  offer(0, kQueueSize + 1);
  run();
  expect_error("");
}

TEST_F(Virtqueues, AWritableBufferInAnOutputQueue) {
  describe(0, kBuffer, 5, kWrite, 0);
  offer(0);
  run();
  EXPECT_EQ(output_, "");
}

TEST_F(Virtqueues, AnIndirectTableThatWasNotAgreedOn) {
  describe(0, kBuffer, 16, kIndirect, 0);
  offer(0);
  run();
  expect_error("");
}

TEST_F(Virtqueues, TablesWhereNoRamIs) {
  run({.descriptors = 0xd0000000});
  expect_error("");
}

TEST_F(Virtqueues, RingsAtTheEndOfTheAddressSpace) {
  run({.available = ~std::uint64_t{0} & ~std::uint64_t{1}, .used = ~std::uint64_t{0} & ~std::uint64_t{3}});
  expect_error("");
}

TEST_F(Virtqueues, ASizeThatIsNoPowerOfTwo) {
  describe(0, kBuffer, 5, 0, 0);
  offer(0);
  run({.size = 3});
  expect_error("");
}

TEST_F(Virtqueues, ASizeOfNothing) {
  run({.size = 0});
  expect_error("");
}

}  // namespace
}  // namespace ktstr::kvm::tiny
