// Dispatch queues of every kind, in order, and their cross-checks.
#include <gtest/gtest.h>

#include "tests/unit/inspect/scx/dump_lookup.h"
#include "tests/unit/inspect/scx/fake_guest.h"

namespace ktstr::test {
namespace {

using Pids = std::vector<std::int32_t>;

class ScxDsqTest : public testing::Test {
 protected:
  Kva task(std::int32_t pid) { return guest_.add_task({.pid = pid, .comm = "t" + std::to_string(pid)}); }
  // The problems of a queue, one line each.
  static std::string problems(const v1::Dsq& dsq) {
    std::string text;
    for (const std::string& problem : dsq.problems()) text += problem + "\n";
    return text;
  }
  static testing::AssertionResult contains(const std::string& text, std::string_view part) {
    if (text.find(part) != std::string::npos) return testing::AssertionSuccess();
    return testing::AssertionFailure() << "'" << text << "' lacks '" << part << "'";
  }

  FakeGuest guest_{{.nodes = 2}};
};

TEST_F(ScxDsqTest, EveryKindWithItsContents) {
  guest_.queue(guest_.local_dsq(2), task(10));
  guest_.queue(guest_.local_dsq(2), task(11));
  guest_.queue(guest_.at(guest_.rq(1), "rq", "scx.reject_dsq"), task(12));
  guest_.queue(guest_.at(guest_.rq(3), "rq", "scx.rescue.dsq"), task(13));
  guest_.queue(guest_.bypass_dsq(0), task(14));
  guest_.queue(guest_.global_dsq(1), task(15));
  const Kva user = guest_.add_user_dsq(7);
  for (const int pid : {18, 16, 17}) guest_.queue(user, task(pid));
  const v1::Dump dump = guest_.dump();
  EXPECT_EQ(pids_of(dsq_of(dump, "local DSQ of CPU 2")), (Pids{10, 11}));
  EXPECT_EQ(pids_of(dsq_of(dump, "reject DSQ of CPU 1")), Pids{12});
  EXPECT_EQ(pids_of(dsq_of(dump, "rescue DSQ of CPU 3")), Pids{13});
  EXPECT_EQ(pids_of(dsq_of(dump, "bypass DSQ of CPU 0")), Pids{14});
  EXPECT_EQ(pids_of(dsq_of(dump, "global DSQ of node 1")), Pids{15});
  EXPECT_EQ(pids_of(dsq_of(dump, "user DSQ 0x7")), (Pids{18, 16, 17}));
  const v1::Dsq& fifo = dsq_of(dump, "user DSQ 0x7");
  EXPECT_EQ(fifo.kind(), v1::Dsq::USER);
  EXPECT_EQ(fifo.address(), user.value());
  EXPECT_EQ(fifo.sched(), guest_.root().value());
  EXPECT_EQ(fifo.nr(), 3u);
  EXPECT_FALSE(fifo.has_index());
  EXPECT_EQ(fifo.tasks(1).position(), 1u);
  EXPECT_EQ(fifo.tasks(1).comm(), "t16");
  EXPECT_EQ(dsq_of(dump, "global DSQ of node 1").index(), 1u);
  // 4 local, reject, rescue and bypass each, 2 global, 1 user.
  EXPECT_EQ(dump.dsqs_size(), 19);
  for (const auto& dsq : dump.dsqs()) EXPECT_EQ(problems(dsq), "") << dsq.name();
  EXPECT_EQ(faults_of(dump), "");
}

TEST_F(ScxDsqTest, VtimeOrder) {
  const Kva dsq = guest_.add_user_dsq(0x11);
  std::vector<Kva> tasks;
  for (int i = 0; i < 20; ++i) tasks.push_back(task(100 - i));
  guest_.queue_vtime(dsq, tasks);
  const v1::Dump dump = guest_.dump();
  const v1::Dsq& shown = dsq_of(dump, "user DSQ 0x11");
  ASSERT_EQ(shown.tasks_size(), 20);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(shown.tasks(i).pid(), 100 - i);
    EXPECT_EQ(shown.tasks(i).dsq_vtime(), 100u * static_cast<unsigned>(i + 1));
  }
  EXPECT_EQ(shown.priq_nodes(), 20u);
  EXPECT_EQ(problems(shown), "");
}

TEST_F(ScxDsqTest, OrderOfTheTreeDiffersFromTheList) {
  const Kva dsq = guest_.add_user_dsq(1);
  const Kva a = task(1);
  const Kva b = task(2);
  guest_.queue(dsq, a);
  guest_.queue_vtime(dsq, {b});
  // The tree has b before a.
  const Kva node_a = guest_.at(a, "task_struct", "scx.dsq_priq");
  const Kva node_b = guest_.at(b, "task_struct", "scx.dsq_priq");
  guest_.write(node_a, node_b.value());
  guest_.write(node_b + 8, node_a);
  EXPECT_TRUE(contains(problems(dsq_of(guest_.dump(), "user DSQ 0x1")),
                       "the list's order is not that of the vtime tree"));
  guest_.write(node_b + 8, Kva());
  EXPECT_TRUE(contains(problems(dsq_of(guest_.dump(), "user DSQ 0x1")),
                       "1 nodes in the vtime tree, but 2 tasks on the list"));
}

TEST_F(ScxDsqTest, CursorsAreNoTasks) {
  const Kva dsq = guest_.add_user_dsq(3);
  guest_.add_dsq_cursor(dsq);
  guest_.queue(dsq, task(5));
  guest_.add_dsq_cursor(dsq);
  const v1::Dump dump = guest_.dump();
  const v1::Dsq& shown = dsq_of(dump, "user DSQ 0x3");
  EXPECT_EQ(pids_of(shown), Pids{5});
  EXPECT_EQ(shown.cursors(), 2u);
  EXPECT_EQ(problems(shown), "");
}

TEST_F(ScxDsqTest, CountMismatch) {
  const Kva dsq = guest_.add_user_dsq(4);
  guest_.queue(dsq, task(6));
  guest_.set(dsq, "scx_dispatch_q", "nr", 4);
  const v1::Dump dump = guest_.dump();
  EXPECT_TRUE(contains(problems(dsq_of(dump, "user DSQ 0x4")), "nr is 4, but 1 task is linked"));
  const auto findings = findings_of(dump, "dsq");
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].text(), "user DSQ 0x4: nr is 4, but 1 task is linked");
}

