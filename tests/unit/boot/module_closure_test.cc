#include "host/boot/module_closure.h"

#include <cstdlib>
#include <filesystem>

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "host/boot/module_file.h"
#include "tests/unit/boot/boot_fixture.h"

namespace ktstr::test {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ModuleClosureTest : public BootTest {
 protected:
  static ConfigLookup config(std::optional<char> value) {
    return [value](std::string_view) { return value; };
  }
  static Expected<ModuleClosure> closure(const std::string& folder, std::vector<WantedModule> wanted,
                                         std::optional<char> value = std::nullopt) {
    return module_closure(folder, wanted, config(value));
  }
  static std::vector<std::string> names(const Expected<ModuleClosure>& closure) {
    std::vector<std::string> list;
    EXPECT_TRUE(closure) << (closure ? "" : closure.error().to_string());
    if (!closure) return {};
    for (const ModuleFile& module : closure->load_order) list.push_back(module.name);
    return list;
  }
  static std::string message(const Expected<ModuleClosure>& closure) {
    return closure ? "no error" : closure.error().message();
  }
  // A small object file with a .modinfo section.
  std::string make_module(const std::string& name, const std::string& modinfo) const {
    std::string source =
        "__attribute__((section(\".modinfo\"), used)) static const char info[] = \"" + modinfo + "\";";
    write("module.c", source);
    fs::create_directories(fs::path(path(name)).parent_path());
    const auto made = run(fmt::format("gcc -c -x c {} -o {}", path("module.c"), path(name)));
    EXPECT_EQ(made.status, 0) << made.output;
    return path(name);
  }
  // A folder that is there but holds no module lists.
  std::string folder_without_lists() const {
    fs::create_directories(path("bare"));
    return path("bare");
  }
  std::string modules_folder() const {
    write("m/modules.builtin", "kernel/drivers/virtio/virtio.ko\nkernel/drivers/virtio/virtio_ring.ko\n");
    write("m/modules.dep",
          "kernel/net/core/failover.ko.xz:\n"
          "kernel/drivers/net/net_failover.ko.xz: kernel/net/core/failover.ko.xz\n"
          "kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz "
          "kernel/net/core/failover.ko.xz\n"
          "kernel/drivers/char/virtio-console.ko:\n"
          "kernel/lib/helper.ko:\n"
          "kernel/a.ko: kernel/b.ko\n"
          "kernel/b.ko: kernel/a.ko\n");
    write("m/modules.softdep", "# comment\nsoftdep virtio_console pre: helper gone post: a\n");
    for (const char* file : {"kernel/net/core/failover.ko.xz", "kernel/drivers/net/net_failover.ko.xz",
                             "kernel/drivers/net/virtio_net.ko.xz", "kernel/drivers/char/virtio-console.ko",
                             "kernel/lib/helper.ko", "kernel/a.ko", "kernel/b.ko"}) {
      write(std::string("m/") + file, "");
    }
    return path("m");
  }
};

TEST_F(ModuleClosureTest, BuiltInDriversNeedNoFile) {
  const auto result = closure(modules_folder(), {{.name = "virtio"}, {.name = "virtio-ring"}});
  EXPECT_THAT(names(result), IsEmpty());
  EXPECT_THAT(result->built_in, ElementsAre("virtio", "virtio_ring"));
}

TEST_F(ModuleClosureTest, DependenciesComeFirst) {
  const auto result = closure(modules_folder(), {{.name = "virtio_net"}});
  EXPECT_THAT(names(result), ElementsAre("failover", "net_failover", "virtio_net"));
  EXPECT_EQ(result->load_order[2].host_path, path("m/kernel/drivers/net/virtio_net.ko.xz"));
  EXPECT_EQ(result->load_order[2].needed_by, "");
  EXPECT_EQ(result->load_order[1].needed_by, "virtio_net");
}

TEST_F(ModuleClosureTest, HyphenAndUnderscoreAreEqualAndSoftdepsAreTaken) {
  EXPECT_THAT(names(closure(modules_folder(), {{.name = "virtio_console"}})),
              ElementsAre("helper", "virtio_console", "b", "a"));
  EXPECT_THAT(names(closure(modules_folder(), {{.name = "virtio-console"}})),
              ElementsAre("helper", "virtio_console", "b", "a"));
}

TEST_F(ModuleClosureTest, CyclesEnd) {
  EXPECT_THAT(names(closure(modules_folder(), {{.name = "a"}})), ElementsAre("b", "a"));
}

TEST_F(ModuleClosureTest, AMissingDriverNamesModuleOptionAndFolder) {
  const auto result = closure(modules_folder(), {{.name = "virtio_mmio"}});
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), ErrorCode::kKernelLacks);
  EXPECT_EQ(message(result),
            fmt::format("the kernel lacks the driver virtio_mmio: it is not built in and not in '{}'; "
                        "it needs CONFIG_VIRTIO_MMIO=y or =m",
                        path("m")));
  EXPECT_THAT(message(closure(modules_folder(), {{.name = "serial", .option = "CONFIG_SERIAL_8250"}}, 'm')),
              HasSubstr("(CONFIG_SERIAL_8250=m)"));
}

