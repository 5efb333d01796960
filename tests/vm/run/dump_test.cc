// Dumps of real guests: what they hold, when they are taken, and that they agree with what the kernel itself
// prints of the same event.
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "tests/vm/run/dump_vm_test.h"

namespace ktstr::vmtest {
namespace {

namespace fs = std::filesystem;

class Dumps : public DumpVmTest {};

// The kernel's examples fail in ways of their own.
TEST_F(Dumps, AStallOfQmapAgreesWithTheKernelsOwnDump) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, example_scheduler("scx_qmap"));
  const VmRun run =
      run_seeded("7.2", {"--scheduler", scheduler, "--scheduler-args", "-t 20 -T 20", "--duration", "20s"});
  ASSERT_EQ(run.exit_code, 4) << run.describe();
  const Dump dump = dump_of(run);
  expect_complete(dump, kStallKind);
  expect_agrees_with_kernel(dump);
  // The text on the scheduler's standard error is the same dump, as a user sees it.
  std::ifstream log(run.folder / "scheduler.log");
  const std::string text{std::istreambuf_iterator<char>(log), {}};
  const auto printed = parse_kernel_dump(text);
  ASSERT_TRUE(printed);
  EXPECT_TRUE(compare_with_kernel(dump, *printed, kNext).empty());
  EXPECT_TRUE(has_finding(dump, "waiting"));
}

TEST_F(Dumps, RustysOwnErrorAgreesWithTheKernelsOwnDump) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, real_scheduler("scx_rusty"));
  const VmRun run = run_seeded("7.2", {"--scheduler", scheduler, "--duration", "10s", "--freeze-at", "dump"});
  ASSERT_EQ(run.exit_code, 4) << run.describe();
  const Dump dump = dump_of(run);
  expect_complete(dump, kBpfErrorKind);
  EXPECT_NE(dump.scheds(0).exit_info().msg().find("kptr already had cpumask"), std::string::npos);
  expect_agrees_with_kernel(dump);
}

struct Failure {
  const char* name;
  const char* arguments;
  int kind;
};
void PrintTo(const Failure& failure, std::ostream* out) {
  *out << failure.name;
}

class DumpsOfEachKernel : public DumpVmTest,
                          public ::testing::WithParamInterface<std::tuple<const char*, Failure>> {
 protected:
  // Whole layers that a kernel does not have yet; any other absence of one is a fault of ours. (Members are
  // told apart from layers by their dot.)
  static std::set<std::string> layers_of_later_kernels(const std::string& series) {
    const std::set<std::string> since_7_3 = {"reject DSQs", "rescue DSQs"};
    const std::set<std::string> since_7_1 = {"scx_sched_all", "the tree of schedulers"};
    std::set<std::string> later;
    if (series != "7.3") later = since_7_3;
    if (series == "6.12-BUILT") {
      later.insert({"SchedCpu", "bypass DSQs", "event counters", "idle masks of nodes"});
    } else if (series == "6.16") {
      later.insert({"SchedCpu", "bypass DSQs"});
    } else if (series == "6.17" || series == "6.18") {
      later.insert("bypass DSQs");
    }
    if (series != "6.12-BUILT" && series < std::string("7.1"))
      later.insert(since_7_1.begin(), since_7_1.end());
    return later;
  }
  static void expect_no_layer_missing(const Dump& dump, const std::string& series) {
    std::set<std::string> missing;
    for (const auto& absence : dump.absent()) {
      EXPECT_FALSE(absence.reason().empty()) << absence.what();
      const bool layer = absence.what().find('.') == std::string::npos;
      // In no dump: docs/dump.md.
      if (layer && absence.what() != "TSC and ktime") missing.insert(absence.what());
    }
    EXPECT_EQ(missing, layers_of_later_kernels(series));
  }
};

