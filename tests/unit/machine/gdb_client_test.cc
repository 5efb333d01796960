// GdbClient with a peer that follows a script.
#include "host/machine/tcg/gdb_client.h"

#include <sys/socket.h>

#include <cerrno>
#include <thread>

#include <gtest/gtest.h>

namespace ktstr {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

int errno_of(const auto& result) {
  if (result) return 0;
  return result.error().errno_value() != 0 ? result.error().errno_value() : -1;
}

// The peer is a thread that goes through its script: waits for words, says words. Whatever comes before the
// client asks is thrown away, so that words cannot be laid out in advance.
class GdbClientTest : public ::testing::Test {
 protected:
  struct Turn {
    std::string hear;  // exactly this, next
    std::string say;
  };
  GdbClientTest() { connect(); }
  ~GdbClientTest() override {
    client_.reset();
    finish();
  }
  void connect() {
    client_.reset();
    finish();
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    peer_.reset(ends[0]);
    client_.emplace(UniqueFd(ends[1]));
  }
  void play(std::vector<Turn> script, bool close_at_end = false) {
    finish();
    thread_ = std::thread([this, script = std::move(script), close_at_end] {
      for (const Turn& turn : script) {
        std::string heard(turn.hear.size(), '\0');
        if (!heard.empty()) {
          const ssize_t got = ::recv(peer_.get(), heard.data(), heard.size(), MSG_WAITALL);
          heard.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
        }
        EXPECT_EQ(heard, turn.hear);
        std::string_view rest = turn.say;
        while (!rest.empty()) {
          const ssize_t sent = ::send(peer_.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
          if (sent <= 0) return;
          rest.remove_prefix(static_cast<std::size_t>(sent));
        }
      }
      if (close_at_end) shutdown(peer_.get(), SHUT_RDWR);
    });
  }
  void finish() {
    if (thread_.joinable()) thread_.join();
  }
  // What the client has sent beyond the script.
  std::string more_heard() {
    finish();
    std::string text(4096, '\0');
    const ssize_t got = ::recv(peer_.get(), text.data(), text.size(), MSG_DONTWAIT);
    text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return text;
  }

  UniqueFd peer_;
  std::thread thread_;
  std::optional<GdbClient> client_;
};

TEST(GdbPacket, HasTheSumOfItsBytes) {
  EXPECT_EQ(gdb_packet("OK"), "$OK#9a");
  EXPECT_EQ(gdb_packet(""), "$#00");
}

TEST(GdbPacket, Unpacking) {
  EXPECT_EQ(gdb_unpack("abc"), "abc");
  EXPECT_EQ(gdb_unpack("0* "), "0000");
  EXPECT_EQ(gdb_unpack("a0*\"b"), "a000000b");
  EXPECT_EQ(gdb_unpack("}\x03}\x04}]"), "#$}");
  EXPECT_EQ(gdb_unpack("x*~")->size(), 1U + 126 - 29);
  // A repeated byte may have been an escaped one.
  EXPECT_EQ(gdb_unpack("}\x0a* "), "****");
}

TEST(GdbPacket, WhatCannotBeUnpacked) {
  for (const char* packed : {"*!", "a*", "a}", "a*\x1f", "a*\x7f"})
    EXPECT_FALSE(gdb_unpack(packed)) << packed;
  std::string bomb = "x";
  for (int i = 0; i < 1000; ++i) bomb += "*~";
  EXPECT_FALSE(gdb_unpack(bomb));
}

TEST_F(GdbClientTest, ACommandIsAnswered) {
  play({{gdb_packet("qC"), "+" + gdb_packet("QC01")}});
  const auto answer = client_->execute("qC", seconds(5));
  ASSERT_EQ(errno_of(answer), 0);
  EXPECT_EQ(*answer, "QC01");
  EXPECT_EQ(more_heard(), "") << "a byte that would stop a guest";
}

TEST_F(GdbClientTest, AnAnswerInPieces) {
  const std::string packet = "+" + gdb_packet("0* 1");
  std::vector<Turn> script = {{gdb_packet("g"), ""}};
  for (const char byte : packet) script.push_back({"", std::string(1, byte)});
  play(std::move(script));
  const auto answer = client_->execute("g", seconds(5));
  ASSERT_EQ(errno_of(answer), 0);
  EXPECT_EQ(*answer, "00001");
}

TEST_F(GdbClientTest, BreakpointsAndSteps) {
  play({{gdb_packet("Z1,ffffffff81000000,1"), "+$OK#9a"},
        {gdb_packet("z1,ffffffff81000000,1"), "+$OK#9a"},
        {gdb_packet("vCont;s:11"), "+" + gdb_packet("T05thread:11;")}});
  EXPECT_EQ(errno_of(client_->insert_breakpoint(0xffffffff81000000, seconds(5))), 0);
  EXPECT_EQ(errno_of(client_->remove_breakpoint(0xffffffff81000000, seconds(5))), 0);
  EXPECT_EQ(errno_of(client_->step(16, seconds(5))), 0);
}

TEST_F(GdbClientTest, RefusalsAreErrorsAndTheTalkGoesOn) {
  play({{gdb_packet("Z1,1,1"), "+" + gdb_packet("E22")},
        {gdb_packet("Z1,1,1"), "+" + gdb_packet("")},
        {gdb_packet("vCont;s:1"), "+" + gdb_packet("E22")},
        {gdb_packet("vCont;s:1"), "+" + gdb_packet("W00")},
        {gdb_packet("Z1,1,1"), "+$OK#9a"}});
  EXPECT_EQ(errno_of(client_->insert_breakpoint(1, seconds(5))), -1);
  EXPECT_EQ(errno_of(client_->insert_breakpoint(1, seconds(5))), -1);
  EXPECT_EQ(errno_of(client_->step(0, seconds(5))), -1);
  EXPECT_EQ(errno_of(client_->step(0, seconds(5))), -1);
  EXPECT_EQ(errno_of(client_->insert_breakpoint(1, seconds(5))), 0);
}

TEST_F(GdbClientTest, ReportsOfStopsThatNobodyWaitsForAreSkipped) {
  const std::string stop = gdb_packet("T02thread:01;");
  play({{"", stop + stop}, {gdb_packet("Z1,1,1"), stop + "+" + stop + "$OK#9a"}});
  EXPECT_EQ(errno_of(client_->insert_breakpoint(1, seconds(5))), 0);
  EXPECT_EQ(more_heard(), "");
}

TEST_F(GdbClientTest, ADamagedAnswerIsAskedForAgain) {
  play({{gdb_packet("qC"), "+$QC02#00"}, {"-", "$QC0x#zz"}, {"-", gdb_packet("QC01")}});
  const auto answer = client_->execute("qC", seconds(5));
  ASSERT_EQ(errno_of(answer), 0);
  EXPECT_EQ(*answer, "QC01");
}

TEST_F(GdbClientTest, ACommandThatArrivedDamagedIsSentAgain) {
  play({{gdb_packet("qC"), "-"}, {gdb_packet("qC"), "+" + gdb_packet("QC01")}});
  EXPECT_EQ(errno_of(client_->execute("qC", seconds(5))), 0);
}

TEST_F(GdbClientTest, DamageWithoutEndIsAnError) {
  for (const char* damaged : {"-", "$x#00"}) {
    connect();
    const std::string again = damaged[0] == '-' ? gdb_packet("qC") : "-";
    play({{gdb_packet("qC"), damaged}, {again, damaged}, {again, damaged}, {again, damaged}});
    EXPECT_EQ(errno_of(client_->execute("qC", seconds(5))), EPROTO) << damaged;
    EXPECT_EQ(errno_of(client_->execute("qC", seconds(5))), EPROTO) << "for good";
  }
}

TEST_F(GdbClientTest, APacketWithoutEndIsBounded) {
  play({{gdb_packet("g"), "+$" + std::string(GdbClient::kMaxPacket + 1, '0')}});
  EXPECT_EQ(errno_of(client_->execute("g", seconds(5))), EPROTO);
}

TEST_F(GdbClientTest, AFloodIsBounded) {
  const std::string stop = gdb_packet("T05thread:01;");
  std::string flood(GdbClient::kMaxNoise + 1, '+');
  std::string stops;
  while (stops.size() < 2 * GdbClient::kMaxNoise) stops += stop;
  for (const std::string& noise : {flood, stops}) {
    connect();
    play({{gdb_packet("g"), noise}});
    EXPECT_EQ(errno_of(client_->execute("g", seconds(20))), EPROTO);
    client_.reset();  // so that the peer need not send the rest
  }
}

TEST_F(GdbClientTest, ABombIsAnError) {
  std::string bomb = "x";
  for (int i = 0; i < 1000; ++i) bomb += "*~";
  play({{gdb_packet("g"), "+" + gdb_packet(bomb)}});
  EXPECT_EQ(errno_of(client_->execute("g", seconds(5))), EPROTO);
}

TEST_F(GdbClientTest, SilenceEndsTheTalk) {
  EXPECT_EQ(errno_of(client_->execute("g", milliseconds(1))), ETIMEDOUT);
  // A late answer could be taken for another one's.
  EXPECT_EQ(errno_of(client_->execute("g", seconds(5))), ETIMEDOUT);
}

TEST_F(GdbClientTest, AClosedPeer) {
  play({{gdb_packet("g"), "+$00"}}, true);
  EXPECT_EQ(errno_of(client_->execute("g", seconds(5))), ECONNRESET);
  EXPECT_EQ(errno_of(client_->step(0, seconds(5))), ECONNRESET);
  connect();
  peer_.reset();
  client_->drain();
  EXPECT_EQ(errno_of(client_->execute("g", seconds(5))), ECONNRESET);
}

TEST_F(GdbClientTest, DrainDoesNotWait) {
  client_->drain();
  play({{"", gdb_packet("T05thread:01;")}});
  finish();
  client_->drain();
  play({{gdb_packet("vCont;s:1"), "+" + gdb_packet("T05thread:01;")}});
  EXPECT_EQ(errno_of(client_->step(0, seconds(5))), 0);
}

}  // namespace
}  // namespace ktstr
