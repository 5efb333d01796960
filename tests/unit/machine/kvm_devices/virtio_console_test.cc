#include "host/machine/kvm/devices/virtio_console.h"

#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/machine/kvm_devices/mock_guest.h"

using namespace ktstr;
using namespace ktstr::kvm;
using namespace ktstr::kvm::mock;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

namespace {

constexpr std::uint64_t kFeatures = kVersion1 | kEventIndexBit | kIndirectBit | kMultiport;

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

class VirtioConsoleTest : public ::testing::TestWithParam<std::uint64_t> {
 protected:
  VirtioConsoleTest() {
    for (std::size_t port = 0; port < 2; ++port) {
      console_.set_receiver(port, [this, port](std::span<const std::byte> bytes) {
        out_[port] += text_of(bytes);
        ++deliveries_;
      });
    }
  }

  // The loop and the driver in turns, until neither has anything to do.
  void settle() {
    int last = -1;
    while (last != line_.edges + requests_) {
      last = line_.edges + requests_;
      while (device_.service()) {
      }
      if (driver_.ports > 0) driver_.interrupt();
    }
  }
  void bring_up(std::uint16_t size = 64, std::uint16_t pages = 4) {
    driver_.probe(size, pages);
    settle();
    driver_.open(1);
    settle();
  }
  void send(std::size_t port, std::string_view text) {
    const auto sent = console_.send(port, text);
    ASSERT_TRUE(sent.has_value()) << sent.error().to_string();
  }

  MockRam ram_{0x100000, 0x400000};
  MockLine line_;
  int requests_ = 0;
  VirtioConsole console_{{{.name = "", .is_console = true, .size = ConsoleSize{.columns = 80, .rows = 25}},
                          {.name = "ktstr.frames", .is_console = false}}};
  VirtioMmio device_{console_, ram_.view(), line_, [this] { ++requests_; }};
  MockConsoleDriver driver_{device_, ram_, GetParam()};
  std::string out_[2];
  int deliveries_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Features, VirtioConsoleTest, ::testing::Values(kFeatures, kVersion1 | kMultiport));

TEST_P(VirtioConsoleTest, TalksToLinuxDriverAsItExpects) {
  bring_up();
  EXPECT_EQ(driver_.ports, 2U);
  EXPECT_THAT(driver_.said, ElementsAre("add 0", "add 1", "console 0", "resize 0 80x25", "open 0 1",
                                        "name 1 ktstr.frames", "open 1 1"));
  EXPECT_EQ(device_.error(), std::nullopt);
}

TEST_P(VirtioConsoleTest, TalksAlsoToADriverWithOneControlBufferAtATime) {
  driver_.probe(64, 1);
  settle();
  EXPECT_EQ(driver_.said.size(), 7U);
}

TEST_P(VirtioConsoleTest, CarriesWhatTheGuestWrites) {
  bring_up();
  ASSERT_TRUE(driver_.write(0, "hvc0 says "));
  ASSERT_TRUE(driver_.write(1, std::string("\0frame\xff", 7)));
  ASSERT_TRUE(driver_.write(0, "hello"));
  settle();
  EXPECT_EQ(out_[0], "hvc0 says hello");
  EXPECT_EQ(out_[1], std::string("\0frame\xff", 7));
  EXPECT_EQ(driver_.reclaim(0), 2);
  EXPECT_EQ(driver_.reclaim(1), 1);
}

TEST_P(VirtioConsoleTest, BytesForAPortWaitUntilTheGuestOpensIt) {
  send(1, "early ");
  EXPECT_EQ(requests_, 1);
  driver_.probe();
  settle();
  send(1, "later");
  settle();
  EXPECT_EQ(driver_.received(1), "");
  EXPECT_EQ(console_.unread(1), 11U);
  driver_.open(1);
  settle();
  EXPECT_EQ(driver_.received(1), "early later");
  EXPECT_EQ(console_.unread(1), 0U);
}

TEST_P(VirtioConsoleTest, BytesForAClosedPortWait) {
  bring_up();
  driver_.close(1);
  settle();
  send(1, "later");
  settle();
  EXPECT_EQ(driver_.received(1), "");
  driver_.open(1);
  settle();
  EXPECT_EQ(driver_.received(1), "later");
}

TEST_P(VirtioConsoleTest, GivesNoMoreThanTheGuestHasBuffersFor) {
  bring_up(64, 2);
  std::string text;
  for (int i = 0; text.size() < 5 * 4096; ++i) text += std::to_string(i);
  send(1, text);
  settle();
  EXPECT_EQ(console_.unread(1), text.size() - std::size_t{2} * 4096);
  EXPECT_EQ(driver_.received(1, false), text.substr(0, std::size_t{2} * 4096));
  settle();
  EXPECT_EQ(driver_.received(1, false), "") << "no buffers, no bytes";
}

TEST_P(VirtioConsoleTest, GoesOnWhenTheGuestOffersBuffersAgain) {
  bring_up(64, 2);
  std::string text;
  for (int i = 0; text.size() < 200'000; ++i) text += std::to_string(i);
  send(1, text);
  std::string back;
  while (back.size() < text.size()) {
    settle();
    const std::string part = driver_.received(1);
    ASSERT_FALSE(part.empty());
    back += part;
  }
  EXPECT_EQ(back, text);
  EXPECT_EQ(console_.unread(1), 0U);
}

TEST_P(VirtioConsoleTest, RefusesBytesBeyondWhatTheGuestMayLeaveUnread) {
  const std::string half(VirtioConsole::kMaxUnread / 2, 'x');
  send(1, half);
  send(1, half);
  const auto refused = console_.send(1, "y");
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), ErrorCode::kHost);
  EXPECT_THAT(refused.error().to_string(), HasSubstr("console port 1"));
  EXPECT_EQ(console_.unread(1), VirtioConsole::kMaxUnread);
  EXPECT_FALSE(console_.send(2, "y").has_value());
  send(0, "the other port is not concerned");
}

