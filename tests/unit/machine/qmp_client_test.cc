#include "host/machine/tcg/qmp_client.h"

#include <sys/socket.h>

#include <cerrno>
#include <optional>

#include <gtest/gtest.h>

namespace ktstr {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::seconds;

// A QMP peer at the other end of a socket pair. What it says is put into the socket before the client asks,
// so no test needs a second thread.
class QmpClientTest : public ::testing::Test {
 protected:
  QmpClientTest() { connect(); }
  void connect() {
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    peer_.reset(ends[0]);
    client_.emplace(UniqueFd(ends[1]));
  }
  void say(const std::string& text) {
    ASSERT_EQ(::send(peer_.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }
  // What the client has sent so far.
  std::string heard() {
    std::string text(65536, '\0');
    const ssize_t got = ::recv(peer_.get(), text.data(), text.size(), MSG_DONTWAIT);
    text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return text;
  }
  // errno of the failure, 0 for success, -1 for an error without errno.
  static int errno_of(const auto& result) {
    if (result) return 0;
    return result.error().errno_value() != 0 ? result.error().errno_value() : -1;
  }

  UniqueFd peer_;
  std::optional<QmpClient> client_;
};

TEST_F(QmpClientTest, Handshake) {
  say("{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n{\"return\": {}, \"id\": 1}\r\n");
  EXPECT_EQ(errno_of(client_->handshake(seconds(5))), 0);
  EXPECT_EQ(json::parse(heard()), (json{{"execute", "qmp_capabilities"}, {"id", 1}}));
}

TEST_F(QmpClientTest, APeerThatDoesNotGreet) {
  say("{\"return\": {}, \"id\": 1}\n");
  EXPECT_EQ(errno_of(client_->handshake(seconds(5))), EPROTO);
}

TEST_F(QmpClientTest, ExecuteReturnsTheAnswerWithItsId) {
  // Id 7 belongs to nobody: the late answer to a forgotten command.
  say("{\"return\": 0, \"id\": 7}\n{\"return\": {\"status\": \"running\"}, \"id\": 1}\n");
  const auto answer = client_->execute("query-status", {{"a", "b"}}, seconds(5));
  ASSERT_EQ(errno_of(answer), 0);
  EXPECT_EQ((*answer)["status"], "running");
  EXPECT_EQ(json::parse(heard())["arguments"], (json{{"a", "b"}}));
}

TEST_F(QmpClientTest, RefusalCarriesItsWords) {
  say("{\"error\": {\"class\": \"GenericError\", \"desc\": \"No such thing\"}, \"id\": 1}\n");
  const auto answer = client_->execute("x", {}, seconds(5));
  ASSERT_EQ(errno_of(answer), -1);
  EXPECT_NE(answer.error().to_string().find("No such thing"), std::string::npos);
  // The conversation goes on.
  say("{\"return\": {}, \"id\": 2}\n");
  EXPECT_EQ(errno_of(client_->execute("y", {}, seconds(5))), 0);
}

TEST_F(QmpClientTest, AnErrorWithoutIdIsTheAnswer) {
  say("{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}\n");
  EXPECT_EQ(errno_of(client_->execute("x", {}, seconds(5))), -1);
}

TEST_F(QmpClientTest, EventsThatPassByAreKeptInOrder) {
  say("{\"event\": \"STOP\", \"timestamp\": {}}\n{\"return\": {}, \"id\": 1}\n"
      "{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-reset\"}}\n");
  ASSERT_EQ(errno_of(client_->execute("stop", {}, seconds(5))), 0);
  ASSERT_EQ(errno_of(client_->pump()), 0);
  const auto events = client_->take_events();
  ASSERT_EQ(events.size(), 2U);
  EXPECT_EQ(events[0].name, "STOP");
  EXPECT_TRUE(events[0].data.is_object());
  EXPECT_EQ(events[1].data["reason"], "guest-reset");
  EXPECT_FALSE(client_->has_events());
}

TEST_F(QmpClientTest, AnEventRightBehindAnAnswerIsThereAtOnce) {
  say("{\"return\": {}, \"id\": 1}\n{\"event\": \"STOP\"}\n{\"event\": \"RES");
  ASSERT_EQ(errno_of(client_->execute("cont", {}, seconds(5))), 0);
  ASSERT_TRUE(client_->has_events());
  EXPECT_EQ(client_->take_events().front().name, "STOP");
  say("UME\"}\n{\"error\": {\"desc\": \"no\"}, \"id\": 2}\n{\"event\": \"STOP\"}\n");
  ASSERT_EQ(errno_of(client_->execute("cont", {}, seconds(5))), -1);
  EXPECT_EQ(client_->take_events().size(), 2U);
}

TEST_F(QmpClientTest, TimeLimitAndLateAnswer) {
  EXPECT_EQ(errno_of(client_->execute("stop", {}, milliseconds(1))), ETIMEDOUT);
  say("{\"return\": \"late\", \"id\": 1}\n{\"return\": \"right\", \"id\": 2}\n");
  const auto answer = client_->execute("cont", {}, seconds(5));
  ASSERT_EQ(errno_of(answer), 0);
  EXPECT_EQ(*answer, "right");
}

TEST_F(QmpClientTest, PumpDoesNotWait) {
  EXPECT_EQ(errno_of(client_->pump()), 0);
  say("{\"event\": \"RES");
  EXPECT_EQ(errno_of(client_->pump()), 0);
  EXPECT_FALSE(client_->has_events());
  say("UME\"}\n");
  EXPECT_EQ(errno_of(client_->pump()), 0);
  EXPECT_TRUE(client_->has_events());
}

TEST_F(QmpClientTest, ClosedPeer) {
  say("{\"event\": \"SHUTDOWN\"}\n");
  peer_.reset();
  EXPECT_EQ(errno_of(client_->pump()), 0);
  EXPECT_EQ(errno_of(client_->pump()), ECONNRESET);
  EXPECT_EQ(client_->take_events().size(), 1U);
  EXPECT_EQ(errno_of(client_->execute("x", {}, seconds(5))), ECONNRESET);
}

TEST_F(QmpClientTest, GarbageIsAnErrorForGood) {
  const std::string binary("\x00\xff\xfe\n", 4);
  const std::string deep(100'000, '[');
  for (const std::string& garbage : {std::string("not json\n"), std::string("[1, 2]\n"), std::string("17\n"),
                                     std::string("{\"a\": \n"), binary, deep + "\n", std::string("null\n")}) {
    connect();
    say(garbage);
    EXPECT_EQ(errno_of(client_->execute("x", {}, seconds(5))), EPROTO) << garbage.substr(0, 20);
    EXPECT_EQ(errno_of(client_->execute("y", {}, seconds(5))), EPROTO);
    EXPECT_EQ(errno_of(client_->pump()), EPROTO);
  }
}

TEST_F(QmpClientTest, AnAnswerThatIsNone) {
  say("{\"id\": 1}\n");
  EXPECT_EQ(errno_of(client_->execute("x", {}, seconds(5))), EPROTO);
}

TEST_F(QmpClientTest, OddTypesAreNoHarm) {
  say("{\"event\": 5, \"data\": [1]}\n{\"return\": 1, \"id\": \"one\"}\n{\"error\": 3, \"id\": 1}\n");
  EXPECT_EQ(errno_of(client_->execute("x", {}, seconds(5))), -1);
  const auto events = client_->take_events();
  ASSERT_EQ(events.size(), 1U);
  EXPECT_EQ(events[0].name, "");
  EXPECT_TRUE(events[0].data.is_object());
}

TEST_F(QmpClientTest, ALineWithoutEndIsBounded) {
  // Twice the limit does not fit into the socket's buffer, so it goes in and out by turns.
  const std::string block(64 << 10, ' ');
  int result = 0;
  for (std::size_t sent = 0; sent < 2 * QmpClient::kMaxLine && result == 0; sent += block.size()) {
    say(block);
    result = errno_of(client_->pump());
  }
  EXPECT_EQ(result, EPROTO);
}

TEST_F(QmpClientTest, EventsThatNobodyTakesAreBounded) {
  int result = 0;
  for (std::size_t i = 0; i < QmpClient::kMaxEvents + 1 && result == 0; ++i) {
    say("{\"event\": \"STOP\"}\n");
    result = errno_of(client_->pump());
  }
  EXPECT_EQ(result, EPROTO);
}

}  // namespace
}  // namespace ktstr
