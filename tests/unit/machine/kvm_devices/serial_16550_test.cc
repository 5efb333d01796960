#include "host/machine/kvm/devices/serial_16550.h"

#include <thread>

#include <gtest/gtest.h>

#include "tests/unit/machine/kvm_devices/mock_guest.h"

using namespace ktstr::kvm;
using ktstr::kvm::mock::MockLine;
using ktstr::kvm::mock::read_register;
using ktstr::kvm::mock::write_register;

namespace {

constexpr std::uint64_t kData = 0, kIer = 1, kIir = 2, kFcr = 2, kLcr = 3, kMcr = 4, kLsr = 5, kMsr = 6,
                        kScratch = 7;
constexpr std::uint8_t kTransmitter = 2;  // of the interrupt enable register
constexpr std::uint8_t kOut2 = 8;         // of the modem control

class Serial16550Test : public ::testing::Test {
 protected:
  std::uint8_t in(std::uint64_t offset) {
    return static_cast<std::uint8_t>(read_register(device_, offset, 1));
  }
  void out(std::uint64_t offset, unsigned value) { write_register(device_, offset, value, 1); }
  void print(std::string_view text) {
    for (const char c : text) out(kData, static_cast<unsigned char>(c));
  }
  // What serial8250_do_startup() leaves.
  void open() {
    out(kLcr, 3);
    out(kMcr, kOut2 | 3);
  }

