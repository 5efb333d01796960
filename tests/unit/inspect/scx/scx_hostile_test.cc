// Memory that lies: bounded time and memory, everything wrong is listed, nothing crashes.
#include <cstdint>

#include <gtest/gtest.h>

#include "tests/unit/inspect/scx/dump_lookup.h"
#include "tests/unit/inspect/scx/fake_guest.h"

namespace ktstr::test {
namespace {

constexpr std::uint64_t kPoison = 0xdead000000000100;
constexpr std::uint64_t kNowhere = 0xffff88ffffff0000;

// Each link of a list in turn becomes each kind of wrong value.
TEST(ScxHostile, EveryLinkOfAQueueWrong) {
  FakeGuest guest;
  const Kva dsq = guest.add_user_dsq(1);
  std::vector<Kva> tasks;
  for (int pid = 1; pid <= 4; ++pid)
    guest.queue(dsq, tasks.emplace_back(guest.add_task({.pid = pid, .comm = "t"})));
  const Kva first = guest.at(tasks[0], "task_struct", "scx.dsq_list.node");
  const Kva list = guest.at(dsq, "scx_dispatch_q", "list");
  for (const Kva node : {list, first, guest.at(tasks[2], "task_struct", "scx.dsq_list.node")}) {
    for (const std::uint64_t offset : {0u, 8u}) {
      for (const std::uint64_t value :
           {std::uint64_t{0}, kPoison, kNowhere, node.value(), first.value(),
            std::uint64_t{0x6b6b6b6b6b6b6b6b}, node.value() + 1, ~std::uint64_t{0}}) {
        const std::uint64_t sound = guest.read64(node + offset);
        if (value == sound) continue;
        guest.write(node + offset, value);
        const v1::Dump dump = guest.dump();
        const v1::Dsq& shown = dsq_of(dump, "user DSQ 0x1");
        EXPECT_LE(shown.tasks_size(), 4);
        // Either the forward walk meets it, or it is a back pointer that the head does not need.
        EXPECT_GT(shown.problems_size(), 0) << node.value() << "+" << offset << " " << std::hex << value;
        EXPECT_EQ(dump.tasks_size(), 8);
        guest.write(node + offset, sound);
      }
    }
  }
}

TEST(ScxHostile, PointersToNowhere) {
  FakeGuest guest;
  const Kva task = guest.add_task({.pid = 1, .comm = "t"});
  for (const std::uint64_t bad : {kNowhere, kPoison, std::uint64_t{8}, ~std::uint64_t{7}}) {
    guest.set(guest.rq(1), "rq", "curr", bad);
    guest.set(guest.root(), "scx_sched", "exit_info", bad);
    guest.set(guest.root(), "scx_sched", "pcpu", bad);
    guest.set(guest.root(), "scx_sched", "cgrp_path", bad);
    guest.set(guest.root(), "scx_sched", "pnode", bad);
    guest.set(guest.rq(2), "rq", "scx.cpus_to_wait", bad);
    guest.set(task, "task_struct", "signal", bad);
    guest.set(task, "task_struct", "cgroups", bad);
    guest.set(task, "task_struct", "stack", bad);
    guest.set(task, "task_struct", "thread.sp", bad + 16);
    const v1::Dump dump = guest.dump();
    EXPECT_EQ(dump.cpus_size(), 4);
    EXPECT_EQ(task_of(dump, 1).comm(), "t");
    EXPECT_GT(dump.header().faults(), 0u);
    EXPECT_EQ(dump.header().faults(), static_cast<std::uint32_t>(dump.faults_size()));
    EXPECT_NE(faults_of(dump).find("cgrp_path"), std::string::npos);
  }
}

TEST(ScxHostile, TheRootLeadsNowhere) {
  FakeGuest guest;
  guest.write(guest.symbol("scx_root"), kNowhere);
  guest.init_list(guest.symbol("scx_sched_all"));
  const v1::Dump dump = guest.dump();
  EXPECT_EQ(dump.cpus_size(), 4);
  EXPECT_GT(dump.faults_size(), 0);
}

TEST(ScxHostile, HugeCounts) {
  FakeGuest guest;
  const Kva dsq = guest.add_user_dsq(1);
  guest.queue(dsq, guest.add_task({.pid = 1, .comm = "t"}));
  guest.set(dsq, "scx_dispatch_q", "nr", 0xffffffff);
  guest.add_user_dsq(2);
  guest.set(Kva(guest.read64(guest.hash_of(guest.root()))), "bucket_table", "size", 0xffffffff);
  const Kva info = guest.exit_info(guest.root());
  guest.set(info, "scx_exit_info", "bt", guest.alloc(8 * 64).value());
  guest.set(info, "scx_exit_info", "bt_len", 0xffffffff);
  const Kva context = guest.at(guest.sched_cpu(guest.root(), 1), "scx_sched_pcpu", "dsp_ctx");
  guest.set(context, "scx_dsp_ctx", "cursor", 0xffffffff);
  guest.set(guest.rq(0), "rq", "scx.nr_running", 0xffffffff);
  guest.write(guest.symbol("nr_node_ids"), 0xffffffff);
  guest.write(guest.symbol("nr_cpu_ids"), 0xffffffff);
  const v1::Dump dump = guest.dump();
  EXPECT_LE(dump.scheds(0).exit_info().bt_size(), 64);
  EXPECT_LE(dump.scheds(0).cpus(1).dispatch_buffer_size(), 1024);
  EXPECT_NE(faults_of(dump).find("dsp_ctx.cursor"), std::string::npos) << faults_of(dump);
  EXPECT_EQ(dump.scheds(0).cpus(1).dsp_cursor(), 0xffffffffu);
  EXPECT_NE(faults_of(dump).find("dsq_hash"), std::string::npos) << faults_of(dump);
  EXPECT_LT(dump.dsqs_size(), 2000);
}

TEST(ScxHostile, StringsWithoutEnd) {
  // The last bytes of RAM: no zero, and nothing behind.
  FakeGuest guest;
  const std::uint64_t end = FakeGuest::kHeap.value() + guest.options().heap;
  guest.physical().write_text(Gpa(FakeGuest::kHeapPa + guest.options().heap - 100), std::string(100, 'x'));
  const Kva info = guest.exit_info(guest.root());
  guest.set(info, "scx_exit_info", "msg", end - 100);
  guest.set(info, "scx_exit_info", "dump", end - 100);
  guest.set(info, "scx_exit_info", "reason", guest.text(std::string(100'000, 'r')).value());
  const Kva task = guest.add_task({.pid = 1, .comm = std::string(16, 'c')});
  const v1::Dump dump = guest.dump();
  EXPECT_EQ(dump.scheds(0).exit_info().reason(), std::string(StructLayout::kMaxString, 'r'));
  EXPECT_EQ(task_of(dump, 1).comm(), std::string(16, 'c'));
  EXPECT_EQ(task_of(dump, 1).address(), task.value());
}

// A list of 300,000 nodes that overlap each other, so that each is a task of its own.
TEST(ScxHostile, AQueueOfManyOverlappingTasks) {
  FakeGuest guest{{.heap = std::size_t{16} << 20}};
  constexpr std::uint64_t kNodes = 300'000;
  const Kva dsq = guest.add_user_dsq(1);
  const Kva head = guest.at(dsq, "scx_dispatch_q", "list");
  const Kva nodes = guest.alloc(16 * kNodes + 4096) + 2048;
  for (std::uint64_t i = 0; i < kNodes; ++i) {
    guest.write(nodes + 16 * i, i + 1 < kNodes ? nodes + 16 * (i + 1) : head);
    guest.write(nodes + 16 * i + 8, i > 0 ? nodes + 16 * (i - 1) : head);
  }
  guest.write(head, nodes);
  guest.write(head + 8, nodes + 16 * (kNodes - 1));
  const CaptureLimits limits{.max_tasks = 5'000};
  const v1::Dump dump = guest.dump(true, {}, limits);
  EXPECT_LE(dump.tasks_size(), 5'000);
  EXPECT_EQ(dump.header().incomplete(), "more than 5000 tasks");
  EXPECT_LE(dump.faults_size(), static_cast<int>(FaultLog::kMax));
}

TEST(ScxHostile, TheBudgetRunsOut) {
  FakeGuest guest;
  for (int pid = 1; pid < 100; ++pid) guest.add_task({.pid = pid, .comm = "t"});
  for (const std::uint64_t reads : {0u, 1u, 10u, 100u, 300u, 1000u}) {
    const v1::Dump dump = guest.dump(true, {}, {.reads = reads});
    EXPECT_EQ(dump.header().incomplete(), "the budget of reads ran out") << reads;
  }
  for (const std::uint64_t bytes : {0u, 100u, 10'000u})
    EXPECT_EQ(guest.dump(true, {}, {.bytes = bytes}).header().incomplete(), "the budget of reads ran out");
  EXPECT_EQ(guest.dump().header().incomplete(), "");
  // CPUs come before tasks.
  EXPECT_EQ(guest.dump(true, {}, {.reads = 1000}).cpus_size(), 4);
}

TEST(ScxHostile, TimesBeyondAnyClock) {
  for (const std::int64_t past : {INT64_MAX, std::int64_t{1} << 60, -(std::int64_t{1} << 60), INT64_MIN}) {
    FakeGuest guest;
    const auto ticks = static_cast<std::uint64_t>(past);
    const Kva task = guest.add_task({.pid = 1, .comm = "t"});
    guest.make_runnable(task, 1, 1);
    guest.set(task, "task_struct", "scx.runnable_at", FakeGuest::kJiffies - ticks);
    guest.set(guest.root(), "scx_sched", "watchdog_timeout", ticks);
    guest.write(guest.symbol("scx_watchdog_timestamp"), FakeGuest::kJiffies - ticks);
    const v1::Dump dump = guest.dump();
    constexpr std::int64_t kLong = std::int64_t{1} << 51;
    EXPECT_EQ(task_of(dump, 1).waiting_ms() > kLong, past > 0);
    EXPECT_EQ(task_of(dump, 1).waiting_ms() < -kLong, past < 0);
    EXPECT_EQ(dump.globals().watchdog_ran_ms_ago() > static_cast<std::uint64_t>(kLong), past > 0);
  }
}

TEST(ScxHostile, LimitsOfQueuesAndSchedulers) {
  FakeGuest guest;
  for (std::uint64_t id = 1; id < 50; ++id) guest.add_user_dsq(id);
  const v1::Dump queues = guest.dump(true, {}, {.max_dsqs = 20});
  EXPECT_EQ(queues.dsqs_size(), 20);
  EXPECT_EQ(queues.header().incomplete(), "more than 20 dispatch queues");
  guest.add_sched("a", guest.root());
  const v1::Dump scheds = guest.dump(true, {}, {.max_dsqs = 20, .max_scheds = 1});
  EXPECT_EQ(scheds.scheds_size(), 1);
  EXPECT_EQ(scheds.header().incomplete(), "more than 1 schedulers; more than 20 dispatch queues");
  EXPECT_EQ(guest.dump().header().incomplete(), "");
}

TEST(ScxHostile, EveryFlawIsCounted) {
  FakeGuest guest{{.heap = std::size_t{8} << 20}};
  constexpr std::uint32_t kBroken = 1500;
  for (std::uint32_t pid = 1; pid <= kBroken; ++pid) {
    const Kva task = guest.add_task({.pid = static_cast<std::int32_t>(pid), .comm = "t"});
    const Kva signal(guest.get(task, "task_struct", "signal"));
    guest.write(guest.at(signal, "signal_struct", "thread_head"), kPoison);
  }
  const v1::Dump dump = guest.dump();
  EXPECT_EQ(dump.faults_size(), static_cast<int>(FaultLog::kMax));
  EXPECT_EQ(dump.header().faults(), kBroken);
}

// All of the memory that objects lie in is one byte.
TEST(ScxHostile, OneValueEverywhere) {
  for (const int byte : {0x00, 0xff, 0x6b, 0x5a, 0x80}) {
    FakeGuest guest{{.heap = std::size_t{1} << 20}};
    guest.add_user_dsq(1);
    std::vector<std::byte> noise(guest.options().heap, static_cast<std::byte>(byte));
    guest.physical().write(Gpa(FakeGuest::kHeapPa), noise);
    const v1::Dump dump = guest.dump();
    EXPECT_EQ(dump.cpus_size(), 4);
    EXPECT_LE(dump.faults_size(), static_cast<int>(FaultLog::kMax));
  }
}

}  // namespace
}  // namespace ktstr::test
