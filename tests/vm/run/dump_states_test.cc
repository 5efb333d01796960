// Dumps of guests in states that are hard to get into: a CPU that no interrupt reaches, 5-level page tables,
// a guest that is ended before its kernel has said a word.
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>

#include "tests/vm/run/dump_vm_test.h"

namespace ktstr::vmtest {
namespace {

using ktstr::v1::Cpu;

constexpr const char* kBpftool = "/usr/sbin/bpftool";
constexpr std::uint64_t kInterruptFlag = 1 << 9;  // RFLAGS.IF

class DumpStates : public DumpVmTest {
 protected:
  // The CPU that ktstr-sched --spin-after keeps busy: in the kernel with interrupts off, inside a callback of
  // the scheduler, for which it holds its own run queue's lock. Another one may be in a callback as well, the
  // one that raised the error.
  static const Cpu* spinning_cpu(const Dump& dump) {
    for (const Cpu& cpu : dump.cpus()) {
      const bool at_trap = !dump.header().trap().empty() && cpu.cpu() == dump.header().trap_cpu();
      if (!at_trap && !cpu.vcpu().interrupts_enabled() && !cpu.vcpu().user_mode() && cpu.lock() != 0 &&
          cpu.scx_locked_rq() == cpu.address())
        return &cpu;
    }
    return nullptr;
  }
  static void expect_spinner(const Dump& dump) {
    const Cpu* spinner = spinning_cpu(dump);
    ASSERT_NE(spinner, nullptr) << dump.DebugString().substr(0, 20'000);
    EXPECT_EQ(spinner->vcpu().rflags() & kInterruptFlag, 0U);
    EXPECT_NE(spinner->vcpu().rip(), 0U);
    EXPECT_EQ(spinner->vcpu().general_size(), 16);
    EXPECT_FALSE(spinner->idle());
    // Who called the program: the way from the scheduler's core to its dispatch.
    EXPECT_TRUE(std::any_of(spinner->stack().begin(), spinner->stack().end(), [](const auto& entry) {
      return entry.symbol().starts_with("__schedule");
    })) << spinner->DebugString();
    // Whose words are in nobody's way: the other CPUs, all queues and all tasks are there too.
    EXPECT_EQ(dump.header().faults(), 0U);
    EXPECT_EQ(dump.header().incomplete(), "");
    EXPECT_EQ(dump.cpus_size(), static_cast<int>(dump.header().nr_cpu_ids()));
    for (const Cpu& cpu : dump.cpus()) EXPECT_TRUE(cpu.vcpu().user_mode() || cpu.stack_size() > 0);
    EXPECT_EQ(count(dump, Dsq::LOCAL), dump.header().nr_cpu_ids());
    EXPECT_GE(count(dump, Dsq::USER), 5U);
    EXPECT_NE(find_task(dump, "kthreadd"), nullptr);
    EXPECT_GT(dump.tasks_size(), 30);
  }
};

// The error comes from another CPU while the first one spins. The kernel could not write a dump of its own
// then: it would wait for the spinner's run queue.
TEST_F(DumpStates, ACpuThatSpinsWithInterruptsOffIsInTheDump) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const VmRun run =
      fault("7.2", "--spin-after 1 --spin-for 5 --error-after 1.02", {"--cpus", "4", "--on-freeze", "stop"});
  ASSERT_EQ(run.exit_code, 4) << run.describe();
  const Dump dump = dump_of(run);
  expect_spinner(dump);
  EXPECT_EQ(dump.header().trap_exit_kind(), static_cast<std::uint64_t>(kBpfErrorKind));
  EXPECT_NE(dump.header().trap_cpu(), spinning_cpu(dump)->cpu());
}

// The same on request, on a machine with a thread for each vCPU.
TEST_F(DumpStates, ACpuThatSpinsWithInterruptsOffIsInADumpOnRequest) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  int taken = 0;
  const VmRun run = run_on("7.2",
                           {"--cpus", "4", "--scheduler", scheduler, "--scheduler-args",
                            "--spin-after 1 --spin-for 10", "--duration", "6s"},
                           [&](pid_t pid) {
                             if (!wait_for_output(pid, "holding")) return;
                             while (taken < 60 && ::kill(pid, SIGUSR1) == 0 &&
                                    wait_for_output(pid, "dump " + std::to_string(taken + 1) + ":"))
                               ++taken;
                           });
  // How the run ends is not the matter here: ten seconds without a CPU are much for a guest.
  ASSERT_GT(taken, 0) << run.describe();
  // A CPU may be in a callback by chance; the spinner is in the same one for many dumps.
  std::vector<Dump> dumps;
  for (int i = 1; i <= taken; ++i) dumps.push_back(dump_of(run, i));
  const auto stands = [](const Dump& before, const Dump& after) {
    const Cpu* const one = spinning_cpu(before);
    const Cpu* const other = spinning_cpu(after);
    return one != nullptr && other != nullptr && one->cpu() == other->cpu() &&
           one->nr_switches() == other->nr_switches() && one->rq_clock() == other->rq_clock();
  };
  const auto found = std::adjacent_find(dumps.begin(), dumps.end(), stands);
  ASSERT_NE(found, dumps.end()) << taken << " dumps\n" << run.describe();
  expect_spinner(*found);
}

TEST_F(DumpStates, FiveLevelPageTablesAgreeWithTheKernelsOwnDump) {
  if (on_kvm()) GTEST_SKIP() << "of the tcg machine, whose CPU can be given features";
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const VmRun run = fault("7.2", "--stall-after 1 --timeout-ms 3000", {"--cpu-flags", "+la57"});
  ASSERT_EQ(run.exit_code, 4) << run.describe();
  const Dump dump = dump_of(run);
  EXPECT_NE(dump.header().location().find("of 5 levels"), std::string::npos) << dump.header().location();
  expect_complete(dump, kStallKind);
  expect_agrees_with_kernel(dump);
}

TEST_F(DumpStates, FiveLevelPageTablesOfARandomisedKernel) {
  if (on_kvm()) GTEST_SKIP() << "of the tcg machine, whose CPU can be given features";
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const VmRun run =
      run_on("7.2", {"--kaslr", "--cpu-flags", "+la57", "--scheduler", scheduler, "--scheduler-args",
                     "--stall-after 1 --timeout-ms 3000", "--duration", "8s"});
  ASSERT_EQ(run.exit_code, 4) << run.describe();
  const Dump dump = dump_of(run);
  EXPECT_NE(dump.header().location().find("of 5 levels"), std::string::npos) << dump.header().location();
  EXPECT_EQ(dump.header().location().find("slide 0x0 "), std::string::npos) << dump.header().location();
  expect_complete(dump, kStallKind);
}

TEST_F(DumpStates, CpuFlagsThatTheEmulatorDoesNotHaveAreRefused) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  for (const char* flags : {"+nonsense", "+sgx", "la57", "+la57,"}) {
    const VmRun run = run_on("7.2", {"--cpu-flags", flags, "--duration", "1s"});
    EXPECT_EQ(run.exit_code, 2) << flags << "\n" << run.describe();
    EXPECT_NE((run.err + run.out).find("--cpu-flags"), std::string::npos) << run.describe();
  }
}

