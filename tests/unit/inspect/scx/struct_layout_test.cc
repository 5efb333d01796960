#include "host/inspect/struct_layout.h"

#include <gtest/gtest.h>

#include "tests/unit/inspect/scx/dump_lookup.h"
#include "tests/unit/inspect/scx/fake_guest.h"

namespace ktstr::test {
namespace {

// Messages of real dumps over the fake kernel's types: one of each way to show a member.
class StructLayoutTest : public testing::Test {
 protected:
  StructLayout::Surroundings around() { return {guest_.memory(), budget_, guest_.kernel(), 4, faults_}; }
  template <typename Message>
  Message show(const StructLayout& layout, Kva object) {
    Message message;
    layout.fill(message, layout.copy(guest_.memory(), object, "it", faults_, budget_), "it", around());
    return message;
  }

  FakeGuest guest_;
  FaultLog faults_;
  ReadBudget budget_{1 << 24, 1 << 16};
};

TEST_F(StructLayoutTest, EachWayToShow) {
  const StructLayout tasks(guest_.types(), v1::Task::descriptor(), 8);
  ASSERT_TRUE(tasks.known());
  const Kva task = guest_.add_task({.pid = -2, .comm = "sixteen chars.."});
  guest_.set(task, "task_struct", "scx.disallow", 1);
  guest_.set(task, "task_struct", "cpus_mask.bits[0]", 0xf9);
  const auto shown = show<v1::Task>(tasks, task);
  EXPECT_EQ(shown.pid(), -2);                         // number
  EXPECT_TRUE(shown.disallow());                      // bool
  EXPECT_EQ(shown.comm(), "sixteen chars..");         // char array
  EXPECT_EQ(shown.sched_class(), "ext_sched_class");  // pointer to what has a name
  EXPECT_EQ(shown.cpus_mask(), "0,3");                // mask in place, only CPUs that can exist
  EXPECT_EQ(shown.on_rq(), 0);
  EXPECT_EQ(shown.holding_cpu(), -1);
  EXPECT_EQ(shown.weight(), 100u);
  // Pointers that have no symbol, or are none.
  guest_.set(task, "task_struct", "sched_class", 0xffff888000001234);
  EXPECT_EQ(show<v1::Task>(tasks, task).sched_class(), "0xffff888000001234");
  guest_.set(task, "task_struct", "sched_class", 0);
  EXPECT_EQ(show<v1::Task>(tasks, task).sched_class(), "");
  EXPECT_EQ(faults_.count(), 0u);
}

TEST_F(StructLayoutTest, StringsAndMasksBehindPointers) {
  const StructLayout scheds(guest_.types(), v1::Sched::descriptor(), 8);
  guest_.set(guest_.root(), "scx_sched", "cgrp_path", guest_.text("/a").value());
  EXPECT_EQ(show<v1::Sched>(scheds, guest_.root()).cgrp_path(), "/a");
  const StructLayout cpus(guest_.types(), v1::Cpu::descriptor(), 8);
  const Kva mask = guest_.alloc(8);
  guest_.write(mask, std::uint64_t{6});
  guest_.set(guest_.rq(0), "rq", "scx.cpus_to_kick", mask.value());
  EXPECT_EQ(show<v1::Cpu>(cpus, guest_.rq(0)).cpus_to_kick(), "1-2");
  EXPECT_EQ(show<v1::Cpu>(cpus, guest_.rq(0)).cpus_to_preempt(), "");
  EXPECT_EQ(faults_.count(), 0u);
  guest_.set(guest_.rq(0), "rq", "scx.cpus_to_kick", 0xffff88f000000000);
  EXPECT_EQ(show<v1::Cpu>(cpus, guest_.rq(0)).cpus_to_kick(), "");
  ASSERT_EQ(faults_.count(), 1u);
  EXPECT_EQ(faults_.faults()[0].path(), "it.scx.cpus_to_kick");
}

TEST_F(StructLayoutTest, BitFieldsAmongTheOthers) {
  const StructLayout layout(guest_.types(), v1::Sched::descriptor(), 8, "", {"ops"});
  guest_.set(guest_.root(), "scx_sched", "warned_deprecated", 1);
  const auto shown = show<v1::Sched>(layout, guest_.root());
  EXPECT_EQ(other_of(shown, "warned_deprecated"), "1");
  EXPECT_EQ(other_of(shown, "warned_zero_slice"), "0");
  EXPECT_EQ(other_of(shown, "children"), "empty");
  EXPECT_EQ(other_of(shown, "ops.priv"), "");
}

TEST_F(StructLayoutTest, AlternativePathsAreRecorded) {
  const StructLayout layout(guest_.types(), v1::Dsq::descriptor(), 8);
  ASSERT_EQ(layout.access().size(), 1u);
  EXPECT_EQ(layout.access()[0].field(), "Dsq.lock");
  FakeGuest legacy{{.shape = Shape::kLegacy}};
  const StructLayout other(legacy.types(), v1::Dsq::descriptor(), 8);
  EXPECT_EQ(other.access()[0].path(), "scx_dispatch_q.lock.rtmutex.owner");
  ASSERT_EQ(other.absent().size(), 1u);
  EXPECT_EQ(other.absent()[0].what(), "Dsq.first_task");
  EXPECT_EQ(other.absent()[0].reason(), "struct scx_dispatch_q has no member first_task");
}

TEST_F(StructLayoutTest, Alias) {
  FakeGuest legacy{{.shape = Shape::kLegacy}};
  const StructLayout layout(legacy.types(), v1::Sched::descriptor(), 8,
                            StructLayout::Alias{"sched_ext_ops", "ops."});
  ASSERT_TRUE(layout.known());
  v1::Sched sched;
  layout.fill(sched, layout.copy(legacy.memory(), legacy.root(), "it", faults_, budget_), "it",
              {legacy.memory(), budget_, legacy.kernel(), 4, faults_});
  EXPECT_EQ(sched.name(), "fake");
  EXPECT_FALSE(sched.has_aborting());
  bool said = false;
  for (const auto& absence : layout.absent())
    said = said ||
           (absence.what() == "Sched.aborting" && absence.reason() == "the kernel has no struct scx_sched");
  EXPECT_TRUE(said);
}

TEST_F(StructLayoutTest, NeedAndWant) {
  StructLayout layout(guest_.types(), v1::Dsq::descriptor(), 8);
  const std::size_t absent = layout.absent().size();
  EXPECT_TRUE(layout.want(guest_.types(), {"nothing", "nr"}));
  EXPECT_FALSE(layout.want(guest_.types(), {"nothing"}));
  EXPECT_EQ(layout.absent().size(), absent);
  EXPECT_FALSE(layout.need(guest_.types(), "a thing", {"nothing", "nought"}));
  ASSERT_EQ(layout.absent().size(), absent + 1);
  EXPECT_EQ(layout.absent().back().reason(),
            "struct scx_dispatch_q has no member nothing; struct scx_dispatch_q has no member nought");
}

TEST_F(StructLayoutTest, AMissingSpanIsOneFault) {
  const StructLayout layout(guest_.types(), v1::Task::descriptor(), 8);
  // The beginning of a task at the end of RAM.
  const Kva end(FakeGuest::kHeap + guest_.options().heap);
  const Kva task = end - 16;
  const auto shown = show<v1::Task>(layout, task);
  EXPECT_EQ(faults_.count(), layout.spans().size());
  EXPECT_FALSE(shown.has_weight());
  EXPECT_EQ(shown.pid(), 0);
  // Nothing of it at all.
  EXPECT_FALSE(show<v1::Task>(layout, Kva(0)).has___state());
}

TEST_F(StructLayoutTest, UnknownStructure) {
  FakeGuest bare{{.shape = Shape::kNoTypes}};
  const StructLayout layout(bare.types(), v1::Task::descriptor(), 8);
  EXPECT_FALSE(layout.known());
  ASSERT_EQ(layout.absent().size(), 1u);
  EXPECT_EQ(layout.absent()[0].what(), "Task");
  EXPECT_TRUE(layout.spans().empty());
}

TEST_F(StructLayoutTest, SpansAreMergedAndAscending) {
  const StructLayout layout(guest_.types(), v1::Task::descriptor(), 8);
  std::uint64_t end = 0;
  for (const auto& span : layout.spans()) {
    EXPECT_GE(span.offset, end);
    end = span.offset + span.size;
  }
  EXPECT_LE(end, layout.type().size);
}

TEST(CpuList, OnlyCpusThatCanExist) {
  const std::vector<std::byte> mask = {std::byte{0xff}, std::byte{0x01}};
  EXPECT_EQ(cpu_list(mask, 4), "0-3");
  EXPECT_EQ(cpu_list(mask, 100), "0-8");
  EXPECT_EQ(cpu_list({}, 100), "");
}

}  // namespace
}  // namespace ktstr::test
