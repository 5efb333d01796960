// `ktstr-vm dump`: of a run in progress, and of memory images, those that do not fit among them.
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "tests/vm/run/dump_vm_test.h"

namespace ktstr::vmtest {
namespace {

namespace fs = std::filesystem;

class LiveDumpsByCommand : public DumpVmTest {
 protected:
  struct Outcome {
    int exit_code = -1;
    std::string text;  // standard output and error
  };
  Outcome dump(const std::string& arguments) const {
    const std::string text = (folder() / "printed").string();
    const int status =
        std::system((environment("KTSTR_VM") + " dump " + arguments + " > " + text + " 2>&1").c_str());
    std::ifstream file(text);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1,
            std::string(std::istreambuf_iterator<char>(file), {})};
  }
};

TEST_F(LiveDumpsByCommand, ARunInProgress) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  Outcome taken;
  const VmRun run = run_on("7.2", {"--scheduler", scheduler, "--duration", "6s"}, [&](pid_t pid) {
    ASSERT_TRUE(wait_for_output(pid, "holding"));
    taken = dump("--run " + (folder() / "out/latest").string());
    wait_for_output(pid, "dump 1:");
  });
  ASSERT_EQ(run.exit_code, 0) << run.describe();
  EXPECT_EQ(taken.exit_code, 0) << taken.text;
  EXPECT_NE(taken.text.find("dump-1"), std::string::npos) << taken.text;
  ASSERT_EQ(count_of_dumps(run), 1);
  EXPECT_GT(dump_of(run).tasks_size(), 30);
  const Outcome late = dump("--run " + run.folder.string());
  EXPECT_EQ(late.exit_code, 2);
  EXPECT_NE(late.text.find("is over"), std::string::npos) << late.text;
}

TEST_F(LiveDumpsByCommand, ImagesThatDoNotFitAreRefused) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(kernel_618, kernel("6.18"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const VmRun run = run_on("7.2", {"--scheduler", scheduler, "--scheduler-args", "--error-after 0.5",
                                   "--duration", "8s", "--on-freeze", "stop", "--core"});
  ASSERT_EQ(run.exit_code, 4) << run.describe();
  const std::string core = (run.folder / "dump-1.core").string();
  const std::string out = (folder() / "from-core").string();
  const auto expect_refused = [&](const std::string& arguments, const std::vector<std::string>& words,
                                  int exit_code = 2) {
    const Outcome refused = dump(arguments + " --out " + out);
    EXPECT_EQ(refused.exit_code, exit_code) << arguments << "\n" << refused.text;
    for (const std::string& word : words)
      EXPECT_NE(refused.text.find(word), std::string::npos) << arguments << ": no '" << word << "' in\n"
                                                            << refused.text;
    EXPECT_FALSE(fs::exists(out + "/dump-1.json")) << arguments;
  };
  expect_refused("--memory " + core + " --kernel " + kernel_618, {"another kernel", "build id"});
  expect_refused("--memory " + core, {"--kernel", "--vmlinux"});

  const std::string cut = (folder() / "cut").string();
  fs::copy_file(core, cut);
  fs::resize_file(cut, fs::file_size(core) / 2);
  expect_refused("--memory " + cut + " --kernel " + kernel_72, {"cut off", "segment"});

  const std::string text = (folder() / "text").string();
  std::ofstream(text) << "hello\n";
  expect_refused("--memory " + text + " --kernel " + kernel_72, {"no ELF core"});

  const std::string vmlinux = (folder() / "vmlinux").string();
  KTSTR_NEEDS(extract_vmlinux, environment("KTSTR_EXTRACT_VMLINUX"));
  ASSERT_TRUE(unpack_kernel(kernel_72, vmlinux));
  ASSERT_EQ(std::system(("objcopy --remove-section .BTF " + vmlinux + " 2>/dev/null").c_str()), 0);
  expect_refused("--memory " + core + " --vmlinux " + vmlinux, {"CONFIG_DEBUG_INFO_BTF"}, 11);
  // Nor does a run begin that asks for more than a verdict.
  const VmRun refused = VmTest::run({"--kernel", vmlinux, "--core"});
  EXPECT_EQ(refused.exit_code, 11) << refused.describe();
  EXPECT_NE(refused.err.find("CONFIG_DEBUG_INFO_BTF"), std::string::npos) << refused.err;
}

}  // namespace
}  // namespace ktstr::vmtest
