#include <gtest/gtest.h>

#include "guest/init/frame_port.h"
#include "tests/unit/guest/init_pair.h"

namespace ktstr::guest {
namespace {

using namespace std::chrono_literals;
using test::HostEnd;
using test::note_frame;
using test::output_frame;

v1::Frame heartbeat() {
  v1::Frame frame;
  frame.mutable_heartbeat()->set_phase("x");
  return frame;
}

// Fills the socket, so that everything sent from now on stays in the queue.
std::size_t fill_socket(FramePort& port) {
  std::size_t sent = 0;
  while (!port.wants_write()) {
    port.send(note_frame(std::string(900, 'f')));
    ++sent;
  }
  return sent;
}

TEST(FramePort, SendsFramesInOrderWithTheirTime) {
  HostEnd host;
  FramePort port(host.take_guest_fd());
  port.send(note_frame("one"));
  port.send(note_frame("two"));
  const auto frames = host.receive();
  ASSERT_EQ(frames.size(), 2U);
  EXPECT_EQ(frames[0].note().text(), "one");
  EXPECT_EQ(frames[1].note().text(), "two");
  EXPECT_GT(frames[0].guest_ns(), 0U);
  EXPECT_LE(frames[0].guest_ns(), frames[1].guest_ns());
  EXPECT_EQ(port.frames_sent(), 2U);
  EXPECT_FALSE(port.wants_write());
}

TEST(FramePort, FullQueueDropsOutputAndKeepsResults) {
  HostEnd host;
  FramePort port(host.take_guest_fd(), {.soft_bytes = 100000, .hard_bytes = 1 << 20});
  const std::size_t fillers = fill_socket(port);
  for (int i = 0; i < 50; ++i) port.send(output_frame(10000));
  EXPECT_LE(port.queued_bytes(), 100000U);
  const std::uint64_t dropped = port.output_dropped();
  EXPECT_GT(dropped, 0U);
  // Results take the room of output that is queued already, and then go beyond the soft bound.
  for (int i = 0; i < 20; ++i) port.send(note_frame(std::string(10000, static_cast<char>('a' + i))));
  EXPECT_GT(port.output_dropped(), dropped);
  EXPECT_TRUE(port.congested());
  EXPECT_EQ(port.results_dropped(), 0U);

  std::uint64_t output = 0;
  std::uint64_t missing = 0;
  std::size_t notes = 0;
  const auto count = [&](const std::vector<v1::Frame>& frames) {
    for (const v1::Frame& frame : frames) {
      output += frame.output().data().size();
      missing += frame.output().dropped();
      if (frame.has_note()) ++notes;
    }
  };
  while (port.wants_write()) {
    count(host.receive());
    port.flush();
  }
  port.send(output_frame(5));
  count(host.receive());
  EXPECT_EQ(notes, fillers + 20);
  EXPECT_EQ(output + missing, 50U * 10000U + 5U);  // every byte is there or accounted for
  EXPECT_EQ(host.stats().lost, 0U);
  EXPECT_EQ(port.output_dropped(), 0U);
}

TEST(FramePort, HeartbeatsGoBeforeResults) {
  HostEnd host;
  FramePort port(host.take_guest_fd(), {.soft_bytes = 1000, .hard_bytes = 5000});
  fill_socket(port);
  for (int i = 0; i < 5; ++i) port.send(note_frame(std::string(900, 'r')));
  const std::size_t queued = port.queued_bytes();
  port.send(heartbeat());
  EXPECT_EQ(port.queued_bytes(), queued);
}

TEST(FramePort, BeyondTheHardBoundResultsAreCounted) {
  HostEnd host;
  FramePort port(host.take_guest_fd(), {.soft_bytes = 1000, .hard_bytes = 100000});
  fill_socket(port);
  for (int i = 0; i < 200; ++i) port.send(note_frame(std::string(1000, 'r')));
  EXPECT_GT(port.results_dropped(), 0U);
  EXPECT_LE(port.queued_bytes(), 100000U);
}

TEST(FramePort, TooLargeAFrameBecomesAWarning) {
  HostEnd host;
  FramePort port(host.take_guest_fd());
  port.send(note_frame(std::string(kMaxFramePayload + 1, 'x')));
  const auto frames = host.receive();
  ASSERT_EQ(frames.size(), 1U);
  EXPECT_EQ(frames[0].note().level(), v1::Note::WARNING);
  EXPECT_EQ(port.results_dropped(), 1U);
}

TEST(FramePort, DrainGivesUpWhenNobodyReads) {
  HostEnd host;
  FramePort port(host.take_guest_fd());
  fill_socket(port);
  EXPECT_FALSE(port.drain(5ms));
  EXPECT_TRUE(port.wants_write());
}

TEST(FramePort, ReadsPayloadsAndSeesTheHostLeave) {
  HostEnd host;
  FramePort port(host.take_guest_fd());
  EXPECT_EQ(port.read(), FramePort::ReadResult::kNothing);
  v1::Frame stop;
  stop.mutable_stop()->set_reason("because");
  host.send(stop);
  EXPECT_EQ(port.read(), FramePort::ReadResult::kData);
  EXPECT_EQ(port.next_payload(), stop.SerializeAsString());
  EXPECT_FALSE(port.next_payload());
  host.close();
  EXPECT_EQ(port.read(), FramePort::ReadResult::kHangup);
}

}  // namespace
}  // namespace ktstr::guest