// SysRq-S: the kernel takes the scheduler away because somebody asked it to.
TEST_F(DumpStates, SysRqTakesNone) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const VmRun run = fault("7.2", "--sysrq-after 1");
  EXPECT_EQ(run.exit_code, 4) << run.describe();  // it left before its time
  EXPECT_EQ(count_of_dumps(run), 0) << run.describe();
  std::ifstream log(run.folder / "scheduler.log");
  const std::string text{std::istreambuf_iterator<char>(log), {}};
  EXPECT_NE(text.find("EXIT: disabled by sysrq-S"), std::string::npos) << text;
}

// What bpftool printed in the guest, of one run of it: the value of .bss, variable by variable.
nlohmann::json bss_by_bpftool(const std::string& log) {
  const std::size_t begin = log.find("beside: begin\n");
  const std::size_t end = log.find("beside: end", begin);
  if (begin == std::string::npos || end == std::string::npos) return {};
  const std::size_t json = log.find("[{", begin);
  // Pointers are printed as C does it, which is no JSON.
  const std::string text =
      std::regex_replace(log.substr(json, end - json), std::regex(R"(0x[0-9a-f]+|\(nil\))"), "0");
  const auto printed = nlohmann::json::parse(text, nullptr, false);
  nlohmann::json variables;
  if (!printed.is_array() || printed.empty() || !printed[0].contains("value")) return variables;
  for (const auto& variable : printed[0]["value"][".bss"]) variables.update(variable);
  return variables;
}

