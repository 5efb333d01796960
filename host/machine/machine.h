// Machine: one virtual machine, whatever runs it. Everything above host/machine is the same for all kinds.
//
// Life: create -> start -> (pause -> resume)* -> stop. A Machine belongs to one event loop
// (boost::asio::io_context); all calls and all callbacks are on the thread that runs the loop, except where a
// function says otherwise. Destroying a Machine stops it and leaves nothing behind: no process, no file, no
// descriptor.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/error.h"
#include "common/unique_fd.h"
#include "host/machine/frame_link.h"
#include "host/machine/kernel_command_line.h"
#include "host/machine/topology.h"

namespace ktstr {

// A clock that counts the guest's instructions in place of the host's time.
struct DeterministicClock {
  std::uint32_t shift = 2;  // an instruction takes 2^shift ns of guest time; 0 to 10
  std::uint64_t seed = 0;   // of the machine's random numbers
};

// A guest at rest: what Machine::save writes, and what a machine goes on from.
struct SnapshotFiles {
  UniqueFd ram;    // guest RAM, node after node; holes are zeros
  UniqueFd state;  // all else, in the machine's own format
};

// What a machine boots.
struct BootSpec {
  // The kernel: an ELF payload that is entered directly, or a bzImage that runs its own decompressor (needed
  // for KASLR). A read-only descriptor; the machine does not keep the path.
  UniqueFd kernel;
  bool kernel_is_elf = false;
  // Initial RAM file system; a sealed memfd.
  UniqueFd initramfs;
  std::uint64_t initramfs_size = 0;
  // What this project wants on the kernel command line, whatever the machine; the machine adds its own.
  std::vector<KernelArgument> kernel_arguments;
  // The user's kernel arguments. They win: join_kernel_arguments().
  std::string command_line;
  std::uint64_t memory_bytes = 0;
  CpuTopology topology;
  // Features that the CPU is to have, or not: "+la57", "-avx2", by the emulator's names. tcg only.
  std::vector<std::string> cpu_flags;
  // CONFIG_HZ of the kernel, 0 when not known. With it a machine can tell the kernel its delay-loop
  // calibration.
  std::uint32_t kernel_hz = 0;
  // The guest goes on from here in place of booting: one that a machine of the same kind and version has
  // saved, with the same topology, memory, CPU flags, kernel and command line. The files are only read; `ram`
  // must not change as long as the machine lives.
  std::optional<SnapshotFiles> snapshot;
  // The guest is to be a function of its inputs and the seed; only a tcg machine can do that. Nothing enters
  // such a guest after its start: its FrameLink cannot send.
  std::optional<DeterministicClock> deterministic;
};

// A range of guest-physical addresses backed by RAM.
struct RamRegion {
  std::uint64_t gpa = 0;      // first guest-physical address
  std::span<std::byte> host;  // where it is mapped; valid until Machine::stop
  // The process that has it mapped there, a child of ours; 0: this one. A clone's RAM is private to its
  // emulator.
  pid_t process = 0;
};

// General registers of one vCPU, valid while paused.
struct VcpuRegisters {
  std::uint64_t rax = 0, rbx = 0, rcx = 0, rdx = 0, rsi = 0, rdi = 0, rbp = 0, rsp = 0;
  std::uint64_t r8 = 0, r9 = 0, r10 = 0, r11 = 0, r12 = 0, r13 = 0, r14 = 0, r15 = 0;
  std::uint64_t rip = 0, rflags = 0;
  std::uint64_t cr0 = 0, cr2 = 0, cr3 = 0, cr4 = 0, efer = 0;
  std::uint64_t fs_base = 0, gs_base = 0, kernel_gs_base = 0;
  std::uint64_t idt_base = 0, gdt_base = 0;
  std::uint32_t idt_limit = 0, gdt_limit = 0;
  std::uint16_t cs = 0, ss = 0;
  std::optional<bool> halted;  // waits for an interrupt; nullopt where it is not known, as in cores
  bool operator==(const VcpuRegisters&) const = default;
};

// How the vCPUs stopped.
struct PauseReport {
  // Host time until all vCPUs were parked: from the request, or from the hit of a trap. 0 where the machine
  // cannot tell: QEMU says nothing of when a trap was hit, only that all vCPUs are parked.
  std::chrono::nanoseconds rendezvous{};
  // vCPUs that were not parked when the time limit ended; empty when all were.
  std::vector<std::uint32_t> missing;
  // For each of these: where it is, as far as can be told from outside.
  struct Whereabouts {
    std::string text;                  // "vCPU 1 is in KVM_RUN for 10.0 s (...)"; empty: nothing is known
    std::optional<std::uint64_t> rip;  // when it was last seen
  };
  std::vector<Whereabouts> missing_at = {};
  // For each vCPU: host time from the request (or the hit) until it was parked. nullopt where the machine
  // cannot tell; QEMU never can, it only says when the last one was parked.
  std::vector<std::optional<std::chrono::nanoseconds>> stopped_after;
  // What keeps the guest from seeing the pause on its clocks, for a reader: "kvmclock and the TSC, by its
  // offset". Empty: nothing does, or the machine does not say.
  std::string clock_held = {};
};

// Something the machine did by itself.
struct MachineEvent {
  enum class Kind {
    kPoweredOff,  // the guest switched itself off; the machine has ended
    kReset,       // the guest rebooted (with panic=-1 also after a panic); the machine has ended
    kPaused,      // stopped although nobody asked; only resume or stop make sense now
    kTrapped,     // a vCPU is about to execute the instruction at a trap; the machine is paused
    kWritten,     // a vCPU has written to a watched address (KvmMachine::set_watchpoints); it is paused
    kDied,        // the emulator or a vCPU failed; `detail` has its last words
  };
  Kind kind = Kind::kDied;
  std::string detail;
  // Of kTrapped and kWritten only:
  std::uint32_t cpu = 0;        // the vCPU at the trap, or that wrote
  std::uint64_t address = 0;    // of the trap, where the vCPU's rip is; or what was watched
  PauseReport pause = {};       // how the others stopped
  std::string trapped_by = {};  // what stopped it there, for a reader: "hardware breakpoint"
};

// Which console bytes came from.
enum class ConsolePort {
  kSerial,  // ttyS0: the kernel's console from the first message
  kHvc,     // hvc0: PID 1's terminal, up once virtio_console is there
};

// How a kvm machine stops a vCPU at an instruction.
enum class TrapKind {
  kBreakpoint,  // the CPU's debug registers
  kPort,        // an OUT in place of the nop that a kernel function begins with
};

// How many traps a machine can have at a time.
inline constexpr std::size_t kMaxTraps = 16;

// What a machine has counted since its start. What a kind of machine cannot know is empty or 0.
struct MachineStatistics {
  struct Counter {
    std::string name;
    std::uint64_t value = 0;
    bool operator==(const Counter&) const = default;
  };
  struct Vcpu {
    std::chrono::nanoseconds ran{};     // its thread was on a host CPU, guest and host code together
    std::chrono::nanoseconds waited{};  // its thread was runnable and had to wait for a host CPU
    // The hypervisor's counters by its own names, those that are 0 left out; times end in "_ns".
    std::vector<Counter> counters = {};
  };
  // When the first vCPU was about to enter the guest; nullopt: none was, or it is not known.
  std::optional<std::chrono::steady_clock::time_point> first_run;
  // How often vCPUs came back to this process, by who answered them: a device, "nobody", "trap", ...
  std::vector<Counter> exits;
  // By vCPU; a single one where one thread runs all of them.
  std::vector<Vcpu> vcpus;
};

class Machine {
 public:
  using ConsoleReceiver = std::function<void(ConsolePort, std::span<const std::byte>)>;
  using EventReceiver = std::function<void(const MachineEvent&)>;

