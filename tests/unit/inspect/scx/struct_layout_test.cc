#include "host/inspect/struct_layout.h"

#include <functional>
#include <span>

#include <gtest/gtest.h>

#include "tests/unit/inspect/scx/dump_lookup.h"
#include "tests/unit/inspect/scx/fake_guest.h"
#include "tests/unit/inspect/scx/type_maker.h"

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

// A kernel's struct scx_dispatch_q with these members only.
v1::Absence others_of_queue(const std::function<std::vector<TypeMaker::Member>(TypeMaker&)>& members) {
  TypeMaker make;
  make.structure("scx_dispatch_q", members(make));
  const std::string bytes = make.btf().bytes();
  const auto btf = Btf::parse(std::as_bytes(std::span(bytes)));
  const KernelTypes types(*btf);
  const StructLayout layout(types, v1::Dsq::descriptor(), 8, "");
  for (const auto& absence : layout.absent()) {
    if (absence.what() == "Dsq.other") return absence;
  }
  return {};
}

TEST_F(StructLayoutTest, OthersThatAreNotShownAreNamed) {
  EXPECT_EQ(others_of_queue([](TypeMaker& make) {
              return std::vector<TypeMaker::Member>{{"many", make.array(make.integer("int", 4), 20)},
                                                    {"some", make.array(make.pointer(), 0)}};
            }).reason(),
            "not shown: many[16] (of 20 elements), some[] (of no fixed length)");
  EXPECT_EQ(others_of_queue([](TypeMaker& make) {
              std::vector<TypeMaker::Member> members;
              const auto number = make.integer("int", 4);
              for (int i = 0; i < 201; ++i) members.push_back({"m" + std::to_string(i), number});
              return members;
            }).reason(),
            "not shown: m200 (more than 200 members)");
  EXPECT_EQ(others_of_queue([](TypeMaker& make) {
              auto type = make.integer("int", 4);
              for (int i = 0; i < 5; ++i) type = make.structure("s" + std::to_string(i), {{"in", type}});
              return std::vector<TypeMaker::Member>{{"out", type}};
            }).reason(),
            "not shown: out.in.in.in (a structure 4 deep)");
}

TEST_F(StructLayoutTest, ArraysMasksAndOptionsAmongTheOthers) {
  const StructLayout& layout = guest_.plan().sched.layout;
  const Kva mask = guest_.alloc(8);
  guest_.write(mask, std::uint64_t{0b1010});
  guest_.set(guest_.root(), "scx_sched", "odd_cpus", mask.value());
  guest_.set(guest_.root(), "scx_sched", "stall_cpus", mask.value());
  guest_.set(guest_.root(), "scx_sched", "even_cpus.bits[0]", 0b0101);
  guest_.set(guest_.root(), "scx_sched", "has_op[1]", 77);
  guest_.set(guest_.root(), "scx_sched", "ops.novelty_us", 5000);
  const auto shown = show<v1::Sched>(layout, guest_.root());
  EXPECT_EQ(other_of(shown, "odd_cpus"), "1,3");
  EXPECT_EQ(other_of(shown, "even_cpus"), "0,2");
  EXPECT_EQ(shown.stall_cpus(), "1,3");
  EXPECT_EQ(other_of(shown, "has_op[0]"), "0");
  EXPECT_EQ(other_of(shown, "has_op[1]"), "77");
  EXPECT_EQ(other_of(shown, "ops.novelty_us"), "5000");
  EXPECT_EQ(other_of(shown, "ops.priv"), "0x0");
  EXPECT_EQ(other_of(shown, "ops.enqueue"), "");  // a callback
  const Kva task = guest_.add_task({.pid = 1, .comm = "t"});
  guest_.set(task, "task_struct", "scx.kf_tasks[1]", 0x55);
  guest_.set(task, "task_struct", "scx.dsq_list.priv", 9);
  const auto shown_task = show<v1::Task>(guest_.plan().task.layout, task);
  EXPECT_EQ(other_of(shown_task, "scx.kf_tasks[1]"), "0x55");
  EXPECT_EQ(other_of(shown_task, "scx.kf_tasks[0]"), "");  // a field
  EXPECT_EQ(other_of(shown_task, "scx.dsq_list.priv"), "9");
  EXPECT_EQ(faults_.count(), 0u);
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
  EXPECT_TRUE(layout.want(guest_.types(), StructLayout::kNumber, {"nothing", "nr"}));
  EXPECT_FALSE(layout.want(guest_.types(), StructLayout::kNumber, {"nothing"}));
  EXPECT_EQ(layout.absent().size(), absent);
  EXPECT_FALSE(layout.need(guest_.types(), "a thing", StructLayout::kNumber, {"nothing", "nought"}));
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