TEST_P(VirtioConsoleTest, AFloodingGuestGetsBoundedTurns) {
  bring_up();
  driver_.page_size = 65536;
  const std::string page(65536, 'f');
  for (int i = 0; i < 12; ++i) ASSERT_TRUE(driver_.write(1, page));
  ASSERT_TRUE(driver_.write(0, "small"));
  EXPECT_TRUE(device_.service()) << "there is more";
  EXPECT_EQ(out_[1].size(), VirtioConsole::kServiceBytes);
  EXPECT_EQ(out_[0], "small") << "the other port has its turn";
  EXPECT_TRUE(device_.service());
  while (device_.service()) {
  }
  EXPECT_EQ(out_[1].size(), 12 * page.size());
}

TEST_P(VirtioConsoleTest, ManyEmptyChainsAreBoundedToo) {
  bring_up(256, 1);
  for (int i = 0; i < 256; ++i) ASSERT_TRUE(driver_.write(1, ""));
  EXPECT_TRUE(device_.service());
  EXPECT_FALSE(device_.service());
  EXPECT_EQ(driver_.reclaim(1), 256);
  EXPECT_EQ(deliveries_, 0);
}

TEST_P(VirtioConsoleTest, TheReceiverMaySend) {
  bring_up();
  console_.set_receiver(1, [this](std::span<const std::byte> bytes) {
    ASSERT_TRUE(console_.send(1, "re: " + text_of(bytes)).has_value());
  });
  driver_.write(1, "question");
  const int before = requests_;
  device_.service();
  EXPECT_GT(requests_, before) << "service() is asked for";
  settle();
  EXPECT_EQ(driver_.received(1), "re: question");
}

TEST_P(VirtioConsoleTest, AResetStartsOverAndLosesNothingThatIsUnread) {
  bring_up();
  driver_.close(1);
  settle();
  send(1, "kept");
  driver_.said.clear();
  bring_up();
  EXPECT_EQ(driver_.said.size(), 7U);
  EXPECT_EQ(driver_.received(1), "kept");
}

TEST_P(VirtioConsoleTest, ADriverThatAsksAgainAndAgainGetsNoMoreThanItReads) {
  bring_up();
  driver_.said.clear();
  for (int i = 0; i < 10'000; ++i) {
    driver_.control(~0U, 0, 1);
    driver_.control(1, 3, 1);
    if (i % 8 == 7) device_.service();
  }
  settle();
  EXPECT_EQ(device_.error(), std::nullopt);
  EXPECT_LT(driver_.said.size(), 100U);
}

TEST_P(VirtioConsoleTest, ControlMessagesThatMakeNoSenseAreIgnored) {
  bring_up();
  driver_.said.clear();
  driver_.control(77, 3, 1);
  driver_.control(1, 99, 1);
  driver_.control(1, 1, 1);
  driver_.control(~0U, 0, 0);
  driver_.control(0, 3, 0);
  settle();
  EXPECT_THAT(driver_.said, ElementsAre());
  EXPECT_EQ(device_.error(), std::nullopt);
}

TEST_P(VirtioConsoleTest, ATooShortControlMessageNeedsAReset) {
  bring_up();
  driver_.control_out().add(ram_.begin(), 7, false);
  device_.service();
  EXPECT_EQ(device_.error(), "virtio-console: queue 3: a control message of 7 bytes; it has 8");
}

TEST_P(VirtioConsoleTest, ATooSmallControlBufferNeedsAReset) {
  driver_.page_size = 7;
  driver_.probe();
  device_.service();
  EXPECT_EQ(device_.error(), "virtio-console: queue 2: a buffer of 7 bytes for a control message of 8");
}

TEST_P(VirtioConsoleTest, AHugeChainNeedsAReset) {
  bring_up();
  // Each buffer is in RAM; together they are more than anybody sends.
  for (std::uint16_t i = 0; i < 3; ++i) {
    driver_.queue(5).set(i, {.gpa = ram_.begin(),
                             .size = 0x200000,
                             .flags = i < 2 ? kNext : std::uint16_t{0},
                             .next = static_cast<std::uint16_t>(i + 1)});
  }
  driver_.output(1).offer(0);
  device_.service();
  EXPECT_EQ(device_.error(), "virtio-console: queue 5: 6291456 bytes at once; at most 4194304 are taken");
  EXPECT_EQ(out_[1], "");
}

