#include "host/machine/kvm/vm.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/core.h>

#include "host/machine/host_resources.h"
#include "host/machine/kvm/guest_layout.h"
#include "host/machine/kvm/kvm_call.h"
#include "host/machine/kvm/kvm_capabilities.h"
#include "host/machine/kvm/kvm_device.h"

namespace ktstr::kvm {
namespace {

class EventfdLine final : public InterruptLine {
 public:
  explicit EventfdLine(UniqueFd fd) : fd_(std::move(fd)) {}
  void trigger() override {
    constexpr std::uint64_t kOne = 1;
    // An eventfd that is full has an edge pending already.
    [[maybe_unused]] const ssize_t written = write(fd_.get(), &kOne, sizeof(kOne));
  }
  int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
};

}  // namespace

Expected<UniqueFd> open_kvm(std::vector<CapabilityAnswer> (*ask)(int kvm)) {
  UniqueFd kvm(open(kDevicePath, O_RDWR | O_CLOEXEC));
  if (!kvm) {
    const DeviceFile device = look_at_device();
    const auto flags = host_cpu_flags();
    return std::unexpected(
        Error(ErrorCode::kHost, device_trouble(device))
            .with_detail(device_remedy(device, flags.contains("vmx"), flags.contains("svm"))));
  }
  const auto version = KVM_CALL(kvm.get(), KVM_GET_API_VERSION, 0);
  if (!version) return propagate(Error(version.error()), fmt::format("looking at {}", kDevicePath));
  if (*version != KVM_API_VERSION)
    return fail(ErrorCode::kHost,
                fmt::format("{} speaks API version {}, not {}", kDevicePath, *version, KVM_API_VERSION));
  if (auto ok = check_required(ask(kvm.get())); !ok) return std::unexpected(std::move(ok.error()));
  return kvm;
}

Expected<Vm> Vm::create(std::vector<CapabilityAnswer> (*ask)(int kvm)) {
  Vm vm;
  auto system = open_kvm(ask);
  if (!system) return std::unexpected(std::move(system.error()));
  vm.system_ = *std::move(system);
  const auto size = KVM_CALL(vm.system_.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
  if (!size) return std::unexpected(size.error());
  if (static_cast<std::size_t>(*size) < sizeof(kvm_run))
    return fail(ErrorCode::kHost, fmt::format("KVM shares only {} bytes of a vCPU", *size));
  vm.run_size_ = static_cast<std::size_t>(*size);
  auto made = KVM_CALL(vm.system_.get(), KVM_CREATE_VM, 0);
  if (!made) return std::unexpected(std::move(made.error()));
  vm.vm_.reset(*made);
  return vm;
}

int Vm::capability(int number) const {
  const int value = ioctl(vm_.get(), KVM_CHECK_EXTENSION, number);
  return value < 0 ? 0 : value;
}

Expected<void> Vm::set_memory(std::span<const RamRegion> regions) {
  std::uint32_t slot = 0;
  for (const RamRegion& region : regions) {
    kvm_userspace_memory_region memory = {};
    memory.slot = slot++;
    memory.guest_phys_addr = region.gpa;
    memory.memory_size = region.host.size();
    memory.userspace_addr = reinterpret_cast<std::uintptr_t>(region.host.data());
    if (auto set = KVM_CALL(vm_.get(), KVM_SET_USER_MEMORY_REGION, &memory); !set)
      return propagate(std::move(set.error()), fmt::format("giving the guest RAM at {:#x}", region.gpa));
  }
  return {};
}

Expected<void> Vm::set_reserved_pages() {
  std::uint64_t identity_map = kIdentityMapGpa;
  if (auto set = KVM_CALL(vm_.get(), KVM_SET_IDENTITY_MAP_ADDR, &identity_map); !set)
    return std::unexpected(std::move(set.error()));
  if (auto set = KVM_CALL(vm_.get(), KVM_SET_TSS_ADDR, std::uintptr_t{kTssGpa}); !set)
    return std::unexpected(std::move(set.error()));
  return {};
}

void Vm::stop_halt_polling() {
  if (capability(KVM_CAP_HALT_POLL) == 0) return;
  kvm_enable_cap poll = {};
  poll.cap = KVM_CAP_HALT_POLL;
  poll.args[0] = 0;  // ns, at most
  // A KVM that has the capability takes any number; and a guest runs with either.
  [[maybe_unused]] const auto set = KVM_CALL(vm_.get(), KVM_ENABLE_CAP, &poll);
}

Expected<void> Vm::create_interrupt_chip(Chip chip) {
  if (chip == Chip::kFull) {
    if (auto made = KVM_CALL(vm_.get(), KVM_CREATE_IRQCHIP, 0); !made)
      return std::unexpected(std::move(made.error()));
    kvm_pit_config pit = {};
    pit.flags = KVM_PIT_SPEAKER_DUMMY;
    if (auto made = KVM_CALL(vm_.get(), KVM_CREATE_PIT2, &pit); !made)
      return std::unexpected(std::move(made.error()));
    return {};
  }
  kvm_enable_cap split = {};
  split.cap = KVM_CAP_SPLIT_IRQCHIP;
  split.args[0] = kIoApicPins;
  if (auto made = KVM_CALL(vm_.get(), KVM_ENABLE_CAP, &split); !made)
    return propagate(std::move(made.error()), "splitting the interrupt chip (KVM_CAP_SPLIT_IRQCHIP)");
  kvm_enable_cap x2apic = {};
  x2apic.cap = KVM_CAP_X2APIC_API;
  x2apic.args[0] = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
  if (auto made = KVM_CALL(vm_.get(), KVM_ENABLE_CAP, &x2apic); !made)
    return propagate(std::move(made.error()), "asking for 32-bit APIC ids (KVM_CAP_X2APIC_API)");
  return {};
}

Expected<UniqueFd> Vm::create_vcpu(std::uint32_t id) {
  auto made = KVM_CALL(vm_.get(), KVM_CREATE_VCPU, std::uintptr_t{id});
  if (!made) return propagate(std::move(made.error()), fmt::format("making the vCPU with APIC id {}", id));
  return UniqueFd(*made);
}

Expected<std::vector<kvm_cpuid_entry2>> Vm::supported_cpuid() const {
  // The answer's size is not known before: E2BIG until it fits.
  for (std::uint32_t room = 128; room <= 4096; room *= 2) {
    std::vector<std::byte> bytes(kCountAndPadding + room * sizeof(kvm_cpuid_entry2));
    std::memcpy(bytes.data(), &room, sizeof(room));
    auto got = KVM_CALL(system_.get(), KVM_GET_SUPPORTED_CPUID, bytes.data());
    if (!got && got.error().errno_value() == E2BIG) continue;
    if (!got) return std::unexpected(std::move(got.error()));
    std::uint32_t count = 0;
    std::memcpy(&count, bytes.data(), sizeof(count));
    std::vector<kvm_cpuid_entry2> entries(std::min(count, room));
    std::memcpy(entries.data(), bytes.data() + kCountAndPadding, entries.size() * sizeof(kvm_cpuid_entry2));
    return entries;
  }
  return fail(ErrorCode::kHost, "KVM_GET_SUPPORTED_CPUID has more than 4096 entries");
}

Expected<std::vector<std::uint32_t>> Vm::msr_numbers() const {
  // E2BIG says how many there are.
  std::vector<std::uint32_t> list(1 + 1024);
  list[0] = 1024;
  if (auto got = KVM_CALL(system_.get(), KVM_GET_MSR_INDEX_LIST, list.data()); !got)
    return std::unexpected(std::move(got.error()));
  const std::size_t count = std::min<std::size_t>(list[0], list.size() - 1);
  return std::vector(list.begin() + 1, list.begin() + 1 + static_cast<std::ptrdiff_t>(count));
}

Expected<void> Vm::add_doorbell(std::uint64_t gpa, int eventfd) {
  kvm_ioeventfd doorbell = {};
  doorbell.addr = gpa;
  doorbell.len = 4;
  doorbell.fd = eventfd;
  if (auto set = KVM_CALL(vm_.get(), KVM_IOEVENTFD, &doorbell); !set)
    return std::unexpected(std::move(set.error()));
  return {};
}

Expected<std::unique_ptr<InterruptLine>> Vm::create_interrupt_line(std::uint32_t gsi) {
  UniqueFd fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd) return fail_errno(ErrorCode::kHost, "cannot make an eventfd");
  kvm_irqfd line = {};
  line.fd = static_cast<std::uint32_t>(fd.get());
  line.gsi = gsi;
  if (auto set = KVM_CALL(vm_.get(), KVM_IRQFD, &line); !set)
    return propagate(std::move(set.error()), fmt::format("connecting interrupt {}", gsi));
  return std::make_unique<EventfdLine>(std::move(fd));
}

Expected<void> Vm::set_message_routes(std::span<const std::optional<InterruptMessage>> routes) {
  std::vector<kvm_irq_routing_entry> entries;
  for (std::uint32_t gsi = 0; gsi < routes.size(); ++gsi) {
    if (!routes[gsi]) continue;
    kvm_irq_routing_entry& entry = entries.emplace_back();
    entry.gsi = gsi;
    entry.type = KVM_IRQ_ROUTING_MSI;
    entry.u.msi.address_lo = routes[gsi]->address_low;
    entry.u.msi.address_hi = routes[gsi]->address_high;
    entry.u.msi.data = routes[gsi]->data;
  }
  // struct kvm_irq_routing: a count, flags, the list.
  const auto count = static_cast<std::uint32_t>(entries.size());
  const std::span<const std::byte> list = std::as_bytes(std::span(entries));
  std::vector<std::byte> bytes(kCountAndPadding);
  std::memcpy(bytes.data(), &count, sizeof(count));
  bytes.insert(bytes.end(), list.begin(), list.end());
  if (auto set = KVM_CALL(vm_.get(), KVM_SET_GSI_ROUTING, bytes.data()); !set)
    return std::unexpected(std::move(set.error()));
  return {};
}

Expected<void> Vm::send_message(const InterruptMessage& message) {
  kvm_msi msi = {};
  msi.address_lo = message.address_low;
  msi.address_hi = message.address_high;
  msi.data = message.data;
  if (auto sent = KVM_CALL(vm_.get(), KVM_SIGNAL_MSI, &msi); !sent)
    return std::unexpected(std::move(sent.error()));
  return {};
}

Expected<kvm_clock_data> Vm::clock() const {
  kvm_clock_data data = {};
  if (auto got = KVM_CALL(vm_.get(), KVM_GET_CLOCK, &data); !got)
    return std::unexpected(std::move(got.error()));
  return data;
}

Expected<void> Vm::set_clock(std::uint64_t nanoseconds) {
  kvm_clock_data data = {};
  data.clock = nanoseconds;
  if (auto set = KVM_CALL(vm_.get(), KVM_SET_CLOCK, &data); !set)
    return std::unexpected(std::move(set.error()));
  return {};
}

}  // namespace ktstr::kvm
