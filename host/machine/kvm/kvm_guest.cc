#include "host/machine/kvm/kvm_guest.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cstring>

#include <fmt/core.h>

#include "common/units.h"
#include "common/xxh3.h"
#include "host/machine/host_cpus.h"
#include "host/machine/kvm/acpi/acpi_tables.h"
#include "host/machine/kvm/boot_params.h"
#include "host/machine/kvm/guest_layout.h"
#include "host/machine/kvm/kernel_loader.h"
#include "host/machine/kvm/kvm_state.h"
#include "host/machine/kvm/state_file.h"
#include "proto/kvm_state.pb.h"

namespace ktstr::kvm {
namespace {

constexpr std::uint64_t kMinMemory = 64 * kMiB;
constexpr std::uint64_t kMaxMemory = 512 * kGiB;
constexpr std::uint32_t kMaxFullChipApicId = 254;  // 255 is the broadcast address

// A guest's lines and their interrupts, by way of its VM. An entry that KVM does not take interrupts nobody,
// as on a real I/O APIC.
class VmMessages final : public MessageSink {
 public:
  explicit VmMessages(Vm& vm) : vm_(vm) {}
  void set_routes(std::span<const std::optional<InterruptMessage>> routes) override {
    [[maybe_unused]] const auto set = vm_.set_message_routes(routes);
  }
  void send(const InterruptMessage& message) override {
    [[maybe_unused]] const auto sent = vm_.send_message(message);
  }

 private:
  Vm& vm_;
};

class GuestBuilder {
 public:
  GuestBuilder(const BootSpec& spec, std::string_view command_line, const HostUse& host_use,
               const GuestCallbacks& callbacks)
      : spec_(spec), command_line_(command_line), host_use_(host_use), callbacks_(callbacks) {}

  // The boot sequence, and how a clone comes up.
  Expected<std::unique_ptr<KvmGuest>> build() {
    using Step = Expected<void> (GuestBuilder::*)();
    static constexpr Step kBoot[] = {&GuestBuilder::make_vm_and_memory, &GuestBuilder::check_vcpu_limits,
                                     &GuestBuilder::connect_memory,     &GuestBuilder::make_interrupt_chip,
                                     &GuestBuilder::load_kernel_files,  &GuestBuilder::place_memory,
                                     &GuestBuilder::write_acpi_tables,  &GuestBuilder::plug_in_serial,
                                     &GuestBuilder::plug_in_power,      &GuestBuilder::plug_in_console,
                                     &GuestBuilder::make_vcpus,         &GuestBuilder::collect_serial_writes};
    static constexpr Step kClone[] = {&GuestBuilder::read_snapshot,     &GuestBuilder::make_vm_and_memory,
                                      &GuestBuilder::check_vcpu_limits, &GuestBuilder::place_memory,
                                      &GuestBuilder::connect_memory,    &GuestBuilder::make_interrupt_chip,
                                      &GuestBuilder::plug_in_serial,    &GuestBuilder::plug_in_power,
                                      &GuestBuilder::plug_in_console,   &GuestBuilder::make_vcpus,
                                      &GuestBuilder::load_snapshot,     &GuestBuilder::collect_serial_writes};
    for (const Step step : spec_.snapshot ? std::span<const Step>(kClone) : std::span<const Step>(kBoot)) {
      if (auto done = (this->*step)(); !done) return std::unexpected(std::move(done.error()));
    }
    return std::move(guest_);
  }

 private:
  // First: a snapshot that does not fit costs nothing.
  Expected<void> read_snapshot() {
    const auto sizes = node_memory(spec_.topology, spec_.memory_bytes);
    if (!sizes) return std::unexpected(sizes.error());
    std::vector<std::uint32_t> ids;
    for (std::uint32_t cpu = 0; cpu < spec_.topology.cpus(); ++cpu)
      ids.push_back(apic_id(spec_.topology, cpu));
    auto fits = read_kvm_state(spec_.snapshot->state.get(), state_);
    if (fits) fits = check_kvm_state(state_, *sizes, ids, split_);
    return fits ? fits : refuse_snapshot(std::move(fits.error()));
  }

  // Whatever is wrong with a snapshot is wrong with this host's cache: the user has asked for nothing that
  // cannot be.
  static std::unexpected<Error> refuse_snapshot(Error&& error) {
    return propagate(std::move(error).with_code(ErrorCode::kHost), "loading a snapshot");
  }

  Expected<void> load_snapshot() {
    auto times = load_kvm_state(*guest_, state_);
    if (!times) return refuse_snapshot(std::move(times.error()));
    guest_->times = *std::move(times);
    // What was sent to the base is none of the clone's.
    guest_->console->drop_unread();
    return {};
  }