TEST_P(DumpsOfEachKernel, AreCompleteAndAgreeWithTheKernels) {
  const auto& [series, failure] = GetParam();
  KTSTR_NEEDS(kernel_folder, kernel(series));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  // A stalled guest stays as it is until the kernel has written its own dump. After other errors it goes on:
  // so there the freeze comes right before the kernel's dump, and no other CPU may change anything meanwhile.
  const bool stall = failure.kind == kStallKind;
  const VmRun run = fault(
      series, failure.arguments,
      stall ? std::vector<std::string>{} : std::vector<std::string>{"--freeze-at", "dump", "--cpus", "1"});
  ASSERT_EQ(run.exit_code, 4) << run.describe();
  EXPECT_EQ(count_of_dumps(run), 1) << run.describe();
  const Dump dump = dump_of(run);
  expect_complete(dump, failure.kind);
  expect_agrees_with_kernel(dump);
  // 7.1 does not let schedulers built with today's tools make dispatch queues.
  const std::size_t user_dsqs = std::string(series) == "7.1" ? 0 : 5;
  EXPECT_GE(count(dump, Dsq::USER), user_dsqs);
  EXPECT_EQ(has_finding(dump, "waiting"), stall);
  expect_no_layer_missing(dump, series);
}

constexpr Failure kFailures[] = {{"Stall", "--stall-after 1 --timeout-ms 3000", kStallKind},
                                 {"BpfError", "--error-after 1", kBpfErrorKind},
                                 {"KernelError", "--bad-dispatch", kErrorKind}};

INSTANTIATE_TEST_SUITE_P(Series, DumpsOfEachKernel,
                         ::testing::Combine(::testing::Values("6.12-BUILT", "6.16", "6.17", "6.18", "6.19",
                                                              "7.0", "7.1", "7.2", "7.3"),
                                            ::testing::ValuesIn(kFailures)),
                         [](const auto& parameters) {
                           std::string name = std::string("On") + std::get<0>(parameters.param) +
                                              std::get<1>(parameters.param).name;
                           std::erase_if(
                               name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; });
                           return name;
                         });

// What is on a user DSQ is listed in its order, with who waits and how long.
TEST_F(Dumps, AStallNamesTheTasksOnTheirUserDsq) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const VmRun run = fault("7.2", "--hold-every 3 --hold-on dsq --timeout-ms 3000", {"--cpus", "2"});
  ASSERT_EQ(run.exit_code, 4) << run.describe();
  const Dump dump = dump_of(run);
  const auto limbo =
      std::find_if(dump.dsqs().begin(), dump.dsqs().end(), [](const Dsq& dsq) { return dsq.id() == 0x300; });
  ASSERT_NE(limbo, dump.dsqs().end());
  ASSERT_GT(limbo->tasks_size(), 0);
  EXPECT_EQ(limbo->nr(), static_cast<std::uint32_t>(limbo->tasks_size()));
  EXPECT_TRUE(limbo->problems().empty());
  for (const auto& entry : limbo->tasks()) {
    const Task* task = find_task(dump, entry.comm());
    ASSERT_NE(task, nullptr);
    EXPECT_EQ(task->where(), Task::ON_DSQ) << entry.comm();
    EXPECT_GE(entry.waiting_ms(), 0);
  }
}

TEST_F(Dumps, TasksThatBpfHoldsAreNamedAsSuch) {
  KTSTR_NEEDS(kernel_618, kernel("6.18"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const VmRun run = fault("6.18", "--hold-every 3 --hold-on bpf --timeout-ms 3000");
  ASSERT_EQ(run.exit_code, 4) << run.describe();
  const Dump dump = dump_of(run);
  EXPECT_TRUE(std::any_of(dump.tasks().begin(), dump.tasks().end(), [](const Task& task) {
    return task.where() == Task::OWNED_BY_BPF && task.ops_state_name() == "QUEUED" &&
           task.waiting_ms() > 1000;
  }));
}

TEST_F(Dumps, AHealthyRunAndAnOrderlyExitTakeNone) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const VmRun healthy = fault("7.2", "");
  EXPECT_EQ(healthy.exit_code, 0) << healthy.describe();
  EXPECT_EQ(count_of_dumps(healthy), 0);
  const VmRun left = fault("7.2", "--exit-after 1");
  EXPECT_EQ(left.exit_code, 4) << left.describe();
  EXPECT_EQ(count_of_dumps(left), 0);
}

TEST_F(Dumps, StopEndsTheRunAtTheFreezeAndOffTakesNone) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const VmRun stopped = fault("7.2", "--error-after 1", {"--on-freeze", "stop"});
  EXPECT_EQ(stopped.exit_code, 4) << stopped.describe();
  EXPECT_EQ(stopped.reason_kind(), "scheduler-exit");
  EXPECT_TRUE(stopped.result["partial"].get<bool>());
  EXPECT_EQ(dump_of(stopped).header().trap_exit_kind_name(), "SCX_EXIT_ERROR_BPF");
  const VmRun off = fault("7.2", "--error-after 1", {"--on-freeze", "off"});
  EXPECT_EQ(off.exit_code, 4) << off.describe();
  EXPECT_EQ(count_of_dumps(off), 0);
}