TEST_F(ModuleClosureTest, ADependencyWithoutFileIsNamed) {
  const std::string folder = modules_folder();
  fs::remove(path("m/kernel/net/core/failover.ko.xz"));
  EXPECT_THAT(message(closure(folder, {{.name = "virtio_net"}})),
              HasSubstr("lacks the module failover, which net_failover depends on"));
}

TEST_F(ModuleClosureTest, WithoutFolderTheConfigDecides) {
  for (const std::string& folder : {std::string(), folder_without_lists()}) {
    EXPECT_THAT(closure(folder, {{.name = "virtio_pci"}}, 'y')->built_in, ElementsAre("virtio_pci"));
    EXPECT_THAT(closure(folder, {{.name = "virtio_pci"}})->assumed_built_in, ElementsAre("virtio_pci"));
    const auto module = closure(folder, {{.name = "virtio_pci"}}, 'm');
    EXPECT_THAT(message(module), HasSubstr("CONFIG_VIRTIO_PCI=m), but its modules were not found"));
    EXPECT_EQ(module.error().code(), ErrorCode::kKernelLacks);
    EXPECT_THAT(message(closure(folder, {{.name = "virtio_pci"}}, 'n')),
                HasSubstr("needs CONFIG_VIRTIO_PCI=y"));
  }
  EXPECT_THAT(module_closure("", std::vector<WantedModule>{{.name = "x"}}, {})->assumed_built_in,
              ElementsAre("x"));
}

TEST_F(ModuleClosureTest, DamagedListsAreRefused) {
  write("bad/modules.dep", "kernel/a.ko\n");
  EXPECT_EQ(closure(path("bad"), {{.name = "a"}}).error().code(), ErrorCode::kUsage);
  write("bad/modules.dep", "../../etc/shadow.ko:\n");
  EXPECT_THAT(message(closure(path("bad"), {{.name = "shadow"}})), HasSubstr("run depmod"));
  write("bad/modules.dep", "/etc/shadow.ko:\n");
  EXPECT_FALSE(closure(path("bad"), {{.name = "shadow"}}));
}

TEST_F(ModuleClosureTest, EndlessChainsAreRefused) {
  std::string dep;
  for (int i = 0; i < 1000; ++i) {
    dep += fmt::format("m{}.ko: m{}.ko\n", i, i + 1);
    write(fmt::format("deep/m{}.ko", i), "");
  }
  write("deep/modules.dep", dep);
  EXPECT_THAT(message(closure(path("deep"), {{.name = "m0"}})), HasSubstr("more than 64 links"));
}

TEST_F(ModuleClosureTest, ABuildTreeIsReadFromTheModulesThemselves) {
  // modules.order in its three historical forms.
  write("tree/modules.order", "drivers/virtio/virtio-thing.o\nlib/base.ko\nkernel/lib/soft.ko\n");
  write("tree/modules.builtin", "kernel/drivers/virtio/virtio.ko\n");
  make_module("tree/drivers/virtio/virtio-thing.ko",
              "name=virtio_thing\\0depends=base,virtio\\0softdep=pre: soft none");
  make_module("tree/lib/base.ko", "name=base\\0depends=");
  make_module("tree/lib/soft.ko", "name=soft");
  EXPECT_THAT(names(closure(path("tree"), {{.name = "virtio_thing"}})),
              ElementsAre("soft", "base", "virtio_thing"));
  fs::remove(path("tree/lib/base.ko"));
  EXPECT_THAT(message(closure(path("tree"), {{.name = "virtio_thing"}})), HasSubstr("make modules"));
}