  Expected<void> make_vm_and_memory() {
    auto vm = Vm::create();
    if (!vm) return std::unexpected(std::move(vm.error()));
    auto sizes = node_memory(spec_.topology, spec_.memory_bytes);
    if (!sizes) return std::unexpected(std::move(sizes.error()));
    auto ram = spec_.snapshot ? GuestRam::create_from(spec_.snapshot->ram.get(), *sizes, host_use_.pages)
                              : GuestRam::create(*sizes, host_use_.pages);
    if (!ram && spec_.snapshot) return refuse_snapshot(std::move(ram.error()));
    if (!ram) return std::unexpected(std::move(ram.error()));
    guest_ = std::make_unique<KvmGuest>(*std::move(vm), *std::move(ram));
    // A vCPU that spins while it has nothing to do takes the CPU from one that has. Otherwise the host's
    // administrator knows better (kvm.halt_poll_ns).
    if (spec_.topology.cpus() > usable_host_cpus()) guest_->vm.stop_halt_polling();
    return {};
  }

  // Each node's memory to where its pinned vCPUs are; nothing where the host has one node anyway. Behind the
  // mapping of files, which replaces what is there.
  Expected<void> place_memory() {
    if (host_use_.vcpu_cpus.empty() || access("/sys/devices/system/node/node1", F_OK) != 0) return {};
    std::vector<CpuSet> host_cpus(spec_.topology.numa_nodes);
    for (std::uint32_t cpu = 0; cpu < spec_.topology.cpus(); ++cpu)
      host_cpus[cpu_place(spec_.topology, cpu).node].insert(host_use_.vcpu_cpus[cpu]);
    for (std::size_t node = 0; node < host_cpus.size(); ++node) {
      const CpuSet host_nodes = host_nodes_of(host_cpus[node]);
      if (host_nodes.empty()) continue;  // a node of memory alone
      // A guest runs with its memory elsewhere as well.
      if (auto placed = guest_->ram.prefer_host_nodes(node, host_nodes); !placed)
        guest_->warnings.push_back(placed.error().to_string());
    }
    return {};
  }

  Expected<void> connect_memory() {
    if (auto set = guest_->vm.set_memory(guest_->ram.regions()); !set) return set;
    return guest_->vm.set_reserved_pages();
  }

  Expected<void> make_interrupt_chip() {
    if (split_) plug_in_io_apic(*guest_);
    return guest_->vm.create_interrupt_chip(split_ ? Vm::Chip::kSplit : Vm::Chip::kFull);
  }

  Expected<void> load_kernel_files() {
    auto kernel = load_kernel(guest_->ram, spec_.kernel.get(), spec_.kernel_is_elf);
    if (!kernel) return std::unexpected(std::move(kernel.error()));
    entry_ = kernel->entry;
    write_entry_tables(guest_->ram);
    return write_boot_params(guest_->ram, *kernel,
                             {.command_line = command_line_,
                              .initramfs = spec_.initramfs.get(),
                              .initramfs_size = spec_.initramfs_size});
  }

  Expected<void> write_acpi_tables() {
    const AcpiPlan plan = {
        .topology = &spec_.topology,
        .ram = guest_->ram.pieces(),
        .virtio = {{.gpa = kVirtioMmioGpa, .size = kVirtioMmioSize, .gsi = kFirstVirtioGsi}}};
    const auto tables = make_acpi_tables(plan);
    if (!tables) return std::unexpected(tables.error());
    std::memcpy(guest_->ram.bytes(kAcpiGpa, tables->bytes.size()).data(), tables->bytes.data(),
                tables->bytes.size());
    return {};
  }

  Expected<void> plug_in_serial() {
    auto line = guest_->vm.create_interrupt_line(kSerialGsi);
    if (!line) return std::unexpected(std::move(line.error()));
    guest_->serial_line = *std::move(line);
    guest_->serial = std::make_unique<Serial16550>(*guest_->serial_line, callbacks_.attention);
    guest_->ports.add(kSerialPort, Serial16550::kPorts, *guest_->serial);
    return {};
  }

  Expected<void> plug_in_power() {
    guest_->i8042 = std::make_unique<I8042Reset>(callbacks_.reset);
    guest_->ports.add(kI8042Data, I8042Reset::kPorts, *guest_->i8042);
    guest_->acpi = std::make_unique<AcpiPower>(callbacks_.power_off, callbacks_.reset);
    guest_->ports.add(kAcpiSleepControl, AcpiPower::kPorts, *guest_->acpi);
    return {};
  }

  Expected<void> plug_in_console() {
    auto line = guest_->vm.create_interrupt_line(kFirstVirtioGsi);
    if (!line) return std::unexpected(std::move(line.error()));
    guest_->console_line = *std::move(line);
    guest_->console = std::make_unique<VirtioConsole>(std::vector<ConsolePortSpec>{
        {.name = "", .is_console = true}, {.name = kFramesPortName, .is_console = false}});
    guest_->console_registers = std::make_unique<VirtioMmio>(*guest_->console, guest_->ram_view,
                                                             *guest_->console_line, callbacks_.attention);
    guest_->memory_bus.add(kVirtioMmioGpa, VirtioMmio::kSize, *guest_->console_registers);
    guest_->console_doorbell.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!guest_->console_doorbell) return fail_errno(ErrorCode::kHost, "cannot make an eventfd");
    return guest_->vm.add_doorbell(kVirtioMmioGpa + VirtioMmio::kQueueNotify, guest_->console_doorbell.get());
  }

