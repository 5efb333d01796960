// Where the walks through a guest begin: run queues by per-CPU offsets, schedulers and tasks by symbols. Each
// may be missing without the others (specification of the first version, section 4: its eight cases), and the
// addresses are sums that wrap at 2^64.
#include <gtest/gtest.h>

#include "tests/unit/inspect/scx/dump_lookup.h"
#include "tests/unit/inspect/scx/fake_guest.h"

namespace ktstr::test {
namespace {

// PAGE_OFFSET of a kernel without randomised memory regions.
constexpr std::uint64_t kPageOffset = 0xffff888000000000;
constexpr Kva kRoot{0xffffffff82300000}, kTasks{0xffffffff82400000};

// A kernel of which nothing but these is known.
struct Anchors {
  Anchors(std::uint64_t runqueues, std::vector<std::uint64_t> offsets) {
    SymbolTable::Builder builder(3);
    if (runqueues < kRoot.value()) builder.add("runqueues", runqueues);
    builder.add("scx_root", kRoot.value());
    builder.add("scx_tasks", kTasks.value());
    if (runqueues >= kRoot.value()) builder.add("runqueues", runqueues);
    symbols =
        std::move(builder).finish(SymbolSource::kVmlinux, "a test", {0xffffffff81000000, 0xffffffff84000000});
    kernel.emplace(symbols, nullptr, 0);
    kernel->set_per_cpu_offsets(std::move(offsets));
  }
  std::vector<Kva> rqs() const {
    std::vector<Kva> all;
    for (const std::uint32_t cpu : kernel->cpus()) all.push_back(*kernel->per_cpu("runqueues", cpu));
    return all;
  }

