#include "host/machine/kvm/devices/virtqueue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/machine/kvm_devices/mock_guest.h"

using namespace ktstr::kvm;
using namespace ktstr::kvm::mock;
using ::testing::HasSubstr;

namespace {

constexpr std::uint16_t kSize = 16;

class VirtqueueTest : public ::testing::TestWithParam<bool> {
 protected:
  VirtqueueTest() { queue_.set_features({.indirect = true, .event_index = GetParam()}); }

  // Expects that the next chain is refused with such a reason, and again when asked again.
  void refused(const char* why) {
    const auto got = queue_.pop(chain_);
    ASSERT_FALSE(got.has_value()) << why;
    EXPECT_THAT(got.error(), HasSubstr(why));
    EXPECT_THAT(got.error(), HasSubstr("queue 5"));
    EXPECT_FALSE(queue_.pop(chain_).has_value());
  }
  bool pop() {
    const auto got = queue_.pop(chain_);
    EXPECT_TRUE(got.has_value()) << got.error();
    return got.value_or(false);
  }
  void push(std::uint16_t head, std::uint32_t written) {
    EXPECT_TRUE(queue_.push(head, written).has_value());
  }

  MockRam ram_{0x100000, 0x20000};
  MockQueue driver_{ram_, kSize, GetParam()};
  std::uint64_t buffer_ = ram_.allocate(4096);
  VirtqueueState state_ = driver_.state();
  Virtqueue queue_{5, state_, ram_.view()};
  DescriptorChain chain_;
};

INSTANTIATE_TEST_SUITE_P(EventIndex, VirtqueueTest, ::testing::Bool());

TEST_P(VirtqueueTest, AnEmptyQueueHasNothing) {
  EXPECT_FALSE(pop());
}

TEST_P(VirtqueueTest, TakesAChainOfReadableAndWritableBuffers) {
  driver_.set(3, {.gpa = buffer_, .size = 10, .flags = kNext, .next = 7});
  driver_.set(7, {.gpa = buffer_ + 100, .size = 20, .flags = kNext | kWrite, .next = 1});
  driver_.set(1, {.gpa = buffer_ + 200, .size = 30, .flags = kWrite});
  driver_.offer(3);
  ASSERT_TRUE(pop());
  EXPECT_EQ(chain_.head, 3);
  ASSERT_EQ(chain_.readable.size(), 1U);
  ASSERT_EQ(chain_.writable.size(), 2U);
  EXPECT_EQ(chain_.readable_size, 10U);
  EXPECT_EQ(chain_.writable_size, 50U);
  EXPECT_EQ(chain_.writable[1].gpa, buffer_ + 200);
  EXPECT_FALSE(pop());
  push(3, 44);
  EXPECT_EQ(driver_.take_used(), std::pair(std::uint16_t{3}, 44U));
}

TEST_P(VirtqueueTest, CopiesIntoAndOutOfAChainOfSeveralBuffers) {
  ram_.put_text(buffer_, "hello ");
  ram_.put_text(buffer_ + 100, "world");
  driver_.set(0, {.gpa = buffer_, .size = 6, .flags = kNext, .next = 1});
  driver_.set(1, {.gpa = buffer_ + 100, .size = 5, .flags = kNext, .next = 2});
  driver_.set(2, {.gpa = buffer_ + 200, .size = 2, .flags = kNext | kWrite, .next = 3});
  driver_.set(3, {.gpa = buffer_ + 300, .size = 8, .flags = kWrite});
  driver_.offer(0);
  ASSERT_TRUE(pop());
  std::string text(11, ' ');
  ASSERT_TRUE(queue_.read(chain_, std::as_writable_bytes(std::span(text))).has_value());
  EXPECT_EQ(text, "hello world");
  ASSERT_TRUE(queue_.write(chain_, std::as_bytes(std::span("answer", 6))).has_value());
  EXPECT_EQ(ram_.text(buffer_ + 200, 3), std::string("an\0", 3));
  EXPECT_EQ(ram_.text(buffer_ + 300, 5), std::string("swer\0", 5));
  std::string too_much(12, ' ');
  EXPECT_FALSE(queue_.read(chain_, std::as_writable_bytes(std::span(too_much))).has_value());
  EXPECT_FALSE(queue_.write(chain_, std::as_bytes(std::span(too_much))).has_value());
}

TEST_P(VirtqueueTest, IndicesWrapAround) {
  for (int i = 0; i < 0x10000 + 100; ++i) {
    const auto head = driver_.add(buffer_, 1, false);
    ASSERT_TRUE(head.has_value());
    ASSERT_TRUE(pop());
    push(chain_.head, 0);
    const auto used = driver_.take_used();
    ASSERT_TRUE(used.has_value());
    driver_.release(used->first);
  }
  EXPECT_EQ(state_.next_used, 100);
}

TEST_P(VirtqueueTest, AFullQueueIsTakenWhole) {
  for (std::uint16_t i = 0; i < kSize; ++i) ASSERT_TRUE(driver_.add(buffer_, 1, false).has_value());
  for (std::uint16_t i = 0; i < kSize; ++i) EXPECT_TRUE(pop());
  EXPECT_FALSE(pop());
}

TEST_P(VirtqueueTest, AChainMayTakeTheWholeTable) {
  for (std::uint16_t i = 0; i < kSize; ++i) {
    driver_.set(i, {.gpa = buffer_,
                    .size = 1,
                    .flags = i + 1 < kSize ? kNext : std::uint16_t{0},
                    .next = static_cast<std::uint16_t>(i + 1)});
  }
  driver_.offer(0);
  ASSERT_TRUE(pop());
  EXPECT_EQ(chain_.readable.size(), kSize);
}

TEST_P(VirtqueueTest, TakesAnIndirectTableAloneAndAfterOtherDescriptors) {
  const std::uint64_t table = ram_.allocate(32);
  ram_.put(table, MockDescriptor{.gpa = buffer_, .size = 3, .flags = kNext, .next = 1});
  ram_.put(table + 16, MockDescriptor{.gpa = buffer_, .size = 4, .flags = kWrite});
  driver_.set(0, {.gpa = table, .size = 32, .flags = kIndirect});
  driver_.offer(0);
  ASSERT_TRUE(pop());
  EXPECT_EQ(chain_.readable_size, 3U);
  EXPECT_EQ(chain_.writable_size, 4U);
  driver_.set(1, {.gpa = buffer_, .size = 5, .flags = kNext, .next = 0});
  driver_.offer(1);
  ASSERT_TRUE(pop());
  EXPECT_EQ(chain_.readable_size, 8U);
}

TEST_P(VirtqueueTest, AnIndirectTableMayBeLongerThanTheQueue) {
  // Linux does so when it had to make do with a small queue.
  const std::uint64_t table = ram_.allocate(16 * 200);
  for (std::uint16_t i = 0; i < 200; ++i) {
    ram_.put(table + 16U * i, MockDescriptor{.gpa = buffer_,
                                             .size = 1,
                                             .flags = i < 199 ? kNext : std::uint16_t{0},
                                             .next = static_cast<std::uint16_t>(i + 1)});
  }
  driver_.set(0, {.gpa = table, .size = 16 * 200, .flags = kIndirect});
  driver_.offer(0);
  ASSERT_TRUE(pop());
  EXPECT_EQ(chain_.readable_size, 200U);
}

TEST_P(VirtqueueTest, BuffersOfNothingAreNothing) {
  driver_.set(0, {.gpa = 0x666, .size = 0});
  driver_.offer(0);
  ASSERT_TRUE(pop());
  EXPECT_EQ(chain_.readable_size, 0U);
}

// ---- what a driver must not do

TEST_P(VirtqueueTest, RefusesAnIndexThatJumpsByMoreThanTheSize) {
  driver_.set_available_index(kSize + 1);
  refused("available index went from 0 to 17, by more than its size 16");
}

TEST_P(VirtqueueTest, RefusesAnIndexThatGoesBack) {
  driver_.set_available_index(0xffff);
  refused("available index");
}

TEST_P(VirtqueueTest, RefusesAHeadOutsideOfTheTable) {
  driver_.offer(kSize);
  refused("descriptor 16 is outside of the table of 16");
}

TEST_P(VirtqueueTest, RefusesANextDescriptorOutsideOfTheTable) {
  driver_.set(0, {.gpa = buffer_, .size = 1, .flags = kNext, .next = 0xffff});
  driver_.offer(0);
  refused("descriptor 65535 is outside");
}

TEST_P(VirtqueueTest, RefusesAChainThatPointsToItself) {
  driver_.set(0, {.gpa = buffer_, .size = 1, .flags = kNext, .next = 0});
  driver_.offer(0);
  refused("does not end within 16 descriptors");
}

TEST_P(VirtqueueTest, RefusesALongerLoop) {
  for (std::uint16_t i = 0; i < 3; ++i)
    driver_.set(i,
                {.gpa = buffer_, .size = 0, .flags = kNext, .next = static_cast<std::uint16_t>((i + 1) % 3)});
  driver_.offer(2);
  refused("chain 2: does not end");
}

TEST_P(VirtqueueTest, RefusesALoopInAnIndirectTable) {
  const std::uint64_t table = ram_.allocate(32);
  ram_.put(table, MockDescriptor{.gpa = buffer_, .size = 3, .flags = kNext, .next = 1});
  ram_.put(table + 16, MockDescriptor{.gpa = buffer_, .size = 4, .flags = kNext, .next = 0});
  driver_.set(0, {.gpa = table, .size = 32, .flags = kIndirect});
  driver_.offer(0);
  refused("does not end within 2 descriptors");
}

TEST_P(VirtqueueTest, RefusesABufferThatIsNoRam) {
  const struct {
    std::uint64_t gpa;
    std::uint32_t size;
  } buffers[] = {{0, 1},
                 {ram_.begin() - 1, 1},
                 {ram_.end() - 1, 2},
                 {ram_.end(), 1},
                 {ram_.begin(), 0xffffffff},
                 {~std::uint64_t{0}, 2},
                 {~std::uint64_t{0} - 0xfffff, 0xffffffff},
                 {0xd0000000, 4}};
  std::uint16_t index = 0;
  for (const auto& buffer : buffers) {
    for (const std::uint16_t flags : {std::uint16_t{0}, kWrite}) {
      VirtqueueState state = driver_.state();
      state.next_available = index;
      Virtqueue queue(5, state, ram_.view());
      driver_.set(0, {.gpa = buffer.gpa, .size = buffer.size, .flags = flags});
      driver_.offer(0);
      ++index;
      const auto got = queue.pop(chain_);
      ASSERT_FALSE(got.has_value()) << buffer.gpa;
      EXPECT_THAT(got.error(), HasSubstr("is not in RAM"));
      EXPECT_THAT(got.error(), HasSubstr("queue 5: chain 0: descriptor 0: buffer at 0x"));
    }
  }
}

TEST_P(VirtqueueTest, RefusesAReadableBufferAfterAWritableOne) {
  driver_.set(0, {.gpa = buffer_, .size = 1, .flags = kWrite | kNext, .next = 1});
  driver_.set(1, {.gpa = buffer_, .size = 1});
  driver_.offer(0);
  refused("a readable buffer after a writable one");
}

TEST_P(VirtqueueTest, RefusesAReadableBufferOfAnIndirectTableAfterAWritableOne) {
  const std::uint64_t table = ram_.allocate(16);
  ram_.put(table, MockDescriptor{.gpa = buffer_, .size = 3});
  driver_.set(0, {.gpa = buffer_, .size = 1, .flags = kWrite | kNext, .next = 1});
  driver_.set(1, {.gpa = table, .size = 16, .flags = kIndirect});
  driver_.offer(0);
  refused("a readable buffer after a writable one");
}

TEST_P(VirtqueueTest, RefusesIndirectTablesOfAWrongSize) {
  const std::uint64_t table = ram_.allocate(16 * 300);
  std::uint16_t index = 0;
  for (const std::uint32_t size : {0U, 1U, 15U, 17U, 16U * 257, 0xfffffff0U, 0xffffffffU}) {
    VirtqueueState state = driver_.state();
    state.next_available = index++;
    Virtqueue queue(5, state, ram_.view());
    queue.set_features({.indirect = true});
    driver_.set(0, {.gpa = table, .size = size, .flags = kIndirect});
    driver_.offer(0);
    const auto got = queue.pop(chain_);
    ASSERT_FALSE(got.has_value()) << size;
    EXPECT_THAT(got.error(), HasSubstr("indirect table of"));
  }
}

TEST_P(VirtqueueTest, RefusesAnIndirectTableOutsideOfRam) {
  driver_.set(0, {.gpa = ram_.end() - 16, .size = 32, .flags = kIndirect});
  driver_.offer(0);
  refused("is not in RAM");
}

TEST_P(VirtqueueTest, RefusesNestedIndirectTables) {
  const std::uint64_t table = ram_.allocate(32);
  ram_.put(table, MockDescriptor{.gpa = table, .size = 16, .flags = kIndirect});
  driver_.set(0, {.gpa = table, .size = 16, .flags = kIndirect});
  driver_.offer(0);
  refused("indirect descriptor 0 within an indirect table");
}

TEST_P(VirtqueueTest, RefusesAnIndirectDescriptorWithANextOne) {
  const std::uint64_t table = ram_.allocate(16);
  driver_.set(0, {.gpa = table, .size = 16, .flags = kIndirect | kNext, .next = 1});
  driver_.offer(0);
  refused("indirect with a next descriptor");
}

TEST_P(VirtqueueTest, RefusesIndirectTablesThatWereNotAgreedOn) {
  queue_.set_features({.indirect = false, .event_index = GetParam()});
  const std::uint64_t table = ram_.allocate(16);
  driver_.set(0, {.gpa = table, .size = 16, .flags = kIndirect});
  driver_.offer(0);
  refused("indirect, which was not agreed on");
}

TEST_P(VirtqueueTest, TablesThatLieOverEachOtherHurtOnlyTheGuest) {
  // Used ring, available ring and descriptors at one place: whatever happens, it is an answer or an error.
  state_.available = state_.used = state_.descriptors;
  ASSERT_TRUE(queue_.check().has_value());
  for (int i = 0; i < 100; ++i) {
    const auto got = queue_.pop(chain_);
    if (got && *got) {
      EXPECT_TRUE(queue_.push(chain_.head, 1).has_value());
    }
    ram_.put(state_.available + 2, static_cast<std::uint16_t>(state_.next_available + 1));
    EXPECT_TRUE(queue_.take_interrupt().has_value());
    EXPECT_TRUE(queue_.want_kick().has_value());
  }
}

// ---- setting up

TEST_P(VirtqueueTest, ChecksSizeAlignmentAndPlace) {
  EXPECT_TRUE(queue_.check().has_value());
  const auto refused_with = [&](auto change, const char* why) {
    state_ = driver_.state();
    change(state_);
    const auto checked = queue_.check();
    ASSERT_FALSE(checked.has_value()) << why;
    EXPECT_THAT(checked.error(), HasSubstr(why));
  };
  for (const std::uint32_t size : {0U, 3U, 512U, 0x10010U, 0xffffffffU})
    refused_with([&](VirtqueueState& s) { s.size = size; }, "is no power of two up to 256");
  refused_with([](VirtqueueState& s) { s.descriptors += 8; }, "not aligned to 16");
  refused_with([](VirtqueueState& s) { s.available += 1; }, "not aligned to 2");
  refused_with([](VirtqueueState& s) { s.used += 2; }, "not aligned to 4");
  refused_with([](VirtqueueState& s) { s.descriptors = 0; },
               "descriptor table at 0x0, 256 bytes, is not in RAM");
  refused_with([](VirtqueueState& s) { s.available = ~std::uint64_t{0} - 1; }, "available ring");
  refused_with([&](VirtqueueState& s) { s.used = ram_.end() - 132; }, "used ring");
}

// ---- kicks and interrupts

TEST_P(VirtqueueTest, SaysWhetherMoreWasAddedWhileAskingForAKick) {
  EXPECT_EQ(queue_.want_kick(), false);
  driver_.add(buffer_, 1, false);
  EXPECT_TRUE(driver_.needs_kick());
  EXPECT_EQ(queue_.want_kick(), true);
  EXPECT_TRUE(pop());
  EXPECT_EQ(queue_.want_kick(), false);
}

TEST_P(VirtqueueTest, AFloodOfChainsNeedsOneKick) {
  EXPECT_EQ(queue_.want_kick(), false);
  EXPECT_TRUE(queue_.want_no_kick().has_value() || !GetParam());
  int kicks = 0;
  for (int i = 0; i < 10; ++i) {
    driver_.add(buffer_, 1, false);
    if (driver_.needs_kick()) ++kicks;
  }
  EXPECT_EQ(kicks, GetParam() ? 1 : 0);
}

TEST_P(VirtqueueTest, InterruptsOncePerBatchAndOnlyForNewAnswers) {
  driver_.want_interrupt();
  EXPECT_EQ(queue_.take_interrupt(), false);
  for (std::uint16_t i = 0; i < 3; ++i) push(i, 0);
  EXPECT_EQ(queue_.take_interrupt(), true);
  EXPECT_EQ(queue_.take_interrupt(), false);
}

TEST_P(VirtqueueTest, HeedsTheDriverThatWantsNoInterrupt) {
  if (GetParam()) {
    while (driver_.take_used()) {
    }
    push(0, 0);
    EXPECT_EQ(queue_.take_interrupt(), true);
    // The driver did not move its event index: it is still busy.
    push(1, 0);
    EXPECT_EQ(queue_.take_interrupt(), false);
    while (driver_.take_used()) {
    }
    driver_.want_interrupt();
    push(2, 0);
    EXPECT_EQ(queue_.take_interrupt(), true);
  } else {
    driver_.set_available_flags(1);
    push(0, 0);
    EXPECT_EQ(queue_.take_interrupt(), false);
    driver_.set_available_flags(0);
    push(1, 0);
    EXPECT_EQ(queue_.take_interrupt(), true);
  }
}

}  // namespace
