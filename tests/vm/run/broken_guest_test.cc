// Kernels that a machine cannot go on with, as a user gets to see them: a packaged kernel whose first
// instructions are replaced by a program of a few. They run under this machine's /dev/kvm, whatever it is.
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <functional>

#include <gtest/gtest.h>

#include "common/unique_fd.h"
#include "host/kernel/kernel_image.h"
#include "tests/unit/machine/kvm/machine_code.h"
#include "tests/unit/machine/kvm/virtio_driver.h"
#include "tests/vm/run/vm_run.h"

namespace ktstr::vmtest {
namespace {

namespace fs = std::filesystem;
using kvm::tiny::MachineCode;

bool have_kvm() {
  const UniqueFd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  return static_cast<bool>(kvm);
}

class NeedsKvm : public VmTest {
 protected:
  void SetUp() override {
    VmTest::SetUp();
    if (!have_kvm()) GTEST_SKIP() << "not available: /dev/kvm";
  }
};

class BrokenGuests : public NeedsKvm {
 protected:
  // Runs the kernel 7.2 that begins with `program`, which is given its address.
  VmRun run_program(const std::function<void(MachineCode&)>& program) {
    const std::string packaged = kernel("7.2");
    const auto image = KernelImage::open(packaged);
    if (!image) {
      ADD_FAILURE() << image.error().to_string();
      return {};
    }
    // As a package lays them out, with an uncompressed kernel in the place of the compressed one.
    const fs::path root = folder() / "kernel";
    fs::create_directories(root / "boot");
    const auto linked = [&](const std::string& file, const fs::path& at) {
      if (!file.empty()) fs::create_symlink(file, at);
    };
    linked(image->files().config, root / "boot" / ("config-" + image->release()));
    fs::create_directories(root / "lib/modules");
    linked(image->files().modules, root / "lib/modules" / image->release());
    MachineCode code(image->elf().entry());
    program(code);
    write_patched(*image, code, root / "boot" / ("vmlinuz-" + image->release()));
    return run({"--kernel", root.string(), "--accel", "kvm", "--duration", "1s"});
  }

 private:
  static void write_patched(const KernelImage& image, const MachineCode& code, const fs::path& to) {
    const auto payload = image.payload();
    std::string bytes(reinterpret_cast<const char*>(payload.data()), payload.size());
    const std::uint64_t entry = image.elf().entry();
    for (const Elf64_Phdr& segment : image.elf().segments()) {
      if (entry < segment.p_paddr || entry - segment.p_paddr >= segment.p_filesz) continue;
      const std::uint64_t at = segment.p_offset + (entry - segment.p_paddr);
      ASSERT_LE(at + code.bytes().size(), bytes.size());
      std::copy(code.bytes().begin(), code.bytes().end(), bytes.begin() + static_cast<std::ptrdiff_t>(at));
    }
    std::ofstream(to, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
};

TEST_F(BrokenGuests, AnInstructionThatKvmCannotEmulateIsExit20) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  const VmRun run = run_program([](MachineCode& code) {
    code.mov_rax(0xd2000000).raw({0xff, 0xe0});  // jmp *%rax, to where there is no RAM
  });
  EXPECT_EQ(run.exit_code, 20) << run.describe();
  EXPECT_EQ(run.result["verdict"], "host_trouble") << run.describe();
  EXPECT_NE(run.reason_text().find("KVM_EXIT_INTERNAL_ERROR on vCPU 0, suberror 1"), std::string::npos)
      << run.describe();
  EXPECT_NE(run.reason_text().find("rip 0xd2000000"), std::string::npos) << run.describe();
}

TEST_F(BrokenGuests, ItsBytesAreInTheReason) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  const VmRun run = run_program([](MachineCode& code) {
    code.mov_rbx(kvm::kVirtioMmioGpa).raw({0x66, 0x0f, 0x38, 0x00, 0x03});  // pshufb (%rbx), %xmm0
  });
  if (run.reason_text().find("triple fault") != std::string::npos)
    GTEST_SKIP() << "this KVM gives the guest an exception: " << run.reason_text();
  EXPECT_EQ(run.exit_code, 20) << run.describe();
  EXPECT_NE(run.reason_text().find("66 0f 38 00 03"), std::string::npos) << run.describe();
}

TEST_F(BrokenGuests, ADriverThatBreaksTheRulesOfItsConsoleIsExit20) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  const VmRun run = run_program([](MachineCode& code) {
    // A chain that begins at a descriptor the queue does not have.
    code.store32(kvm::tiny::kAvailable, 1U << 16).store32(kvm::tiny::kAvailable + 4, 99);
    kvm::tiny::write_driver(code, {}).halt_for_ever();
  });
  EXPECT_EQ(run.exit_code, 20) << run.describe();
  EXPECT_NE(run.reason_text().find("the guest's driver broke the rules of its virtio console: "),
            std::string::npos)
      << run.describe();
}

// A kernel that faults before it can say a word has not booted; what its vCPU looked like is in the reason.
TEST_F(BrokenGuests, ATripleFaultBeforeTheFirstWordIsExit10) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  const VmRun run = run_program([](MachineCode& code) {
    code.mov_rbx(0x200000).lidt_rbx().ud2();  // an empty interrupt table, then an exception
  });
  EXPECT_EQ(run.exit_code, 10) << run.describe();
  EXPECT_NE(run.reason_text().find("triple fault"), std::string::npos) << run.describe();
  EXPECT_NE(run.reason_text().find("rip 0x"), std::string::npos) << run.describe();
}

// What the host may refuse, of the whole program: nothing of the run is left but its words.
class BrokenHost : public NeedsKvm {};

TEST_F(BrokenHost, ACapabilityThatIsMissingIsExit20ByName) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(preload, environment("KTSTR_LACKING_KVM"));
  ASSERT_EQ(setenv("LD_PRELOAD", preload.c_str(), 1), 0);
  const VmRun refused = run_on("7.2", {"--accel", "kvm", "--duration", "1s"});
  unsetenv("LD_PRELOAD");
  EXPECT_EQ(refused.exit_code, 20) << refused.describe();
  EXPECT_NE(refused.err.find("KVM_CAP_IMMEDIATE_EXIT (without it "), std::string::npos) << refused.err;
}

TEST_F(BrokenHost, TooFewDescriptorsIsExit20) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit few = {.rlim_cur = 24, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  const VmRun run = run_on("7.2", {"--accel", "kvm", "--duration", "1s"});
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(run.exit_code, 20) << run.describe();
  EXPECT_NE((run.err + run.reason_text()).find("Too many open files"), std::string::npos) << run.describe();
}

TEST_F(BrokenHost, AFullDiskIsExit20) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  // Seen by this process only.
  if (unshare(CLONE_NEWNS) != 0) GTEST_SKIP() << "not allowed to mount";
  ASSERT_EQ(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
  const fs::path full = folder() / "full";
  fs::create_directories(full);
  ASSERT_EQ(mount("none", full.c_str(), "tmpfs", 0, "size=4k"), 0);
  std::ofstream(full / "what-fills-it") << std::string(4096, 'x');
  const VmRun run = run_on("7.2", {"--accel", "kvm", "--duration", "1s", "--out", (full / "out").string()});
  EXPECT_EQ(run.exit_code, 20) << run.describe();
  EXPECT_NE(run.err.find("No space left on device"), std::string::npos) << run.err;
  umount2(full.c_str(), MNT_DETACH);
}

}  // namespace
}  // namespace ktstr::vmtest