TEST_F(Dumps, AFreezeComesAtTheSameInstant) {
  if (on_kvm()) GTEST_SKIP() << "of the tcg machine, which has an instruction clock";
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  std::vector<Dump> dumps;
  for (int i = 0; i < 2; ++i) {
    const VmRun run = fault("7.2", "--stall-after 1 --timeout-ms 2000", {"--on-freeze", "stop"});
    ASSERT_EQ(run.exit_code, 4) << run.describe();
    EXPECT_NE(run.result["determinism"]["identical_until"].get<std::string>().find("scx_vexit"),
              std::string::npos);
    dumps.push_back(dump_of(run));
    const ktstr::v1::DumpHeader header = dumps.back().header();
    dumps.back().clear_header();
    dumps.back().mutable_header()->set_clock_ns(header.clock_ns());
    dumps.back().mutable_header()->set_jiffies(header.jiffies());
  }
  EXPECT_EQ(dumps[0].DebugString(), dumps[1].DebugString());
}

TEST_F(Dumps, EachNodeHasItsGlobalQueue) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const VmRun run = fault("7.2", "--error-after 1", {"--topology", "numa=2,llcs=2,cores=1,threads=1"});
  ASSERT_EQ(run.exit_code, 4) << run.describe();
  const Dump dump = dump_of(run);
  EXPECT_EQ(count(dump, Dsq::GLOBAL), 2U);
  EXPECT_EQ(count(dump, Dsq::LOCAL), 2U);
  EXPECT_EQ(dump.header().faults(), 0U);
}

// On the ordinary machine, for it has several vCPU threads, an address of its own, and may be stopped.
class LiveDumps : public DumpVmTest {};

