#include "host/machine/tcg/qemu_command.h"

#include <fcntl.h>

#include <algorithm>

#include <gtest/gtest.h>

#include "host/machine/tcg/pc_memory.h"

namespace ktstr {
namespace {

BootSpec small_spec() {
  BootSpec spec;
  spec.kernel = UniqueFd(open("/dev/null", O_RDONLY | O_CLOEXEC));
  spec.initramfs = UniqueFd(open("/dev/null", O_RDONLY | O_CLOEXEC));
  spec.memory_bytes = 512 * kMiB;
  spec.topology = {.numa_nodes = 1, .llcs = 1, .cores_per_llc = 2, .threads_per_core = 1};
  return spec;
}

// All values that stand after `flag`.
std::vector<std::string> values(const std::vector<std::string>& argv, const std::string& flag) {
  std::vector<std::string> found;
  for (std::size_t i = 0; i + 1 < argv.size(); ++i) {
    if (argv[i] == flag) found.push_back(argv[i + 1]);
  }
  return found;
}

std::string value(const std::vector<std::string>& argv, const std::string& flag) {
  const auto found = values(argv, flag);
  return found.size() == 1 ? found[0] : "(" + std::to_string(found.size()) + " times)";
}

bool has(const std::vector<std::string>& argv, const std::string& word) {
  return std::find(argv.begin(), argv.end(), word) != argv.end();
}

TEST(QemuCommand, SmallMachine) {
  const auto argv = qemu_command(small_spec(), {.binary = "/q",
                                                .firmware_folders = {"/f/a", "/f/b"},
                                                .single_thread = false,
                                                .command_line = "console=ttyS0 a=b,c"});
  EXPECT_EQ(argv[0], "/q");
  EXPECT_EQ(values(argv, "-L"), (std::vector<std::string>{"/f/a", "/f/b"}));
  EXPECT_EQ(value(argv, "-accel"), "tcg,thread=multi");
  EXPECT_EQ(value(argv, "-M"), "pc,smm=off,vmport=off,hpet=off,memory-backend=ram0");
  EXPECT_EQ(value(argv, "-cpu"), "EPYC");
  EXPECT_EQ(value(argv, "-smp"), "cpus=2,sockets=1,cores=2,threads=1");
  EXPECT_EQ(value(argv, "-m"), "512M");
  EXPECT_EQ(value(argv, "-object"),
            "memory-backend-file,id=ram0,size=512M,share=on,mem-path=/proc/self/fd/11");
  EXPECT_EQ(value(argv, "-kernel"), "/proc/self/fd/7");
  EXPECT_EQ(value(argv, "-initrd"), "/proc/self/fd/8");
  EXPECT_EQ(value(argv, "-append"), "console=ttyS0 a=b,c");
  EXPECT_TRUE(values(argv, "-numa").empty());
}

TEST(QemuCommand, IsConfined) {
  const auto argv = qemu_command(small_spec(), {.binary = "/q"});
  for (const char* word : {"-nodefaults", "-no-user-config", "-S"}) EXPECT_TRUE(has(argv, word)) << word;
  EXPECT_EQ(value(argv, "-display"), "none");
  EXPECT_EQ(value(argv, "-sandbox"),
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
  for (const char* word : {"-netdev", "-nic", "-net", "-drive"}) EXPECT_FALSE(has(argv, word)) << word;
}

TEST(QemuCommand, AGuestThatEndsLeavesQemuStopped) {
  EXPECT_EQ(value(qemu_command(small_spec(), {.binary = "/q"}), "-action"), "reboot=shutdown,shutdown=pause");
}

TEST(QemuCommand, PortsAreInheritedDescriptors) {
  const auto argv = qemu_command(small_spec(), {.binary = "/q"});
  EXPECT_EQ(values(argv, "-chardev"),
            (std::vector<std::string>{"socket,id=qmp,fd=3", "socket,id=gdb,fd=9",
                                      "file,id=serial,path=/proc/self/fd/4", "socket,id=hvc,fd=5",
                                      "socket,id=frames,fd=6"}));
  EXPECT_EQ(value(argv, "-gdb"), "chardev:gdb");
  EXPECT_EQ(values(argv, "-device"),
            (std::vector<std::string>{"virtio-serial-pci,id=ports", "virtconsole,bus=ports.0,chardev=hvc",
                                      "virtserialport,bus=ports.0,chardev=frames,name=ktstr.frames"}));
}

TEST(QemuCommand, OneThreadForAllVcpus) {
  EXPECT_EQ(value(qemu_command(small_spec(), {.binary = "/q", .single_thread = true}), "-accel"),
            "tcg,thread=single");
}

TEST(QemuCommand, WithoutInitramfs) {
  BootSpec spec = small_spec();
  spec.initramfs.reset();
  EXPECT_FALSE(has(qemu_command(spec, {.binary = "/q"}), "-initrd"));
}

TEST(QemuCommand, EachLlcIsASocketAndEachNodeHasItsMemory) {
  BootSpec spec = small_spec();
  spec.memory_bytes = 1001 * kMiB;
  spec.topology = {.numa_nodes = 2, .llcs = 3, .cores_per_llc = 2, .threads_per_core = 2};
  const auto argv = qemu_command(spec, {.binary = "/q"});
  EXPECT_EQ(value(argv, "-smp"), "cpus=12,sockets=3,cores=2,threads=2");
  EXPECT_EQ(value(argv, "-M"), "pc,smm=off,vmport=off,hpet=off");
  EXPECT_EQ(value(argv, "-m"), "1001M");
  EXPECT_EQ(
      values(argv, "-object"),
      (std::vector<std::string>{"memory-backend-file,id=ram0,size=500M,share=on,mem-path=/proc/self/fd/11",
                                "memory-backend-file,id=ram1,size=501M,share=on,mem-path=/proc/self/fd/12"}));
  EXPECT_EQ(values(argv, "-numa"), (std::vector<std::string>{"node,nodeid=0,memdev=ram0,cpus=0-3",
                                                             "node,nodeid=1,memdev=ram1,cpus=4-11"}));
}

TEST(QemuCommand, NodesOfDifferentSizeDistancesAndANodeWithoutCpus) {
  BootSpec spec = small_spec();
  spec.memory_bytes = 1024 * kMiB;
  spec.topology = {.numa_nodes = 3, .llcs = 3, .cores_per_llc = 2, .threads_per_core = 1};
  spec.topology.nodes.resize(3);
  spec.topology.nodes[0].llcs = 1;
  spec.topology.nodes[0].memory_bytes = 512 * kMiB;
  spec.topology.nodes[1].llcs = 2;
  spec.topology.nodes[2].memory_bytes = 256 * kMiB;
  spec.topology.distances = {10, 21, 30, 21, 10, 40, 30, 40, 10};
  const auto argv = qemu_command(spec, {.binary = "/q"});
  EXPECT_EQ(
      values(argv, "-object"),
      (std::vector<std::string>{"memory-backend-file,id=ram0,size=512M,share=on,mem-path=/proc/self/fd/11",
                                "memory-backend-file,id=ram1,size=256M,share=on,mem-path=/proc/self/fd/12",
                                "memory-backend-file,id=ram2,size=256M,share=on,mem-path=/proc/self/fd/13"}));
  EXPECT_EQ(
      values(argv, "-numa"),
      (std::vector<std::string>{"node,nodeid=0,memdev=ram0,cpus=0-1", "node,nodeid=1,memdev=ram1,cpus=2-5",
                                "node,nodeid=2,memdev=ram2", "dist,src=0,dst=1,val=21",
                                "dist,src=0,dst=2,val=30", "dist,src=1,dst=2,val=40"}));
}

TEST(QemuCommand, ADeterministicMachineHasNoClockButItsOwnAndNothingThatTheHostsLoopServes) {
  BootSpec spec = small_spec();
  spec.deterministic = DeterministicClock{.shift = 3, .seed = 18446744073709551615U};
  const auto argv = qemu_command(spec, {.binary = "/q"});
  EXPECT_EQ(value(argv, "-accel"), "tcg,thread=single");
  EXPECT_EQ(value(argv, "-icount"), "shift=3,sleep=off");
  EXPECT_EQ(value(argv, "-seed"), "18446744073709551615");
  EXPECT_EQ(value(argv, "-rtc"), "base=2026-01-01T00:00:00,clock=vm");
  EXPECT_EQ(value(argv, "-netdev"), "hubport,id=beat,hubid=0");
  EXPECT_EQ(values(argv, "-device"), (std::vector<std::string>{"isa-debugcon,iobase=0xe9,chardev=frames"}));
  EXPECT_EQ(values(argv, "-chardev"), (std::vector<std::string>{"socket,id=qmp,fd=3", "socket,id=gdb,fd=9",
                                                                "file,id=serial,path=/proc/self/fd/4",
                                                                "file,id=frames,path=/proc/self/fd/6"}));
}

TEST(QemuCommand, AnOrdinaryMachineHasTheHostsClock) {
  const auto argv = qemu_command(small_spec(), {.binary = "/q"});
  for (const char* word : {"-icount", "-seed", "-rtc", "-netdev"}) EXPECT_FALSE(has(argv, word)) << word;
}

TEST(QemuCommand, ACloneMapsTheNodesOfOneFilePrivatelyAndWaitsForItsState) {
  BootSpec spec = small_spec();
  spec.topology = {.numa_nodes = 2, .llcs = 2, .cores_per_llc = 1, .threads_per_core = 1};
  spec.snapshot.emplace();
  const auto argv = qemu_command(
      spec, {.binary = "/q", .firmware_folders = {}, .single_thread = false, .command_line = ""});
  EXPECT_EQ(values(argv, "-object"),
            (std::vector<std::string>{"memory-backend-file,id=ram0,size=256M,share=off,readonly=on,rom=off,"
                                      "offset=0,mem-path=/proc/self/fd/11",
                                      "memory-backend-file,id=ram1,size=256M,share=off,readonly=on,rom=off,"
                                      "offset=268435456,mem-path=/proc/self/fd/11"}));
  EXPECT_EQ(value(argv, "-incoming"), "defer");
  EXPECT_TRUE(has(argv, "-S"));
}

}  // namespace
}  // namespace ktstr
