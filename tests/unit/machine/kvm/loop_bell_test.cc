#include "host/machine/kvm/loop_bell.h"

#include <sys/eventfd.h>
#include <sys/resource.h>

#include <chrono>
#include <memory>
#include <thread>

#include <gtest/gtest.h>

namespace ktstr::kvm::tiny {
namespace {

using namespace std::chrono_literals;

TEST(LoopBell, RingsThatNobodyHasAnsweredAreOne) {
  boost::asio::io_context loop;
  LoopBell bell(loop);
  int rings = 0;
  ASSERT_TRUE(bell.open(-1, [&] { ++rings; }));
  loop.poll();
  EXPECT_EQ(rings, 0);
  for (int i = 0; i < 10; ++i) bell.ring();
  loop.poll();
  EXPECT_EQ(rings, 1);
  loop.poll();
  EXPECT_EQ(rings, 1);
  bell.ring();
  loop.poll();
  EXPECT_EQ(rings, 2);
}

TEST(LoopBell, ARingDuringTheAnswerIsAnsweredAgain) {
  boost::asio::io_context loop;
  LoopBell bell(loop);
  int rings = 0;
  ASSERT_TRUE(bell.open(-1, [&] {
    if (++rings < 5) bell.ring();
  }));
  bell.ring();
  while (rings < 5) ASSERT_GT(loop.run_one_for(10s), 0U);
  loop.poll();
  EXPECT_EQ(rings, 5);
}

TEST(LoopBell, FromOtherThreads) {
  boost::asio::io_context loop;
  LoopBell bell(loop);
  std::atomic<int> done = 0;
  int seen = 0;
  ASSERT_TRUE(bell.open(-1, [&] { seen = done; }));
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) {
        ++done;
        bell.ring();
      }
    });
  }
  while (seen < 1000) ASSERT_GT(loop.run_one_for(10s), 0U);
  for (std::thread& thread : threads) thread.join();
}

TEST(LoopBell, ClosedInItsAnswerAndRungAfterwards) {
  boost::asio::io_context loop;
  LoopBell bell(loop);
  int rings = 0;
  ASSERT_TRUE(bell.open(-1, [&] {
    ++rings;
    bell.close();
  }));
  bell.ring();
  loop.poll();
  bell.ring();
  loop.poll();
  EXPECT_EQ(rings, 1);
  bell.close();
}

TEST(LoopBell, DestroyedInItsAnswer) {
  boost::asio::io_context loop;
  auto bell = std::make_unique<LoopBell>(loop);
  int rings = 0;
  ASSERT_TRUE(bell->open(-1, [&] {
    ++rings;
    bell.reset();
  }));
  bell->ring();
  loop.poll();
  EXPECT_EQ(rings, 1);
  EXPECT_FALSE(bell);
}

TEST(LoopBell, AnEventfdThatSomebodyElseRings) {
  boost::asio::io_context loop;
  LoopBell bell(loop);
  int rings = 0;
  {
    const UniqueFd theirs(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    ASSERT_TRUE(bell.open(theirs.get(), [&] { ++rings; }));
    ASSERT_EQ(eventfd_write(theirs.get(), 3), 0);
    loop.poll();
    EXPECT_EQ(rings, 1);
  }
  // Its own descriptor of it stays.
  bell.ring();
  loop.poll();
  EXPECT_EQ(rings, 2);
}

TEST(LoopBell, NoDescriptorForIt) {
  boost::asio::io_context loop;
  LoopBell bell(loop);
  const auto opened = bell.open(1 << 30, [] {});
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code(), ErrorCode::kHost);
  EXPECT_EQ(loop.poll(), 0U);
}

}  // namespace
}  // namespace ktstr::kvm::tiny
