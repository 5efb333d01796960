#include "host/kernel/kernel_files.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "tests/unit/common/scratch_dir.h"

namespace ktstr::test {
namespace {

namespace fs = std::filesystem;

class KernelFilesTest : public testing::Test {
 protected:
  // Creates a file with all folders above it.
  std::string make(const std::string& name, const std::string& contents = "CONFIG_A=y\n") {
    fs::create_directories(fs::path(scratch_.path(name)).parent_path());
    return scratch_.file(name, contents);
  }
  std::string root() const { return scratch_.path(""); }
  std::string error_for(const std::string& folder) {
    auto image = find_image_in_folder(folder);
    if (image) return "found " + *image;
    EXPECT_EQ(image.error().code(), ErrorCode::kUsage);
    return image.error().to_string();
  }

  ScratchDir scratch_;
};

TEST_F(KernelFilesTest, FindsTheImageOfEveryKindOfFolder) {
  const std::string tree = make("tree/arch/x86/boot/bzImage");
  make("tree/vmlinux");
  EXPECT_EQ(find_image_in_folder(scratch_.path("tree")).value(), tree);
  const std::string old_package = make("old/boot/vmlinuz-6.18-cloud");
  make("old/boot/System.map-6.18-cloud");
  EXPECT_EQ(find_image_in_folder(scratch_.path("old")).value(), old_package);
  EXPECT_EQ(find_image_in_folder(scratch_.path("old/boot")).value(), old_package);
  const std::string new_package = make("new/usr/lib/modules/7.2-cloud/vmlinuz");
  EXPECT_EQ(find_image_in_folder(scratch_.path("new")).value(), new_package);
  EXPECT_EQ(find_image_in_folder(scratch_.path("new/usr/lib/modules/7.2-cloud")).value(), new_package);
  const std::string lib = make("lib-only/lib/modules/7.1/vmlinuz");
  EXPECT_EQ(find_image_in_folder(scratch_.path("lib-only")).value(), lib);
}

TEST_F(KernelFilesTest, TheSameReleaseTwiceIsOneKernel) {
  const std::string boot = make("f/boot/vmlinuz-6.9");
  make("f/lib/modules/6.9/vmlinuz");
  EXPECT_EQ(find_image_in_folder(scratch_.path("f")).value(), boot);
}

TEST_F(KernelFilesTest, SeveralKernelsAreNamed) {
  make("f/boot/vmlinuz-6.18");
  make("f/usr/lib/modules/7.2/vmlinuz");
  const std::string error = error_for(scratch_.path("f"));
  EXPECT_NE(error.find("boot/vmlinuz-6.18"), std::string::npos) << error;
  EXPECT_NE(error.find("modules/7.2/vmlinuz"), std::string::npos) << error;
}

TEST_F(KernelFilesTest, AFolderWithoutAKernelSaysWhatWasLookedFor) {
  fs::create_directories(scratch_.path("empty/boot"));
  EXPECT_NE(error_for(scratch_.path("empty")).find("holds no kernel"), std::string::npos);
  make("source/Makefile");
  make("source/Kconfig");
  fs::create_directories(scratch_.path("source/arch"));
  EXPECT_NE(error_for(scratch_.path("source")).find("make bzImage"), std::string::npos);
}

TEST_F(KernelFilesTest, FindsWhatLiesBesideAPackagedImage) {
  const std::string image = make("p/boot/vmlinuz-6.18");
  const std::string config = make("p/boot/config-6.18");
  make("p/boot/System.map-6.18", "a stub");
  make("p/usr/lib/modules/6.18/modules.dep");
  const KernelFiles files = find_kernel_files(image, "6.18");
  EXPECT_EQ(files.config, config);
  EXPECT_EQ(files.modules, scratch_.path("p/usr/lib/modules/6.18"));
  EXPECT_EQ(files.layout, ModuleLayout::kInstalled);
  EXPECT_EQ(files.system_map, "");
  EXPECT_EQ(files.build_tree, "");
}

TEST_F(KernelFilesTest, FindsWhatLiesBesideAnImageAmongItsModules) {
  const std::string image = make("p/usr/lib/modules/7.2/vmlinuz");
  make("p/usr/lib/modules/7.2/modules.dep");
  const std::string config = make("p/usr/lib/modules/7.2/config");
  const std::string map = make("p/usr/lib/modules/7.2/System.map", std::string(5000, 'm'));
  const KernelFiles files = find_kernel_files(image, "7.2");
  EXPECT_EQ(files.config, config);
  EXPECT_EQ(files.modules, scratch_.path("p/usr/lib/modules/7.2"));
  EXPECT_EQ(files.system_map, map);
}

TEST_F(KernelFilesTest, FollowsLinksToTheImage) {
  const std::string image = make("p/boot/vmlinuz-6.18");
  const std::string config = make("p/boot/config-6.18");
  fs::create_symlink(image, scratch_.path("vmlinuz"));
  EXPECT_EQ(find_kernel_files(scratch_.path("vmlinuz"), "6.18").config, config);
}

TEST_F(KernelFilesTest, AnotherReleasesFilesAreNotTaken) {
  const std::string image = make("p/boot/vmlinuz-renamed");
  make("p/boot/config-6.18");
  make("p/boot/config-renamed");
  make("p/lib/modules/6.18/modules.dep");
  const KernelFiles files = find_kernel_files(image, "7.0");
  EXPECT_EQ(files.config, "");
  EXPECT_EQ(files.modules, "");
}

TEST_F(KernelFilesTest, FindsWhatABuildTreeHas) {
  const std::string image = make("t/arch/x86/boot/bzImage");
  const std::string config = make("t/.config");
  make("t/include/config/kernel.release", "7.2.0-dirty\n");
  make("t/vmlinux");
  make("t/modules.order", "drivers/a/a.o\nkernel/trace/t.o\n");
  KernelFiles files = find_kernel_files(image, "7.2.0-dirty");
  EXPECT_EQ(files.build_tree, scratch_.path("t"));
  EXPECT_EQ(files.config, config);
  EXPECT_EQ(files.layout, ModuleLayout::kBuildTree);
  EXPECT_EQ(files.modules, scratch_.path("t"));
  EXPECT_EQ(files.vmlinux, scratch_.path("t/vmlinux"));
  // Configured anew since: the image is an older build.
  files = find_kernel_files(image, "7.1.0");
  EXPECT_EQ(files.config, "");
  EXPECT_EQ(files.modules, "");
}

TEST_F(KernelFilesTest, ListsTheModulesOfATree) {
  make("t/kernel/trace/t.ko");
  make("t/drivers/a/a.ko");
  make("t/modules.order", "drivers/a/a.o\nkernel/trace/t.o\n");
  EXPECT_EQ(list_tree_modules(scratch_.path("t")).value(),
            (std::vector<std::string>{"drivers/a/a.ko", "kernel/trace/t.ko"}));
  // The older form has the installed names.
  make("t/modules.order", "kernel/drivers/a/a.ko\nkernel/trace/t.ko\n");
  EXPECT_EQ(list_tree_modules(scratch_.path("t")).value(),
            (std::vector<std::string>{"drivers/a/a.ko", "kernel/trace/t.ko"}));
  make("t/modules.order", "../../etc/passwd\n");
  EXPECT_FALSE(list_tree_modules(scratch_.path("t")));
  make("t/modules.order", "/etc/passwd\n");
  EXPECT_FALSE(list_tree_modules(scratch_.path("t")));
  EXPECT_FALSE(list_tree_modules(scratch_.path("none")));
}

}  // namespace
}  // namespace ktstr::test