  MockLine line_;
  int ready_ = 0;
  Serial16550 device_{line_, [this] { ++ready_; }};
};

TEST_F(Serial16550Test, PassesLinuxAutoconfigAs16550A) {
  // autoconfig(): the interrupt enable register takes four bits.
  out(kIer, 0);
  EXPECT_EQ(in(kIer)&0x0f, 0);
  out(kIer, 0xff);
  EXPECT_EQ(in(kIer), 0x0f);
  out(kIer, 0);
  // Loopback: RTS comes back as CTS, OUT2 as DCD.
  out(kMcr, 0x10 | kOut2 | 2);
  EXPECT_EQ(in(kMsr)&0xf0, 0x90);
  out(kMcr, 0);
  // No extended features register behind LCR 0xbf, or behind the divisor latch.
  out(kLcr, 0xbf);
  out(kFcr, 0);
  out(kLcr, 0);
  out(kFcr, 1);
  EXPECT_EQ(in(kIir)&0xc0, 0xc0) << "16550A";
  out(kLcr, 0x80);
  EXPECT_NE(in(kFcr), 0) << "not a 16650";
  out(kLcr, 0xbf);
  EXPECT_NE(in(kFcr), 0) << "not a 16650V2";
  out(kLcr, 0xe0);
  EXPECT_EQ(in(2) & 0x10, 0) << "not a National Semiconductor";
  out(kLcr, 0);
  out(kMcr, 0x10);
  out(kLcr, 0xe0);
  EXPECT_EQ(in(2) & 0x10, 0);
  out(kLcr, 0);
  out(kMcr, 0);
  out(kFcr, 0x21);
  EXPECT_EQ(in(kIir)&0xe0, 0xc0) << "no 64-byte FIFO";
  out(kIer, 0x40);
  EXPECT_EQ(in(kIer)&0x40, 0) << "not an XScale";
  EXPECT_NE(in(kLsr), 0xff);
}

TEST_F(Serial16550Test, ScratchAndDivisorKeepTheirValues) {
  out(kScratch, 0xa5);
  EXPECT_EQ(in(kScratch), 0xa5);
  out(kLcr, 0x83);
  out(kData, 1);
  out(kIer, 0);
  EXPECT_EQ(in(kData), 1);
  EXPECT_EQ(in(kIer), 0);
  out(kLcr, 3);
  EXPECT_EQ(in(kLcr), 3);
  EXPECT_EQ(in(kData), 0);
  EXPECT_EQ(device_.take_output(), "") << "the divisor is not output";
}

TEST_F(Serial16550Test, EveryCharacterIsSentAtOnce) {
  open();
  print("Linux version\r\n");
  EXPECT_EQ(in(kLsr), 0x60);
  EXPECT_EQ(device_.take_output(), "Linux version\r\n");
  EXPECT_EQ(device_.take_output(), "");
  EXPECT_EQ(device_.dropped(), 0U);
}

TEST_F(Serial16550Test, AnnouncesOutputOnceUntilItIsTaken) {
  open();
  EXPECT_EQ(ready_, 0);
  print("abc");
  EXPECT_EQ(ready_, 1);
  device_.take_output();
  EXPECT_EQ(ready_, 1);
  print("d");
  EXPECT_EQ(ready_, 2);
}

TEST_F(Serial16550Test, TheReceiverOfTheAnnouncementMayTakeTheOutput) {
  std::string output;
  Serial16550* self = nullptr;
  Serial16550 device(line_, [&] { output += self->take_output(); });
  self = &device;
  for (const char c : std::string("xyz")) write_register(device, kData, static_cast<unsigned char>(c), 1);
  EXPECT_EQ(output, "xyz");
}

TEST_F(Serial16550Test, PassesLinuxTestOfTheTransmitterInterrupt) {
  // serial8250_THRE_test(): it must come again each time that it is enabled.
  out(kFcr, 1);
  out(kIer, kTransmitter);
  EXPECT_EQ(in(kIir), 0xc2);
  out(kIer, 0);
  out(kIer, kTransmitter);
  EXPECT_EQ(in(kIir), 0xc2);
  EXPECT_EQ(in(kIir), 0xc1) << "reading takes it back";
}

TEST_F(Serial16550Test, OneInterruptSendsATerminalsWholeBuffer) {
  open();
  out(kFcr, 1);
  const std::string text(100, 'x');
  std::size_t sent = 0;
  out(kIer, kTransmitter);
  ASSERT_EQ(line_.edges, 1);
  // serial8250_interrupt(): as long as there is something, 16 characters a time.
  while ((in(kIir)&1) == 0) {
    const std::size_t part = std::min<std::size_t>(16, text.size() - sent);
    print(std::string_view(text).substr(sent, part));
    sent += part;
    if (sent == text.size()) out(kIer, 0);
  }
  EXPECT_EQ(device_.take_output(), text);
}

TEST_F(Serial16550Test, AnEdgeComesOnlyWhenTheLineRises) {
  open();
  out(kIer, kTransmitter);
  EXPECT_EQ(line_.edges, 1);
  print("abc");  // still pending
  EXPECT_EQ(line_.edges, 1);
  in(kIir);
  EXPECT_EQ(line_.edges, 1);
  print("d");
  EXPECT_EQ(line_.edges, 2);
  // The console writes with interrupts off and then restores them.
  out(kIer, 0);
  print("e");
  EXPECT_EQ(line_.edges, 2);
  out(kIer, kTransmitter);
  EXPECT_EQ(line_.edges, 3);
}

TEST_F(Serial16550Test, Out2GatesTheInterrupt) {
  out(kIer, kTransmitter);
  EXPECT_EQ(line_.edges, 0);
  out(kMcr, kOut2);
  EXPECT_EQ(line_.edges, 1);
}

TEST_F(Serial16550Test, LoopedBackCharactersDoNotLeave) {
  out(kMcr, 0x10);
  print("abc");
  out(kMcr, kOut2);
  EXPECT_EQ(device_.take_output(), "");
  EXPECT_EQ(ready_, 0);
}

TEST_F(Serial16550Test, AWideAccessIsOneOfEachPort) {
  write_register(device_, kMcr, 0x0000a508, 4);
  EXPECT_EQ(in(kMcr), 8);
  write_register(device_, kMsr, 0xa500, 2);
  EXPECT_EQ(in(kScratch), 0xa5);
}

TEST_F(Serial16550Test, DropsTheOldestOutputAndCountsIt) {
  constexpr std::size_t limit = 1000;
  Serial16550 device(
      line_, [this] { ++ready_; }, limit);
  const auto put = [&](char c) { write_register(device, kData, static_cast<unsigned char>(c), 1); };
  for (std::size_t i = 0; i < limit; ++i) put('o');
  EXPECT_EQ(device.dropped(), 0U);
  for (std::size_t i = 0; i < 10; ++i) put('N');
  const std::string output = device.take_output();
  EXPECT_EQ(device.dropped(), limit / 2);
  EXPECT_EQ(output, std::string(limit / 2, 'o') + std::string(10, 'N'));
  EXPECT_EQ(ready_, 1);
}

TEST_F(Serial16550Test, NothingIsLostBetweenTwoThreads) {
  std::atomic<int> announced{0};
  Serial16550 device(line_, [&] {
    ++announced;
    announced.notify_one();
  });
  constexpr int kLines = 2000;
  std::string output;
  std::thread loop([&] {
    for (int seen = 0; output.size() < kLines * 4;) {
      announced.wait(seen);
      seen = announced;
      output += device.take_output();
    }
  });
  for (int i = 0; i < kLines; ++i) {
    for (const char c : std::string("abc\n")) write_register(device, kData, static_cast<unsigned char>(c), 1);
  }
  loop.join();
  std::string expected;
  for (int i = 0; i < kLines; ++i) expected += "abc\n";
  EXPECT_EQ(output, expected);
}

}  // namespace