  virtual ~Machine() = default;

  // "tcg" or "kvm".
  virtual std::string_view kind() const = 0;
  // The kernel command line: the machine's arguments and those of BootSpec, as far as the user's leave them,
  // and the user's.
  virtual const KernelCommandLine& command_line() const = 0;
  // Emulator path, version and full command line as the result records them; empty for kvm.
  struct Emulator {
    std::string path;
    std::string version;
    std::vector<std::string> argv;
  };
  virtual Emulator emulator() const = 0;
  // Things the user should know about this machine, e.g. "QEMU 7.2: one thread for all vCPUs".
  virtual std::vector<std::string> warnings() const = 0;

  virtual void set_console_receiver(ConsoleReceiver receiver) = 0;
  virtual void set_event_receiver(EventReceiver receiver) = 0;
  virtual FrameLink& frames() = 0;

  // Starts the guest. Errors: kHost (cannot start, not enough memory), kUsage (the image cannot be loaded).
  virtual Expected<void> start() = 0;
  // Stops every vCPU and waits until all are parked, at most `limit` of host time.
  virtual Expected<PauseReport> pause(std::chrono::nanoseconds limit) = 0;
  // Lets a paused guest go on; success when it runs already. After kTrapped the vCPU of that event first
  // executes the trapped instruction, alone; the trap stays.
  virtual Expected<void> resume() = 0;