TEST_F(ScxDsqTest, FirstTask) {
  const Kva dsq = guest_.add_user_dsq(4);
  guest_.queue(dsq, task(6));
  guest_.set(dsq, "scx_dispatch_q", "first_task", 0);
  EXPECT_TRUE(
      contains(problems(dsq_of(guest_.dump(), "user DSQ 0x4")), "first_task is 0x0, the first linked"));
  // Built-in queues may have none.
  guest_.queue(guest_.local_dsq(0), task(7));
  guest_.set(guest_.local_dsq(0), "scx_dispatch_q", "first_task", 0);
  EXPECT_EQ(problems(dsq_of(guest_.dump(), "local DSQ of CPU 0")), "");
}

TEST_F(ScxDsqTest, BackPointer) {
  const Kva dsq = guest_.add_user_dsq(4);
  const Kva lost = task(6);
  guest_.queue(dsq, lost);
  guest_.set(lost, "task_struct", "scx.dsq", guest_.local_dsq(0).value());
  EXPECT_TRUE(
      contains(problems(dsq_of(guest_.dump(), "user DSQ 0x4")), "t6[6] is linked here, but its dsq is 0x"));
}

TEST_F(ScxDsqTest, TheSameIdTwice) {
  guest_.add_user_dsq(4);
  guest_.add_user_dsq(4);
  const v1::Dump dump = guest_.dump();
  EXPECT_EQ(findings_of(dump, "dsq").size(), 1u);
  EXPECT_EQ(findings_of(dump, "dsq")[0].text(), "user DSQ 0x4: another user DSQ has the same id");
  // Two schedulers may use one id.
  FakeGuest other;
  other.add_user_dsq(4);
  other.add_user_dsq(4, other.add_sched("sub", other.root()));
  EXPECT_TRUE(findings_of(other.dump(), "dsq").empty());
}

TEST_F(ScxDsqTest, TornListShowsBothEnds) {
  const Kva dsq = guest_.add_user_dsq(9);
  std::vector<Kva> tasks;
  for (int pid = 1; pid <= 6; ++pid) guest_.queue(dsq, tasks.emplace_back(task(pid)));
  // A link in the middle leads nowhere.
  guest_.write(guest_.at(tasks[2], "task_struct", "scx.dsq_list.node"), std::uint64_t{0xdead000000000100});
  const v1::Dump dump = guest_.dump();
  const v1::Dsq& shown = dsq_of(dump, "user DSQ 0x9");
  Pids pids = pids_of(shown);
  std::sort(pids.begin(), pids.end());
  EXPECT_EQ(pids, (Pids{1, 2, 3, 4, 5, 6}));
  EXPECT_TRUE(contains(problems(shown), "list: "));
  EXPECT_TRUE(contains(problems(shown), "poison"));
}