TEST_P(VirtioConsoleTest, AHostileChainInAnyQueueNeedsAReset) {
  for (std::uint32_t queue = 0; queue < 6; ++queue) {
    bring_up();
    driver_.queue(queue).set_available_index(0x8000);
    send(0, "x");
    send(1, "x");
    if (queue == 2) driver_.control(1, 3, 1);
    device_.service();
    EXPECT_NE(driver_.driver().read(kStatus) & kNeedsReset, 0U) << queue;
  }
}

TEST(VirtioConsole, ADriverThatKnowsOnePortOnlyGetsThatOne) {
  MockRam ram(0x100000, 0x100000);
  MockLine line;
  VirtioConsole console({{.name = "c", .is_console = true}, {.name = "f"}});
  VirtioMmio device(console, ram.view(), line, [] {});
  MockConsoleDriver driver(device, ram, kVersion1 | kEventIndexBit);
  std::string out;
  console.set_receiver(0, [&](std::span<const std::byte> bytes) { out += text_of(bytes); });
  ASSERT_TRUE(console.send(0, "in").has_value());
  driver.probe();
  driver.write(0, "out");
  EXPECT_FALSE(device.service());
  EXPECT_EQ(out, "out");
  EXPECT_EQ(driver.received(0), "in");
  EXPECT_EQ(device.error(), std::nullopt);
}

TEST(VirtioConsole, SaysWhatItIs) {
  VirtioConsole console({{.name = std::string(300, 'n'), .is_console = true}, {.name = "b"}, {.name = "c"}});
  EXPECT_EQ(console.device_id(), 3U);
  EXPECT_EQ(console.queue_count(), 8U);
  std::uint32_t ports = 0;
  console.read_config(4, std::as_writable_bytes(std::span(&ports, 1)));
  EXPECT_EQ(ports, 3U);
  std::uint64_t beyond = ~std::uint64_t{0};
  console.read_config(6, std::as_writable_bytes(std::span(&beyond, 1)));
  EXPECT_EQ(beyond, 0U);
  console.read_config(~std::uint64_t{0}, std::as_writable_bytes(std::span(&beyond, 1)));
  EXPECT_EQ(beyond, 0U);
}

TEST(ByteQueue, KeepsTheOrderOverPiecesOfAnySize) {
  ByteQueue queue;
  std::string in;
  std::string out;
  std::uint32_t random = 1;
  for (int i = 0; i < 2000; ++i) {
    random = random * 1664525 + 1013904223;
    const std::string piece(random >> 16 & 0xff, static_cast<char>('a' + i % 26));
    queue.append(piece);
    in += piece;
    const std::string_view front = queue.front(random >> 24);
    out += front;
    queue.remove(front.size());
    ASSERT_EQ(queue.size(), in.size() - out.size());
  }
  while (!queue.empty()) {
    const std::string_view front = queue.front(1000);
    ASSERT_FALSE(front.empty());
    out += front;
    queue.remove(front.size());
  }
  EXPECT_EQ(in, out);
  EXPECT_EQ(queue.front(1), "");
}

// A vCPU that writes, reads and resets, against the loop's thread, which sends and serves.
TEST(VirtioConsoleThreads, RegistersAndServiceDoNotDisturbEachOther) {
  MockRam ram(0x100000, 0x4000000);
  MockLine line;
  VirtioConsole console({{.name = "", .is_console = true}, {.name = "f"}});
  std::atomic<int> requests{0};
  VirtioMmio device(console, ram.view(), line, [&] {
    ++requests;
    requests.notify_one();
  });
  std::atomic<bool> done{false};
  std::uint64_t received = 0;
  console.set_receiver(1, [&](std::span<const std::byte> bytes) {
    received += bytes.size();
    if (console.unread(1) >= 4096) return;
    EXPECT_TRUE(console.send(1, text_of(bytes)).has_value());
  });
  std::thread loop([&] {
    for (int seen = 0; !done;) {
      requests.wait(seen);
      seen = requests;
      while (device.service()) {
      }
    }
  });
  std::uint64_t written = 0;
  for (int round = 0; round < 30; ++round) {
    MockConsoleDriver driver(device, ram, kFeatures);
    driver.probe(16, 4);
    // The guest's driver waits for each control message and each write, as Linux' does.
    while (driver.said.size() < 5) {
      std::this_thread::yield();
      driver.interrupt();
    }
    driver.open(1);
    for (int i = 0; i < 50; ++i) {
      while (!driver.write(1, "0123456789")) {
        std::this_thread::yield();
        driver.interrupt();
      }
      written += 10;
      driver.received(1);
      EXPECT_EQ(driver.driver().read(kMagicValue), 0x74726976U);
    }
    while (driver.reclaim(1) > 0) {
    }
    driver.driver().write(kStatus, 0);
  }
  done = true;
  ++requests;
  requests.notify_one();
  loop.join();
  device.service();
  EXPECT_EQ(device.error(), std::nullopt);
  EXPECT_GT(received, 0U);
  EXPECT_LE(received, written);
}

}  // namespace
