#include "host/machine/tcg/stream_port.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>

#include <gtest/gtest.h>

namespace ktstr {
namespace {

class StreamPortTest : public ::testing::Test {
 protected:
  StreamPortTest() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    peer_.reset(ends[0]);
    auto port = StreamPort::create(loop_, UniqueFd(ends[1]), [this](std::span<const std::byte> bytes) {
      for (const std::byte byte : bytes) received_.push_back(static_cast<char>(byte));
      if (on_receive_) on_receive_();
    });
    EXPECT_TRUE(port);
    port_ = *port;
  }
  void say(std::string_view text) {
    ASSERT_EQ(::send(peer_.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }
  std::size_t take_all() {
    std::array<char, 65536> chunk;
    std::size_t total = 0;
    ssize_t got = 0;
    while ((got = ::recv(peer_.get(), chunk.data(), chunk.size(), MSG_DONTWAIT)) > 0) {
      total += static_cast<std::size_t>(got);
    }
    return total;
  }

  boost::asio::io_context loop_;
  UniqueFd peer_;
  std::shared_ptr<StreamPort> port_;
  std::string received_;
  std::function<void()> on_receive_;
};

TEST_F(StreamPortTest, ReceivesOnTheLoop) {
  port_->start();
  say("hello");
  loop_.run_one();
  EXPECT_EQ(received_, "hello");
  say(" again");
  loop_.run_one();
  EXPECT_EQ(received_, "hello again");
}

TEST_F(StreamPortTest, TheEndOfTheStreamEndsItsWork) {
  port_->start();
  say("last");
  peer_.reset();
  loop_.run();
  EXPECT_EQ(received_, "last");
}

TEST_F(StreamPortTest, DrainTakesWhatIsThere) {
  EXPECT_EQ(port_->drain(1000), 0U);
  say("abc");
  EXPECT_EQ(port_->drain(1000), 3U);
  EXPECT_EQ(received_, "abc");
}

TEST_F(StreamPortTest, MoreThanTheSocketHoldsIsQueued) {
  const std::string much(std::size_t{4} << 20, 'x');
  ASSERT_TRUE(port_->send(much));
  std::size_t taken = take_all();
  EXPECT_LT(taken, much.size());
  while (taken < much.size()) {
    loop_.run_one();
    taken += take_all();
  }
  EXPECT_EQ(taken, much.size());
}

TEST_F(StreamPortTest, TheQueueIsBounded) {
  ASSERT_TRUE(port_->send(std::string(StreamPort::kMaxQueue, 'x')));
  // The socket's buffer took a little; twice that does not fit any more.
  const auto refused = port_->send(std::string(std::size_t{16} << 20, 'x'));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::kHost);
}

TEST_F(StreamPortTest, AReceiverMayClose) {
  port_->start();
  on_receive_ = [this] { port_->close(); };
  say("bye");
  loop_.run();
  EXPECT_EQ(received_, "bye");
  EXPECT_FALSE(port_->send("x"));
  EXPECT_EQ(port_->drain(1000), 0U);
}

TEST_F(StreamPortTest, SendingToAClosedPeerIsAnError) {
  peer_.reset();
  EXPECT_FALSE(port_->send("x"));
}

}  // namespace
}  // namespace ktstr