TEST_F(ScxDsqTest, MemberThatNoFieldNames) {
  const Kva dsq = guest_.add_user_dsq(2);
  guest_.set(dsq, "scx_dispatch_q", "novelty", 4711);
  guest_.set(dsq, "scx_dispatch_q", "phase", 9);
  const v1::Dump dump = guest_.dump();
  EXPECT_EQ(other_of(dsq_of(dump, "user DSQ 0x2"), "novelty"), "4711");
  EXPECT_EQ(other_of(dsq_of(dump, "user DSQ 0x2"), "phase"), "SCX_PHASE_DUSK");
  EXPECT_EQ(access_of(dump, "Dsq.lock"), "scx_dispatch_q.lock.raw_lock.val.counter");
}

// ---------------------------------------------------------------------------------------------------------------------
// The hash table of user DSQs

class ScxDsqHashTest : public testing::Test {
 protected:
  // A user DSQ that is in no table yet.
  Kva loose_dsq(std::uint64_t id) {
    const Kva dsq = guest_.make("scx_dispatch_q");
    guest_.init_dsq(dsq, id, guest_.root());
    return dsq;
  }
  std::set<std::uint64_t> ids() {
    std::set<std::uint64_t> ids;
    const auto dump = guest_.dump();
    for (const auto& dsq : dump.dsqs()) {
      if (dsq.kind() == v1::Dsq::USER) ids.insert(dsq.id());
    }
    return ids;
  }
  Kva table() { return Kva(guest_.read64(guest_.hash_of(guest_.root()))); }

  FakeGuest guest_;
};

TEST_F(ScxDsqHashTest, InTheMiddleOfAResize) {
  for (const std::uint64_t id : {1u, 2u, 3u}) guest_.add_user_dsq(id);
  const Kva future = guest_.make_buckets(128);
  for (const std::uint64_t id : {4u, 5u})
    guest_.hash_in(future, static_cast<std::uint32_t>(id), loose_dsq(id));
  EXPECT_EQ(ids(), (std::set<std::uint64_t>{1, 2, 3}));
  guest_.set(table(), "bucket_table", "future_tbl", future.value());
  EXPECT_EQ(ids(), (std::set<std::uint64_t>{1, 2, 3, 4, 5}));
  EXPECT_EQ(faults_of(guest_.dump()), "");
}

TEST_F(ScxDsqHashTest, NestedTable) {
  // 4096 buckets: a page of 8 pointers to pages of 512, of which only those in use exist.
  const Kva nested = guest_.make_buckets(8);
  guest_.set(nested, "bucket_table", "size", 4096);
  guest_.set(nested, "bucket_table", "nest", 3);
  const Kva first = guest_.alloc(8 * 8, 4096);
  const Kva page = guest_.alloc(4096, 4096);
  guest_.write(guest_.at(nested, "bucket_table", "buckets"), first);
  guest_.write(first + 8 * 5, page);
  const Kva dsq = loose_dsq(0x77);
  const Kva node = guest_.at(dsq, "scx_dispatch_q", "hash_node");
  guest_.write(page + 8 * 100, node);
  guest_.write(node, (page + 8 * 100).value() | 1);
  guest_.write(guest_.hash_of(guest_.root()), nested);
  EXPECT_EQ(ids(), std::set<std::uint64_t>{0x77});
}

TEST_F(ScxDsqHashTest, DamageIsAFaultWithItsPath) {
  guest_.add_user_dsq(1);
  guest_.write(guest_.at(table(), "bucket_table", "buckets") + 8 * 3, std::uint64_t{0xdead000000000100});
  guest_.add_user_dsq(5);
  const v1::Dump dump = guest_.dump();
  EXPECT_EQ(ids(), (std::set<std::uint64_t>{1, 5}));
  EXPECT_NE(faults_of(dump).find("dsq_hash.buckets[3]"), std::string::npos) << faults_of(dump);
}

}  // namespace
}  // namespace ktstr::test
