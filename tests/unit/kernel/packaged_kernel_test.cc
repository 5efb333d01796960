// Real kernels, as distributions package them, where the machine has some (packaged_kernels.h).
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>

#include <gtest/gtest.h>

#include "common/unique_fd.h"
#include "host/kernel/kernel_image.h"
#include "tests/unit/common/scratch_dir.h"
#include "tests/unit/kernel/packaged_kernels.h"

namespace ktstr::test {
namespace {

namespace fs = std::filesystem;

// Standard output of a program.
std::string output_of(const std::string& command) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(::popen(command.c_str(), "r"), ::pclose);
  std::string text;
  char buffer[4096];
  while (pipe && std::fgets(buffer, sizeof buffer, pipe.get()) != nullptr) text += buffer;
  return text;
}

class PackagedKernel : public testing::TestWithParam<PackagedImage> {
 protected:
  void SetUp() override {
    path_ = find_packaged_image(GetParam());
    if (path_.empty()) {
      GTEST_SKIP() << "no packaged kernel " << GetParam().series << "* in the cache, and "
                   << GetParam().variable << " is not set";
    }
  }

  ScratchDir scratch_;
  std::string path_;
  // Not the user's cache: the tests would evict what is in use.
  ImageCache cache_{scratch_.path("images")};
};

TEST_P(PackagedKernel, AgreesWithFileAndReadelf) {
  auto kernel = KernelImage::open(path_, cache_);
  ASSERT_TRUE(kernel) << kernel.error().to_string();
  EXPECT_TRUE(kernel->sched_ext().present) << kernel->sched_ext().reason;
  EXPECT_TRUE(kernel->has_pvh_entry());
  EXPECT_GE(kernel->init_size(), kernel->payload().size());
  EXPECT_TRUE(kernel->modules_dir());
  EXPECT_TRUE(kernel->config().complete()) << kernel->config().source();

  const std::string described = output_of("file -b '" + kernel->image_path() + "' 2>/dev/null");
  if (!described.empty()) {
    EXPECT_NE(described.find("version " + kernel->release() + " "), std::string::npos) << described;
  }
  const std::string elf = scratch_.path("elf");
  std::ofstream(elf, std::ios::binary)
      .write(reinterpret_cast<const char*>(kernel->payload().data()),
             static_cast<std::streamsize>(kernel->payload().size()));
  const std::string notes = output_of("readelf -n '" + elf + "' 2>/dev/null");
  if (!notes.empty()) {
    EXPECT_NE(notes.find("Build ID: " + kernel->build_id() + "\n"), std::string::npos) << notes;
  }
}

TEST_P(PackagedKernel, EveryDerivedOptionEqualsThePackagesConfiguration) {
  auto packaged = KernelImage::open(path_, cache_);
  ASSERT_TRUE(packaged) << packaged.error().to_string();
  if (!packaged->config().complete()) GTEST_SKIP() << "this package comes without its configuration";
  // The same image where nothing lies beside it.
  fs::copy_file(packaged->image_path(), scratch_.path("bzImage"));
  auto alone = KernelImage::open(scratch_.path("bzImage"), cache_);
  ASSERT_TRUE(alone) << alone.error().to_string();
  ASSERT_EQ(alone->config().source(), "derived");
  EXPECT_GE(alone->config().size(), 60u);
  for (const auto option : alone->config().options()) {
    const auto derived = alone->config().lookup(option);
    const auto real = packaged->config().lookup(option);
    // In a complete configuration an option that is not mentioned is off.
    const auto kind = real.kind == ConfigValue::Kind::kAbsent ? ConfigValue::Kind::kNo : real.kind;
    EXPECT_EQ(derived.kind, kind) << option;
    EXPECT_EQ(derived.text, real.text) << option;
  }
  for (const char* needed : {"NR_CPUS", "PREEMPT_RCU", "PREEMPT_RT", "NO_HZ_IDLE", "X86_64"}) {
    EXPECT_NE(alone->config().lookup(needed).kind, ConfigValue::Kind::kAbsent) << needed;
  }
}

TEST_P(PackagedKernel, TruncationIsNoticedAnywhere) {
  auto packaged = KernelImage::open(path_, cache_);
  ASSERT_TRUE(packaged);
  const std::string copy = scratch_.path("bzImage");
  fs::copy_file(packaged->image_path(), copy);
  const SetupHeader header = packaged->setup_header().value();
  for (const std::uint64_t size :
       {header.setup_size + header.code_size - 1, header.payload_offset + header.payload_size - 1,
        header.payload_offset + header.payload_size / 2, header.payload_offset, header.setup_size,
        std::uint64_t{0x260}, std::uint64_t{0x202}, std::uint64_t{1}}) {
    fs::resize_file(copy, size);
    auto image = KernelImage::open(copy, cache_);
    ASSERT_FALSE(image) << size;
    EXPECT_EQ(image.error().code(), ErrorCode::kUsage);
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, PackagedKernel,
                         testing::Values(PackagedImage{"v72", "KTSTR_TEST_KERNEL_72", "7.2."},
                                         PackagedImage{"v618", "KTSTR_TEST_KERNEL_618", "6.18."}),
                         [](const auto& instance) { return std::string(instance.param.name); });

}  // namespace
}  // namespace ktstr::test
