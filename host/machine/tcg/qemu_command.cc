#include "host/machine/tcg/qemu_command.h"

#include <fmt/core.h>

#include "host/machine/tcg/pc_memory.h"

namespace ktstr {
namespace {

class Arguments {
 public:
  explicit Arguments(std::string argv0) { argv_.push_back(std::move(argv0)); }
  void add(std::string flag) { argv_.push_back(std::move(flag)); }
  void add(std::string flag, std::string value) {
    argv_.push_back(std::move(flag));
    argv_.push_back(std::move(value));
  }
  std::vector<std::string> take() { return std::move(argv_); }

 private:
  std::vector<std::string> argv_;
};

// Nothing that was not asked for: no default devices, no user configuration, no network, no window. The
// sandbox is seccomp: QEMU may not spawn processes, change its ids or its scheduling.
void add_confinement(Arguments& args) {
  args.add("-no-user-config");
  args.add("-nodefaults");
  args.add("-display", "none");
  args.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
}

// EPYC: no PTI, and no ERMS, whose `rep stosb` the emulator executes byte by byte. smm, vmport and hpet only
// cost boot time.
//
// Each LLC is a socket: QEMU's tcg cannot offer AMD's TOPOEXT, and without it the kernel takes the package
// for the domain of the last-level cache, whatever dies there are.
void add_cpus(Arguments& args, const BootSpec& spec, bool single_thread) {
  const CpuTopology& topology = spec.topology;
  const bool one_thread = single_thread || spec.deterministic;
  args.add("-accel", fmt::format("tcg,thread={}", one_thread ? "single" : "multi"));
  std::string cpu = "EPYC";
  for (const std::string& flag : spec.cpu_flags) cpu += "," + flag;
  args.add("-cpu", cpu);
  args.add("-smp", fmt::format("cpus={},sockets={},cores={},threads={}", topology.cpus(), topology.llcs,
                               topology.cores_per_llc, topology.threads_per_core));
}

// Nodes with their CPUs, if they have any, and distances. A pair's distance is given once and counts in both
// directions.
void add_nodes(Arguments& args, const CpuTopology& topology) {
  const std::uint32_t per_llc = topology.cores_per_llc * topology.threads_per_core;
  for (std::uint32_t node = 0; node < topology.numa_nodes; ++node) {
    const std::uint32_t first = first_llc(topology, node) * per_llc;
    const std::uint32_t end = first_llc(topology, node + 1) * per_llc;
    const std::string cpus = first == end ? "" : fmt::format(",cpus={}-{}", first, end - 1);
    args.add("-numa", fmt::format("node,nodeid={},memdev=ram{}{}", node, node, cpus));
  }
  if (topology.distances.empty()) return;
  for (std::uint32_t from = 0; from < topology.numa_nodes; ++from) {
    for (std::uint32_t to = from + 1; to < topology.numa_nodes; ++to) {
      args.add("-numa",
               fmt::format("dist,src={},dst={},val={}", from, to, node_distance(topology, from, to)));
    }
  }
}

void add_memory(Arguments& args, const BootSpec& spec) {
  const std::uint32_t nodes = spec.topology.numa_nodes;
  const auto sizes = node_memory(spec.topology, spec.memory_bytes).value();  // checked: check_pc_limits
  const std::string machine = "pc,smm=off,vmport=off,hpet=off";
  args.add("-M", nodes == 1 ? machine + ",memory-backend=ram0" : machine);
  args.add("-m", fmt::format("{}M", spec.memory_bytes / kMiB));
  std::uint64_t offset = 0;
  for (std::uint32_t node = 0; node < nodes; ++node) {
    const std::string size = fmt::format("memory-backend-file,id=ram{},size={}M", node, sizes[node] / kMiB);
    if (spec.snapshot) {
      // The file is opened for reading, and mapped so that what the guest writes is QEMU's own.
      args.add("-object", fmt::format("{},share=off,readonly=on,rom=off,offset={},mem-path={}", size, offset,
                                      fd_path(QemuFd::kFirstMemory)));
      offset += sizes[node];
    } else {
      args.add("-object", fmt::format("{},share=on,mem-path={}", size,
                                      fd_path(QemuFd::kFirstMemory + static_cast<int>(node))));
    }
  }
  if (nodes > 1) add_nodes(args, spec.topology);
}

// Time is what the guest has executed. sleep=off: a guest with nothing to do gets its next timer at once,
// instead of waiting for the host's clock, and every run takes the same course. The date starts at a fixed
// day on that clock.
void add_clock(Arguments& args, const DeterministicClock& clock) {
  args.add("-icount", fmt::format("shift={},sleep=off", clock.shift));
  args.add("-seed", fmt::format("{}", clock.seed));
  args.add("-rtc", "base=2026-01-01T00:00:00,clock=vm");
  // With sleep=off QEMU moves the clock to the next timer whenever no vCPU can run, and a vCPU that has
  // stopped at a trap counts as one that cannot until the main loop gets to stopping the machine
  // (util/main-loop.c: main_loop_wait() looks at the clock first). A guest whose tick is due and not yet
  // taken may have no timer but the date's alarm, a day away. So there is always one within 4 ms: of a filter
  // on a network of nothing, which the guest does not see.
  constexpr int kBeatMicroseconds = 4000;
  args.add("-netdev", "hubport,id=beat,hubid=0");
  args.add("-object", fmt::format("filter-buffer,id=beat-timer,netdev=beat,interval={}", kBeatMicroseconds));
}

// The serial console is a pipe and not a socket: QEMU writes it byte by byte, and a socket's buffer holds
// only a few hundred one-byte messages, after which the guest waits for us.
void add_ports(Arguments& args, bool deterministic) {
  args.add("-chardev", fmt::format("socket,id=qmp,fd={}", static_cast<int>(QemuFd::kQmp)));
  args.add("-mon", "chardev=qmp,mode=control");
  // For traps (guest_traps.h). A stub that has nothing to do costs nothing.
  args.add("-chardev", fmt::format("socket,id=gdb,fd={}", static_cast<int>(QemuFd::kGdb)));
  args.add("-gdb", "chardev:gdb");
  args.add("-chardev", fmt::format("file,id=serial,path={}", fd_path(QemuFd::kSerial)));
  args.add("-serial", "chardev:serial");
  if (deterministic) {
    args.add("-chardev", fmt::format("file,id=frames,path={}", fd_path(QemuFd::kFrames)));
    args.add("-device", "isa-debugcon,iobase=0xe9,chardev=frames");
    return;
  }
  args.add("-chardev", fmt::format("socket,id=hvc,fd={}", static_cast<int>(QemuFd::kHvc)));
  args.add("-chardev", fmt::format("socket,id=frames,fd={}", static_cast<int>(QemuFd::kFrames)));
  args.add("-device", "virtio-serial-pci,id=ports");
  args.add("-device", "virtconsole,bus=ports.0,chardev=hvc");
  args.add("-device", fmt::format("virtserialport,bus=ports.0,chardev=frames,name={}", kFramesPortName));
}

}  // namespace

std::string fd_path(int fd) {
  return fmt::format("/proc/self/fd/{}", fd);
}

std::vector<std::string> qemu_command(const BootSpec& spec, const QemuCommandOptions& options) {
  Arguments args(options.binary);
  for (const std::string& folder : options.firmware_folders) args.add("-L", folder);
  args.add("-name", "ktstr-vm,debug-threads=on");
  add_confinement(args);
  add_cpus(args, spec, options.single_thread);
  add_memory(args, spec);
  if (spec.deterministic) add_clock(args, *spec.deterministic);
  add_ports(args, spec.deterministic.has_value());
  // The guest does not run before we say so; and it does not vanish with its last bytes: a reset is a
  // shutdown, and a shutdown leaves QEMU stopped until we have read everything.
  args.add("-S");
  if (spec.snapshot) args.add("-incoming", "defer");
  args.add("-action", "reboot=shutdown,shutdown=pause");
  args.add("-kernel", fd_path(QemuFd::kKernel));
  if (spec.initramfs) args.add("-initrd", fd_path(QemuFd::kInitramfs));
  args.add("-append", options.command_line);
  return args.take();
}

}  // namespace ktstr