  // api.rst 4.7: a KVM that does not tell takes 4 vCPUs, and ids up to their number.
  Expected<void> check_vcpu_limits() {
    const auto limit = [this](int capability, std::uint32_t otherwise) {
      const int told = guest_->vm.capability(capability);
      return told > 0 ? static_cast<std::uint32_t>(told) : otherwise;
    };
    const std::uint32_t most = limit(KVM_CAP_MAX_VCPUS, limit(KVM_CAP_NR_VCPUS, 4));
    if (spec_.topology.cpus() > most) {
      return fail(ErrorCode::kHost, fmt::format("{} vCPUs are more than the {} that this host's KVM can have",
                                                spec_.topology.cpus(), most));
    }
    const std::uint32_t ids = limit(KVM_CAP_MAX_VCPU_ID, most);
    if (max_apic_id(spec_.topology) >= ids) {
      return fail(
          ErrorCode::kHost,
          fmt::format("APIC id {}, of the topology's last CPU, is beyond the {} that this host's KVM takes",
                      max_apic_id(spec_.topology), ids - 1));
    }
    return {};
  }

  Expected<void> make_vcpus() {
    const auto supported = guest_->vm.supported_cpuid();
    if (!supported) return std::unexpected(supported.error());
    const CpuTopology& topology = spec_.topology;
    const CpuidOptions options = {.realtime_hint = has_realtime_hint(topology, host_use_),
                                  .tsc_deadline = guest_->vm.capability(KVM_CAP_TSC_DEADLINE_TIMER) != 0,
                                  .msi_ext_dest_id = split_};
    guest_->vcpus.reserve(topology.cpus());
    for (std::uint32_t cpu = 0; cpu < topology.cpus(); ++cpu) {
      auto vcpu = Vcpu::create(guest_->vm, cpu, apic_id(topology, cpu));
      if (!vcpu) return std::unexpected(std::move(vcpu.error()));
      const auto cpuid = make_cpuid(*supported, topology, cpu, options);
      if (cpu == 0) guest_->cpuid_digest = Xxh3::hex_of(std::as_bytes(std::span(cpuid)));
      auto set = spec_.snapshot ? vcpu->set_cpuid(cpuid) : vcpu->set_up(cpuid, cpu == 0 ? entry_ : 0, split_);
      if (!set) return propagate(std::move(set.error()), fmt::format("setting up vCPU {}", cpu));
      guest_->statistics.emplace_back(vcpu->fd());
      guest_->vcpus.push_back(*std::move(vcpu));
    }
    return {};
  }

  // The transmit register: every other access of a kernel that prints, and 16 of 17 once somebody has opened
  // the port (serial8250_console_write() then fills the FIFO without a look at the line status before each
  // character).
  Expected<void> collect_serial_writes() {
    return guest_->coalesced.collect(guest_->vm, guest_->vcpus.front(), kSerialPort);
  }

  const BootSpec& spec_;
  std::string_view command_line_;
  const HostUse& host_use_;
  const GuestCallbacks& callbacks_;
  std::unique_ptr<KvmGuest> guest_;
  std::uint64_t entry_ = 0;
  const bool split_ = max_apic_id(spec_.topology) > kMaxFullChipApicId;
  v1::KvmState state_;  // of a clone
};

}  // namespace

bool has_realtime_hint(const CpuTopology& topology, const HostUse& host_use) {
  return !host_use.vcpu_cpus.empty() && topology.cpus() <= usable_host_cpus();
}

void plug_in_io_apic(KvmGuest& guest) {
  guest.messages = std::make_unique<VmMessages>(guest.vm);
  guest.io_apic = std::make_unique<IoApic>(*guest.messages);
  guest.memory_bus.add(kIoApicGpa, IoApic::kSize, *guest.io_apic);
}

Expected<std::unique_ptr<KvmGuest>> build_guest(const BootSpec& spec, std::string_view command_line,
                                                const HostUse& host_use, const GuestCallbacks& callbacks) {
  return GuestBuilder(spec, command_line, host_use, callbacks).build();
}

Expected<void> check_kvm_limits(const BootSpec& spec) {
  if (auto ok = check_topology(spec.topology); !ok) return ok;
  const std::uint64_t memory = spec.memory_bytes;
  if (memory < kMinMemory) {
    return fail(ErrorCode::kUsage, fmt::format("{} of memory are too little: the least is {}",
                                               format_size(memory), format_size(kMinMemory)));
  }
  if (memory % kMiB != 0)
    return fail(ErrorCode::kUsage, fmt::format("memory must be a whole number of MiB, not {} bytes", memory));
  if (memory > kMaxMemory) {
    return fail(ErrorCode::kHost,
                fmt::format("{} of memory are more than the {} that the kvm machine can have",
                            format_size(memory), format_size(kMaxMemory)));
  }
  if (auto sizes = node_memory(spec.topology, memory); !sizes) return std::unexpected(sizes.error());
  return {};
}

}  // namespace ktstr::kvm
