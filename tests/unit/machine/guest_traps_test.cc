// GuestTraps: what it asks of the stub, and whose turn it is.
#include "host/machine/tcg/guest_traps.h"

#include <sys/socket.h>

#include <array>
#include <thread>

#include <gtest/gtest.h>

#include "host/machine/machine.h"

namespace ktstr {
namespace {

using std::chrono::seconds;

// A stub that says OK to everything, and notes what it heard. Ends with the connection.
class Stub {
 public:
  explicit Stub(GuestTraps& traps) {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    socket_.reset(ends[0]);
    traps.connect(UniqueFd(ends[1]));
    thread_ = std::thread([this] {
      char byte = 0;
      std::string packet;
      while (::recv(socket_.get(), &byte, 1, 0) == 1) {
        packet += byte;
        if (packet.size() < 4 || packet[packet.size() - 3] != '#') continue;
        heard_.push_back(packet.substr(1, packet.size() - 4));
        packet.clear();
        EXPECT_EQ(::send(socket_.get(), "+$OK#9a", 7, MSG_NOSIGNAL), 7);
      }
    });
  }
  // Everything, after GuestTraps::disconnect.
  std::vector<std::string> heard() {
    thread_.join();
    return heard_;
  }

 private:
  UniqueFd socket_;
  std::thread thread_;
  std::vector<std::string> heard_;
};

TEST(GuestTraps, OnlyDifferencesAreSent) {
  GuestTraps traps;
  ASSERT_TRUE(traps.want({0x30, 0x10, 0x10}));
  Stub stub(traps);
  ASSERT_TRUE(traps.apply(seconds(5)));
  ASSERT_TRUE(traps.apply(seconds(5)));
  ASSERT_TRUE(traps.want({0x20, 0x30}));
  ASSERT_TRUE(traps.apply(seconds(5)));
  ASSERT_TRUE(traps.want({}));
  ASSERT_TRUE(traps.apply(seconds(5)));
  traps.disconnect();
  EXPECT_EQ(stub.heard(), (std::vector<std::string>{"Qqemu.sstep=3", "Z1,10,1", "Z1,30,1", "z1,10,1",
                                                    "Z1,20,1", "z1,20,1", "z1,30,1"}));
}

TEST(GuestTraps, TooManyChangeNothing) {
  GuestTraps traps;
  ASSERT_TRUE(traps.want({0x10}));
  std::vector<std::uint64_t> many(kMaxTraps + 1);
  for (std::size_t i = 0; i < many.size(); ++i) many[i] = i;
  EXPECT_FALSE(traps.want(many));
  EXPECT_TRUE(traps.wanted(0x10));
  EXPECT_FALSE(traps.wanted(0));
  many.back() = 0;  // one of them twice
  EXPECT_TRUE(traps.want(many));
}

TEST(GuestTraps, NothingWantedNeedsNoStub) {
  GuestTraps traps;
  EXPECT_TRUE(traps.apply(seconds(5)));
  traps.settle();
  EXPECT_FALSE(traps.step(0, seconds(5)));
  ASSERT_TRUE(traps.want({0x10}));
  EXPECT_FALSE(traps.apply(seconds(5)));
}

TEST(GuestTraps, VcpusAtTrapsTakeTurns) {
  GuestTraps traps;
  ASSERT_TRUE(traps.want({0x10, 0x20}));
  const std::array<std::uint64_t, 4> rips = {0x10, 0x11, 0x20, 0x10};
  EXPECT_EQ(traps.next_trapped(rips, 0), 2U);
  EXPECT_EQ(traps.next_trapped(rips, 2), 3U);
  EXPECT_EQ(traps.next_trapped(rips, 3), 0U);
  EXPECT_EQ(traps.next_trapped(std::array<std::uint64_t, 2>{0x10, 0x11}, 0), 0U) << "the same once more";
  EXPECT_EQ(traps.next_trapped(std::array<std::uint64_t, 2>{0x11, 0x12}, 0), std::nullopt);
  EXPECT_EQ(traps.next_trapped({}, 0), std::nullopt);
}

}  // namespace
}  // namespace ktstr