TEST_F(LiveDumps, AreTakenOfARandomisedKernel) {
  KTSTR_NEEDS(kernel_618, kernel("6.18"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const VmRun run = run_on("6.18", {"--kaslr", "--scheduler", scheduler, "--scheduler-args",
                                    "--error-after 1", "--duration", "8s"});
  ASSERT_EQ(run.exit_code, 4) << run.describe();
  const Dump dump = dump_of(run);
  expect_complete(dump, kBpfErrorKind);
  EXPECT_EQ(dump.header().location().find("slide 0x0 "), std::string::npos) << dump.header().location();
}

TEST_F(LiveDumps, OnRequestLeaveTheRunAlone) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const int dumps = 20;
  const VmRun run =
      run_on("7.2", {"--scheduler", scheduler, "--duration", "10s", "--append", "pti=on"}, [&](pid_t pid) {
        ASSERT_TRUE(wait_for_output(pid, "holding"));
        for (int i = 1; i <= dumps; ++i) {
          ASSERT_EQ(kill(pid, SIGUSR1), 0);
          ASSERT_TRUE(wait_for_output(pid, "dump " + std::to_string(i) + ":"));
        }
      });
  ASSERT_EQ(run.exit_code, 0) << run.describe();
  ASSERT_EQ(count_of_dumps(run), dumps) << run.describe();
  for (int i = 1; i <= dumps; ++i) {
    const Dump dump = dump_of(run, i);
    EXPECT_EQ(dump.header().reason(), "signal");
    EXPECT_EQ(dump.header().faults(), 0U);
    EXPECT_EQ(dump.scheds_size(), 1);
    EXPECT_GT(dump.tasks_size(), 30);
  }
}

// A core of the same instant read by the other way in gives the same dump.
TEST_F(LiveDumps, ACoreGivesTheSameDump) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const VmRun run =
      run_on("7.2", {"--scheduler", scheduler, "--scheduler-args", "--stall-after 1 --timeout-ms 2000",
                     "--duration", "8s", "--on-freeze", "stop", "--core"});
  ASSERT_EQ(run.exit_code, 4) << run.describe();
  Dump live = dump_of(run);
  const std::string out = (folder() / "from-core").string();
  fs::create_directories(out);
  const std::string command = environment("KTSTR_VM") + " dump --memory " +
                              (run.folder / "dump-1.core").string() + " --kernel " + kernel("7.2") +
                              " --out " + out + " > " + out + "/printed 2>&1";
  ASSERT_EQ(std::system(command.c_str()), 0);
  const auto read = read_dump(out + "/dump-1.pb");
  ASSERT_TRUE(read) << read.error().to_string();
  Dump core = *read;
  const std::string trapped = live.header().trap();
  live.clear_header();
  core.clear_header();
  // What a core does not have, and says so.
  for (auto& cpu : *live.mutable_cpus()) {
    cpu.mutable_vcpu()->clear_halted();
    cpu.mutable_vcpu()->clear_stopped_after_ns();
  }
  ASSERT_EQ(live.scheds_size(), 1);
  auto& info = *live.mutable_scheds(0)->mutable_exit_info();
  EXPECT_EQ(info.read(), "at the trap, from the arguments of " + trapped);
  info.clear_msg();
  info.set_read("at the freeze");
  const auto take_out = [](Dump& dump, std::string_view what) {
    auto& absent = *dump.mutable_absent();
    const auto found =
        std::ranges::find_if(absent, [&](const auto& absence) { return absence.what() == what; });
    const bool there = found != absent.end();
    if (there) absent.erase(found);
    return there;
  };
  EXPECT_TRUE(take_out(core, "Vcpu.halted"));
  EXPECT_TRUE(take_out(core, "Vcpu.stopped_after_ns"));
  take_out(live, "Vcpu.stopped_after_ns");  // where the machine does not tell either
  EXPECT_EQ(live.DebugString(), core.DebugString());
}

TEST_F(LiveDumps, AFullDiskCostsTheDumpButNotTheVerdict) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  // A file system of its own with room for the logs and the result, not for the dump's JSON; seen by this
  // process only.
  if (unshare(CLONE_NEWNS) != 0) GTEST_SKIP() << "not allowed to mount";
  ASSERT_EQ(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
  ASSERT_EQ(mount("none", folder().c_str(), "tmpfs", 0, "size=112k"), 0);
  const VmRun run =
      run_on("7.2", {"--scheduler", scheduler, "--scheduler-args", "--error-after 1", "--duration", "8s"});
  EXPECT_EQ(run.exit_code, 4) << run.describe();
  ASSERT_EQ(count_of_dumps(run), 1) << run.describe();
  EXPECT_NE(run.result["dumps"][0]["incomplete"].get<std::string>().find("dump-1"), std::string::npos)
      << run.describe();
  for (const auto& entry : fs::directory_iterator(run.folder))
    EXPECT_FALSE(entry.path().filename().string().starts_with("dump-1")) << entry.path();
  umount2(folder().c_str(), MNT_DETACH);
}

TEST_F(LiveDumps, AVmlinuxOfAnotherBuildIsRefused) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(kernel_618, kernel("6.18"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  KTSTR_NEEDS(extract_vmlinux, environment("KTSTR_EXTRACT_VMLINUX"));
  const std::string other = (folder() / "vmlinux").string();
  ASSERT_TRUE(unpack_kernel(kernel_618, other));
  const VmRun run = run_on("7.2", {"--scheduler", scheduler, "--vmlinux", other});
  EXPECT_EQ(run.exit_code, 2) << run.describe();
  EXPECT_NE(run.err.find("vmlinux"), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("build id"), std::string::npos) << run.err;
}

}  // namespace
}  // namespace ktstr::vmtest
