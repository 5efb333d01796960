// What goes wrong inside the guest, and how it is told apart. The faults are injected by PID 1 (kernel
// argument ktstr.inject=, guest/init/boot_arguments.h).
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "tests/vm/run/vm_run.h"

namespace ktstr::vmtest {
namespace {

class Failures : public VmTest {
 protected:
  void SetUp() override {
    VmTest::SetUp();
    if (kernel("7.2").empty()) GTEST_SKIP() << "not available: kernel 7.2";
  }
  VmRun inject(const std::string& fault, std::vector<std::string> more = {}) const {
    more.insert(more.end(), {"--append", "ktstr.inject=" + fault});
    return run_seeded("7.2", std::move(more));
  }
};

TEST_F(Failures, AKilledSchedulerIsExit4) {
  KTSTR_NEEDS(scheduler, example_scheduler("scx_simple"));
  const VmRun run = inject("kill-scheduler", {"--scheduler", scheduler});
  EXPECT_EQ(run.exit_code, 4) << run.describe();
  EXPECT_NE(run.last_line.find("verdict=scheduler-died"), std::string::npos) << run.last_line;
}

TEST_F(Failures, AStallIsExit4WithTheKernelsReason) {
  KTSTR_NEEDS(scheduler, example_scheduler("scx_qmap"));
  const VmRun run =
      run_seeded("7.2", {"--scheduler", scheduler, "--scheduler-args", "-t 50 -T 50", "--duration", "30s"});
  EXPECT_EQ(run.exit_code, 4) << run.describe();
  EXPECT_NE(run.reason_text().find("stall"), std::string::npos) << run.describe();
}

TEST_F(Failures, APanicIsExit3) {
  const VmRun run = inject("panic");
  EXPECT_EQ(run.exit_code, 3) << run.describe();
  EXPECT_NE(run.reason_text().find("sysrq triggered crash"), std::string::npos) << run.reason_text();
}

TEST_F(Failures, APanicUnderBisectIsBad) {
  EXPECT_EQ(inject("panic", {"--bisect"}).exit_code, 1);
}

TEST_F(Failures, AGuestThatFallsSilentIsExit5) {
  const VmRun run = inject("silent");
  EXPECT_EQ(run.exit_code, 5) << run.describe();
  EXPECT_EQ(run.reason_kind(), "guest-silent") << run.describe();
}

TEST_F(Failures, ACrashOfPid1IsReportedWithABacktrace) {
  const VmRun run = inject("init-crash");
  EXPECT_EQ(run.exit_code, 20) << run.describe();
  EXPECT_EQ(run.reason_kind(), "init-crash") << run.describe();
  EXPECT_NE(run.reason_text().find("SIGSEGV"), std::string::npos) << run.reason_text();
}

TEST_F(Failures, WhatIsSentRightBeforeTheEndArrives) {
  const VmRun run = inject("late-output", {"--duration", "2s"});
  EXPECT_EQ(run.exit_code, 0) << run.describe();
  std::ifstream log(run.folder / "scheduler.log");
  const std::string text{std::istreambuf_iterator<char>(log), {}};
  EXPECT_EQ(text.size(), 63U * 16384 + 14);
  EXPECT_TRUE(text.ends_with("\nthe last line\n"));
}

TEST_F(Failures, AKernelThatNeverReachesInitIsExit10) {
  const VmRun run = run_on("7.2", {"--append", "rdinit=/nonexistent"});
  EXPECT_EQ(run.exit_code, 10) << run.describe();
  EXPECT_EQ(run_on("7.2", {"--append", "rdinit=/nonexistent", "--bisect"}).exit_code, 125);
}

TEST_F(Failures, ABootThatTakesTooLongIsExit10) {
  const VmRun run = run_on("7.2", {"--boot-timeout", "300ms", "--clone", "never"});
  EXPECT_EQ(run.exit_code, 10) << run.describe();
  EXPECT_EQ(run.reason_kind(), "boot-timeout");
}

// Schedulers that cannot be started: all exit 12, each with what helps.
class StartFailures : public Failures {
 protected:
  // Compiles a C program; "" when there is no compiler.
  std::string compile(const std::string& name, const std::string& source,
                      const std::string& flags = "") const {
    const std::string file = (folder() / (name + ".c")).string();
    std::ofstream(file) << source;
    const std::string binary = (folder() / name).string();
    const std::string command = "cc -o " + binary + " " + file + " " + flags + " 2>/dev/null";
    return std::system(command.c_str()) == 0 ? binary : "";
  }
};

TEST_F(StartFailures, OneThatExitsAtOnceShowsItsLastWords) {
  KTSTR_NEEDS(program,
              compile("scx_gone", "#include <stdio.h>\nint main(void){puts(\"no luck today\");return 3;}"));
  const VmRun run = run_seeded("7.2", {"--scheduler", program});
  EXPECT_EQ(run.exit_code, 12) << run.describe();
  EXPECT_NE(run.reason_text().find("no luck today"), std::string::npos) << run.reason_text();
}

TEST_F(StartFailures, OneThatNeverAttachesIsGivenUp) {
  KTSTR_NEEDS(program, compile("scx_idle", "#include <unistd.h>\nint main(void){for(;;)pause();}"));
  const VmRun run = run_seeded("7.2", {"--scheduler", program});
  EXPECT_EQ(run.exit_code, 12) << run.describe();
  EXPECT_NE(run.reason_text().find("did not attach"), std::string::npos) << run.reason_text();
}

TEST_F(StartFailures, OneThatTheVerifierRefusesShowsTheVerifiersWords) {
  KTSTR_NEEDS(scheduler, example_scheduler("refused/scx_qmap"));
  // -v: scx_qmap hides libbpf's messages otherwise.
  const VmRun run = run_seeded("7.2", {"--scheduler", scheduler, "--scheduler-args", "-v"});
  EXPECT_EQ(run.exit_code, 12) << run.describe();
  EXPECT_NE(run.out.find("invalid mem access"), std::string::npos) << run.describe();
  EXPECT_NE(run.out.find(" insns (limit "), std::string::npos) << run.describe();
}

TEST_F(StartFailures, AMissingLibraryIsNamedBeforeTheBoot) {
  KTSTR_NEEDS(library, compile("libktstrgone.so", "int gone(void){return 0;}", "-shared -fPIC"));
  KTSTR_NEEDS(program, compile("scx_lib", "int gone(void); int main(void){return gone();}",
                               "-L" + folder().string() + " -l:libktstrgone.so"));
  std::filesystem::remove(library);
  const VmRun run = run_seeded("7.2", {"--scheduler", program});
  EXPECT_EQ(run.exit_code, 12) << run.describe();
  EXPECT_NE(run.err.find("libktstrgone.so"), std::string::npos) << run.err;
  EXPECT_TRUE(run.folder.empty());
}

TEST_F(StartFailures, AScriptIsNotAScheduler) {
  const std::string script = (folder() / "scx_script").string();
  std::ofstream(script) << "#!/bin/sh\nexit 0\n";
  const VmRun run = run_on("7.2", {"--scheduler", script});
  EXPECT_EQ(run.exit_code, 12) << run.describe();
}

}  // namespace
}  // namespace ktstr::vmtest