// scx_lavd makes its queues by compute domain and by CPU (DSQ ids of its lavd.bpf.h: type in bits 12 and 13,
// 0 a CPU's, 1 a domain's, 2 a domain's for turbulent tasks). Its own map says which domains and CPUs there
// are, and bpftool reads that by a way that has nothing in common with ours.
TEST_F(DumpStates, LavdsQueuesAgreeWithItsMapsAsBpftoolShowsThem) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, real_scheduler("scx_lavd"));
  KTSTR_NEEDS(beside, environment("KTSTR_BESIDE_SCHEDULER"));
  if (!std::filesystem::exists(kBpftool)) GTEST_SKIP() << "not available: " << kBpftool;
  const VmRun run =
      run_on("7.2",
             {"--topology", "numa=1,llcs=2,cores=1,threads=1", "--scheduler", beside, "--scheduler-args",
              // Without -j, which would add every byte in hexadecimal: a guest on a busy host is slow.
              "/include/scx_lavd -- /include/bpftool map dump name bpf_bpf.bss", "--include", scheduler,
              "--include", kBpftool, "--duration", "10s"},
             [&](pid_t pid) {
               if (!wait_for_output(pid, "holding")) return;
               ::kill(pid, SIGUSR1);
               wait_for_output(pid, "dump 1:");
             });
  ASSERT_EQ(run.exit_code, 0) << run.describe();
  std::ifstream file(run.folder / "scheduler.log");
  const std::string log{std::istreambuf_iterator<char>(file), {}};
  const nlohmann::json bss = bss_by_bpftool(log);
  ASSERT_TRUE(bss.contains("cpdom_ctxs") && bss.contains("nr_cpdoms")) << log.substr(0, 4000);
  std::set<std::uint64_t> expected;
  std::size_t domains = 0;
  for (const auto& domain : bss["cpdom_ctxs"]) {
    if (domain["is_valid"] == 0) continue;
    ++domains;
    const auto id = domain["id"].get<std::uint64_t>();
    expected.insert({0x1000 | id, 0x2000 | id});
    const auto cpus = domain["__cpumask"][0].get<std::uint64_t>();
    for (std::uint64_t cpu = 0; cpu < 64; ++cpu) {
      if ((cpus >> cpu & 1) != 0) expected.insert(cpu);
    }
  }
  EXPECT_EQ(domains, bss["nr_cpdoms"].get<std::size_t>());
  EXPECT_EQ(expected.size(), 6U);

  const Dump dump = dump_of(run);
  EXPECT_EQ(dump.scheds(0).name().substr(0, 5), "lavd_");
  EXPECT_EQ(dump.header().faults(), 0U);
  std::set<std::uint64_t> shown;
  for (const Dsq& dsq : dump.dsqs()) {
    if (dsq.kind() != Dsq::USER) continue;
    shown.insert(dsq.id());
    EXPECT_EQ(dsq.nr(), static_cast<std::uint32_t>(dsq.tasks_size())) << dsq.name();
    EXPECT_TRUE(dsq.problems().empty()) << dsq.name();
  }
  EXPECT_EQ(shown, expected);
}

// A guest that is ended at the trap, and one that goes on, fail with the same words.
class MessagesAtTheTrap : public DumpVmTest,
                          public ::testing::WithParamInterface<std::tuple<const char*, const char*>> {};

TEST_P(MessagesAtTheTrap, AreThoseThatTheKernelWouldHaveWritten) {
  const auto [series, arguments] = GetParam();
  KTSTR_NEEDS(kernel_folder, kernel(series));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const VmRun went_on = fault(series, arguments);
  ASSERT_EQ(went_on.exit_code, 4) << went_on.describe();
  const VmRun stopped = fault(series, arguments, {"--on-freeze", "stop"});
  ASSERT_EQ(stopped.exit_code, 4) << stopped.describe();
  const Dump dump = dump_of(stopped);
  const std::string message = dump.scheds(0).exit_info().msg();
  EXPECT_EQ(message, dump_of(went_on).scheds(0).exit_info().msg());
  EXPECT_FALSE(message.empty());
  EXPECT_TRUE(dump.scheds(0).exit_info().read().starts_with("at the trap"));
  EXPECT_EQ(stopped.result["dumps"][0]["message"].get<std::string>(), message);
  EXPECT_NE(stopped.reason_text().find(message), std::string::npos) << stopped.reason_text();
  EXPECT_NE(stopped.out.find(message), std::string::npos) << stopped.out;
}

INSTANTIATE_TEST_SUITE_P(DumpStates, MessagesAtTheTrap,
                         ::testing::Combine(::testing::Values("6.12-BUILT", "6.18", "7.1", "7.2", "7.3"),
                                            ::testing::Values("--stall-after 1 --timeout-ms 3000",
                                                              "--error-after 1", "--bad-dispatch")),
                         [](const auto& parameters) {
                           std::string name = std::string("On") + std::get<0>(parameters.param) +
                                              std::get<1>(parameters.param);
                           std::erase_if(
                               name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; });
                           return name;
                         });

}  // namespace
}  // namespace ktstr::vmtest