  // Writes a paused guest to two empty files; it is still paused then and can go on. What it has written to
  // its ports may come to a clone's receivers as well, if it has not arrived yet. Gives the checksum of the
  // RAM file (SparseChecksum). Errors: kHost, and then the files are worthless; a guest that cannot be saved
  // (a deterministic one, a tcg clone, one of an emulator before QEMU 10) is kUsage.
  virtual Expected<std::string> save(const SnapshotFiles& files) = 0;
  // What a snapshot depends on besides BootSpec, command line and emulator.
  struct SnapshotTerms {
    std::uint32_t state_version = 0;          // of the format of SnapshotFiles::state
    std::map<std::string, std::string> host;  // what the guest sees of this host, by name: "CPU", "kernel"
  };
  virtual SnapshotTerms snapshot_terms() const { return {}; }

  // Replaces all traps: virtual addresses of instructions, in whatever address space, before which the guest
  // stops on any vCPU, with the event kTrapped. At most kMaxTraps different ones; none removes all.
  //   * Before start: they are in force from the first instruction. A deterministic guest wants them then,
  //     because any stop, and the hit of a trap too, changes its further course; a trap that is not hit does
  //     not.
  //   * On a running machine: it is stopped for an instant. On a paused one they are just set.
  //   * Each vCPU that comes to a trap has an event of its own, one at a time: when several stand at traps,
  //     the next one's comes after resume.
  //   * A hit while pause() was stopping the guest has its event after resume, unless its trap is removed
  //     meanwhile.
  //   * A kvm machine takes four at any instruction; the others have to be at entries of kernel functions
  //   that the function
  //     tracer can trace.
  // Errors: kHost. After an error on a machine that lives, some of the traps may be in force, old or new.
  virtual Expected<void> set_traps(std::vector<std::uint64_t> addresses) = 0;
  // Ends the guest at once. Idempotent.
  virtual void stop() = 0;

  // Guest RAM, ascending by address. Valid from start to stop.
  virtual std::vector<RamRegion> ram() const = 0;
  // Registers of vCPU `cpu` of a paused machine.
  virtual Expected<VcpuRegisters> registers(std::uint32_t cpu) = 0;

  // Host time the vCPUs have used, and host time they were runnable but had to wait for a host CPU (the
  // largest over the vCPUs), since start. A guard that subtracts the latter does not fail runs on an
  // overloaded host.
  struct VcpuTime {
    std::chrono::nanoseconds used{};
    std::chrono::nanoseconds waited{};
  };
  virtual VcpuTime vcpu_time() const = 0;

  // Any time from start to stop, whether the guest runs or not.
  virtual MachineStatistics statistics() const { return {}; }
};

}  // namespace ktstr