TEST_F(ModuleClosureTest, CompressedModulesBecomePlain) {
  const std::string plain = read_all(make_module("plain.ko", "name=x"));
  for (const auto& [suffix, tool] : {std::pair(".xz", "xz -c --check=crc32"), std::pair(".gz", "gzip -c"),
                                     std::pair(".zst", "zstd -q -c")}) {
    const std::string file = path("x.ko" + std::string(suffix));
    if (run(fmt::format("{} < {} > {}", tool, path("plain.ko"), file)).status != 0) continue;
    const auto content = read_module(file);
    ASSERT_TRUE(content) << content.error().to_string();
    EXPECT_EQ(*content, plain) << suffix;
    write("short.ko" + std::string(suffix), read_all(file).substr(0, 60));
    EXPECT_FALSE(read_module(path("short.ko" + std::string(suffix)))) << suffix;
  }
  EXPECT_EQ(read_module(path("nothing.ko")).error().code(), ErrorCode::kUsage);
  EXPECT_FALSE(read_module(write("text.ko", "text")));
  EXPECT_FALSE(read_module(write("text.ko.xz", "text")));
  EXPECT_FALSE(read_module(write("empty.ko.gz", "")));
}

TEST_F(ModuleClosureTest, PackedModulesSortByLoadOrder) {
  make_module("tree/lib/base.ko", "name=base");
  make_module("tree/top.ko", "name=top\\0depends=base");
  write("tree/modules.order", "top.ko\nlib/base.ko\n");
  const auto result = closure(path("tree"), {{.name = "top"}});
  ASSERT_TRUE(result) << result.error().to_string();
  InitramfsBuilder builder;
  ASSERT_TRUE(pack_modules(*result, builder));
  std::vector<std::string> packed;
  for (const InitramfsEntry& entry : builder.entries()) {
    if (entry.type == InitramfsEntryType::kFile) packed.push_back(entry.guest_path);
  }
  EXPECT_THAT(packed, ElementsAre("/lib/modules/ktstr/00-base.ko", "/lib/modules/ktstr/01-top.ko"));
}

TEST_F(ModuleClosureTest, NamesComeFromPaths) {
  EXPECT_EQ(module_name("kernel/drivers/char/virtio-console.ko.xz"), "virtio_console");
  EXPECT_EQ(module_name("a.ko"), "a");
  EXPECT_EQ(module_name("drivers/b-c.o"), "b_c");
  EXPECT_EQ(module_name("README"), "");
}

// KTSTR_TEST_KERNEL_72 names the modules folder, the unpacked package, or the image inside it, of the
// packaged 7.2 kernel.
TEST_F(ModuleClosureTest, PackagedKernel) {
  const char* given = std::getenv("KTSTR_TEST_KERNEL_72");
  if (given == nullptr) GTEST_SKIP() << "KTSTR_TEST_KERNEL_72 is not set";
  fs::path start = fs::is_directory(given) ? fs::path(given) : fs::path(given).parent_path();
  std::string folder;
  if (fs::exists(start / "modules.dep")) {
    folder = start.string();
  } else {
    for (const auto& entry : fs::recursive_directory_iterator(start)) {
      if (entry.path().filename() == "modules.dep") folder = entry.path().parent_path().string();
    }
  }
  if (folder.empty()) GTEST_SKIP() << "no modules.dep below " << start;
  const auto drivers =
      closure(folder, {{.name = "virtio_pci"}, {.name = "virtio_console"}, {.name = "virtio_net"}});
  ASSERT_TRUE(drivers) << drivers.error().to_string();
  EXPECT_THAT(drivers->built_in, ElementsAre("virtio_pci", "virtio_console"));
  EXPECT_EQ(drivers->load_order.back().name, "virtio_net");
  InitramfsBuilder builder;
  const auto packed = pack_modules(*drivers, builder);
  EXPECT_TRUE(packed) << packed.error().to_string();
  // The modules themselves say the same as modules.dep.
  const auto info = read_module_info(drivers->load_order.back().host_path);
  ASSERT_TRUE(info) << info.error().to_string();
  for (const std::string& dependency : info->depends) {
    EXPECT_TRUE(std::ranges::any_of(drivers->load_order, [&](const ModuleFile& module) {
      return module.name == dependency;
    })) << dependency;
  }
}

}  // namespace
}  // namespace ktstr::test