  SymbolTable symbols;
  std::optional<GuestKernel> kernel;
};

TEST(ScxAnchors, Case1ThreeCpus) {
  const Anchors anchors(0x200000, {kPageOffset + 0x100000, kPageOffset + 0x140000, kPageOffset + 0x180000});
  EXPECT_EQ(anchors.rqs(), (std::vector{Kva(kPageOffset + 0x300000), Kva(kPageOffset + 0x340000),
                                        Kva(kPageOffset + 0x380000)}));
  EXPECT_EQ(anchors.kernel->symbol("scx_root"), kRoot);
  EXPECT_EQ(anchors.kernel->symbol("scx_tasks"), kTasks);
}

TEST(ScxAnchors, Case2BothSymbolsMissingTwoCpus) {
  FakeGuest guest{{.cpus = 2, .without = {"scx_root", "scx_tasks", "scx_sched_all"}}};
  guest.add_task({.pid = 5, .comm = "here"});
  const v1::Dump dump = guest.dump();
  EXPECT_EQ(dump.cpus_size(), 2);
  EXPECT_EQ(dump.scheds_size(), 0);
  EXPECT_NE(reason_of(dump, "scx_root"), "");
  EXPECT_NE(reason_of(dump, "scx_tasks"), "");
  EXPECT_EQ(task_of(dump, 5).comm(), "here") << "by the task tree";
  EXPECT_EQ(faults_of(dump), "");
}

TEST(ScxAnchors, Case3TasksMissingOneCpu) {
  FakeGuest guest{{.cpus = 1, .without = {"scx_tasks"}}};
  const v1::Dump dump = guest.dump();
  EXPECT_EQ(dump.cpus_size(), 1);
  EXPECT_EQ(dump.scheds_size(), 1);
  EXPECT_NE(reason_of(dump, "scx_tasks"), "");
  EXPECT_EQ(reason_of(dump, "scx_root"), "");
}

TEST(ScxAnchors, Case4NoPerCpuOffsetsTheSymbolsStand) {
  FakeGuest guest{{.per_cpu = false}};
  guest.add_task({.pid = 5, .comm = "here", .in_tree = false});
  const v1::Dump dump = guest.dump();
  EXPECT_EQ(dump.cpus_size(), 0);
  EXPECT_EQ(reason_of(dump, "CPUs"), "the kernel has not set up its per-CPU areas");
  EXPECT_EQ(dump.scheds_size(), 1);
  EXPECT_EQ(task_of(dump, 5).comm(), "here") << "by scx_tasks alone";
}

TEST(ScxAnchors, Case5TasksAloneAreEnough) {
  FakeGuest guest{{.without = {"scx_root", "scx_sched_all", "init_task"}, .per_cpu = false}};
  guest.add_task({.pid = 5, .comm = "here"});
  const v1::Dump dump = guest.dump();
  EXPECT_EQ(dump.cpus_size(), 0);
  EXPECT_EQ(dump.scheds_size(), 0);
  EXPECT_EQ(task_of(dump, 5).comm(), "here");
}

TEST(ScxAnchors, Case6EmptyListOfOffsets) {
  const Anchors anchors(0x200000, {});
  EXPECT_TRUE(anchors.rqs().empty());
  EXPECT_EQ(anchors.kernel->per_cpu("runqueues", 0), std::nullopt);
  EXPECT_EQ(anchors.kernel->symbol("scx_root"), kRoot);
  // A CPU without an area stands for none.
  EXPECT_TRUE(Anchors(0x200000, {0, 0}).rqs().empty());
}

TEST(ScxAnchors, Case7SumsWrap) {
  EXPECT_EQ(Anchors(0x1000, {kPageOffset - 0x1000}).rqs(), std::vector{Kva(kPageOffset)});
  // From 6.15 on: the symbol is an address of the image, the offset leads from there to the copy.
  constexpr std::uint64_t kSymbol = 0xffffffff83a00000;
  EXPECT_EQ(Anchors(kSymbol, {kPageOffset + 0x3f000000 - kSymbol}).rqs(),
            std::vector{Kva(kPageOffset + 0x3f000000)});
  // Offsets that are no addresses: nothing is checked, nothing is lost.
  EXPECT_EQ(Anchors(0x200000, {0x100000, ~std::uint64_t{0}}).rqs(),
            (std::vector{Kva(0x300000), Kva(0x1fffff)}));
}

TEST(ScxAnchors, Case8FiveCpusOneByOne) {
  std::vector<std::uint64_t> offsets;
  for (std::uint64_t cpu = 0; cpu < 5; ++cpu) offsets.push_back(kPageOffset + 0x3e000000 + cpu * 0x40000);
  const auto rqs = Anchors(0x40000, offsets).rqs();
  ASSERT_EQ(rqs.size(), 5u);
  for (std::size_t cpu = 0; cpu < 5; ++cpu) EXPECT_EQ(rqs[cpu].value(), offsets[cpu] + 0x40000) << cpu;
  // The capture has the same, each under its number.
  FakeGuest guest{{.cpus = 5}};
  CapturedMemory copies;
  ASSERT_TRUE(copies.prepare(0));
  const ScxObjects objects = guest.capture(copies);
  ASSERT_EQ(objects.cpus.size(), 5u);
  for (std::uint32_t cpu = 0; cpu < 5; ++cpu) {
    EXPECT_EQ(objects.cpus[cpu].cpu, cpu);
    EXPECT_EQ(objects.cpus[cpu].rq, guest.rq(cpu));
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// An image that names functions, exports and per-CPU variables only (host/kernel/image_symbols.h).

TEST(ScxFunctionsOnly, TheListOfTasksIsFoundByItsRing) {
  FakeGuest guest{{.without = {"scx_tasks"}, .source = SymbolSource::kImage}};
  const Kva head(FakeGuest::kText + 0x250000);  // in the kernel's image, under no name
  guest.init_list(head);
  const auto link = [&](Kva task) { guest.append(head, guest.at(task, "task_struct", "scx.tasks_node")); };
  link(guest.add_task({.pid = 1, .comm = "init"}));
  link(guest.add_task({.pid = 5, .comm = "not in the tree", .in_tree = false}));
  const v1::Dump dump = guest.dump();
  EXPECT_EQ(reason_of(dump, "scx_tasks"), "");
  EXPECT_EQ(task_of(dump, 5).pid(), 5);
  EXPECT_EQ(faults_of(dump), "");
  // Nothing is linked: nothing is found, and it is said.
  FakeGuest lost{{.without = {"scx_tasks"}, .source = SymbolSource::kImage}};
  lost.add_task({.pid = 1, .comm = "init"});
  EXPECT_NE(reason_of(lost.dump(), "scx_tasks").find("CONFIG_KALLSYMS_ALL"), std::string::npos);
}

TEST(ScxFunctionsOnly, ARingOfTasksWithoutAHeadEnds) {
  FakeGuest guest{{.without = {"scx_tasks"}, .source = SymbolSource::kImage}};
  const Kva first = guest.add_task({.pid = 1, .comm = "init", .on_scx_tasks = false});
  const Kva second = guest.add_task({.pid = 2, .comm = "b", .on_scx_tasks = false});
  const Kva third = guest.add_task({.pid = 3, .comm = "c", .on_scx_tasks = false});
  const auto node = [&](Kva task) { return guest.at(task, "task_struct", "scx.tasks_node"); };
  guest.write(node(first), node(second));
  guest.write(node(second), node(third));
  guest.write(node(third), node(second));  // never back to the first
  EXPECT_NE(reason_of(guest.dump(), "scx_tasks"), "");
}

TEST(ScxFunctionsOnly, BeforeStructScxSchedQueuesAreFoundByTheirTasks) {
  FakeGuest guest{{.shape = Shape::kLegacy,
                   .without = {"scx_tasks", "scx_ops", "global_dsqs", "dsq_hash", "scx_exit_info",
                               "idle_masks", "scx_ops_enable_state_var"},
                   .source = SymbolSource::kImage}};
  guest.add_task({.pid = 1, .comm = "init"});
  const Kva user = guest.alloc(256);
  guest.init_dsq(user, 0x300, Kva());
  guest.queue(user, guest.add_task({.pid = 7, .comm = "a"}));
  guest.queue(user, guest.add_task({.pid = 8, .comm = "b"}));
  const Kva global = guest.alloc(256);
  guest.init_dsq(global, 0x8000000000000001, Kva());
  guest.queue(global, guest.add_task({.pid = 9, .comm = "g"}));
  const v1::Dump dump = guest.dump();
  EXPECT_EQ(pids_of(dsq_of(dump, "user DSQ 0x300")), (std::vector<std::int32_t>{7, 8}));
  EXPECT_EQ(pids_of(dsq_of(dump, "global DSQ of node 0")), std::vector<std::int32_t>{9});
  EXPECT_EQ(dump.cpus_size(), 4);
  EXPECT_EQ(dump.scheds_size(), 0);
  for (const char* what :
       {"schedulers", "global DSQs", "user DSQs", "idle masks", "ScxGlobals.scx_enable_state_var"})
    EXPECT_NE(reason_of(dump, what).find("CONFIG_KALLSYMS_ALL"), std::string::npos)
        << what << reason_of(dump, what);
  EXPECT_EQ(faults_of(dump), "");
}

}  // namespace
}  // namespace ktstr::test
