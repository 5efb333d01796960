#include "tests/unit/machine/kvm/tiny_guest.h"

#include <sys/eventfd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <ostream>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "host/machine/kvm/boot_params.h"
#include "host/machine/kvm/guest_layout.h"
#include "host/machine/kvm/kvm_call.h"
#include "host/machine/kvm/kvm_device.h"

namespace ktstr::kvm::tiny {
namespace {

constexpr auto kPatience = 20s;

// A set-up that fails is no result of a test.
template <typename T>
T must(Expected<T> value) {
  if (!value) throw std::runtime_error(value.error().to_string() + "\n" + value.error().detail());
  if constexpr (!std::is_void_v<T>) return *std::move(value);
}

}  // namespace

std::string no_kvm() {
  return device_trouble(look_at_device());
}

TinyGuest::TinyGuest(const TinyOptions& options) {
  const std::uint64_t node = kTinyRam;
  guest = std::make_unique<KvmGuest>(must(Vm::create()),
                                     must(GuestRam::create(std::span(&node, 1), RamPages::kNormal)));
  must(guest->vm.set_memory(guest->ram.regions()));
  must(guest->vm.set_reserved_pages());
  must(guest->vm.create_interrupt_chip(options.split_chip ? Vm::Chip::kSplit : Vm::Chip::kFull));
  if (options.split_chip) plug_in_io_apic(*guest);
  write_entry_tables(guest->ram);
  plug_in_devices();
  make_vcpus(options);
}

TinyGuest::~TinyGuest() {
  if (!threads || threads->end()) return;
  // A vCPU's thread has not come back: what it uses stays.
  // Where the leak detector finds it.
  static auto& left = *new std::vector<std::tuple<decltype(threads), decltype(exits), decltype(guest)>>;
  left.emplace_back(std::move(threads), std::move(exits), std::move(guest));
}

void TinyGuest::plug_in_devices() {
  const auto ended = [this](GuestEnd end) {
    const std::lock_guard lock(mutex_);
    ends_.push_back({.cpu = 0, .end = end, .detail = ""});
    changed_.notify_all();
  };
  const auto power_off = [ended] { ended(GuestEnd::kPoweredOff); };
  const auto reset = [ended] { ended(GuestEnd::kReset); };
  guest->serial_line = must(guest->vm.create_interrupt_line(kSerialGsi));
  guest->serial = std::make_unique<Serial16550>(*guest->serial_line, [] {});
  guest->ports.add(kSerialPort, Serial16550::kPorts, *guest->serial);
  guest->i8042 = std::make_unique<I8042Reset>(reset);
  guest->ports.add(kI8042Data, I8042Reset::kPorts, *guest->i8042);
  guest->acpi = std::make_unique<AcpiPower>(power_off, reset);
  guest->ports.add(kAcpiSleepControl, AcpiPower::kPorts, *guest->acpi);
  guest->console_line = must(guest->vm.create_interrupt_line(kFirstVirtioGsi));
  guest->console = std::make_unique<VirtioConsole>(std::vector<ConsolePortSpec>{
      {.name = "", .is_console = true}, {.name = kFramesPortName, .is_console = false}});
  guest->console_registers =
      std::make_unique<VirtioMmio>(*guest->console, guest->ram_view, *guest->console_line, [] {});
  guest->memory_bus.add(kVirtioMmioGpa, VirtioMmio::kSize, *guest->console_registers);
  guest->console_doorbell.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  must(guest->vm.add_doorbell(kVirtioMmioGpa + VirtioMmio::kQueueNotify, guest->console_doorbell.get()));
}

void TinyGuest::make_vcpus(const TinyOptions& options) {
  const auto cpuid = must(guest->vm.supported_cpuid());
  guest->vcpus.reserve(options.vcpus);
  for (std::uint32_t cpu = 0; cpu < options.vcpus; ++cpu) {
    Vcpu& vcpu = guest->vcpus.emplace_back(must(Vcpu::create(guest->vm, cpu, cpu * options.apic_id_step)));
    const bool runs = cpu == 0 || !options.wait_for_start;
    must(vcpu.set_up(cpuid, runs ? kCode : 0, options.split_chip));
    if (!runs) continue;
    kvm_regs regs = must(vcpu.general_registers());
    regs.rsp = regs.rbp = kStacks + (cpu + 1) * 0x1000;
    regs.rdi = cpu;
    must(vcpu.set_general_registers(regs));
    kvm_mp_state state = {.mp_state = KVM_MP_STATE_RUNNABLE};
    must(KVM_CALL(vcpu.fd(), KVM_SET_MP_STATE, &state));
  }
}

void TinyGuest::put(std::uint64_t gpa, const std::vector<std::uint8_t>& bytes) {
  const auto to = guest->ram.bytes(gpa, bytes.size());
  if (to.size() != bytes.size()) throw std::runtime_error("no RAM for the program");
  std::memcpy(to.data(), bytes.data(), bytes.size());
}

std::uint64_t TinyGuest::number_at(std::uint64_t gpa) {
  return __atomic_load_n(reinterpret_cast<std::uint64_t*>(guest->ram.bytes(gpa, 8).data()), __ATOMIC_ACQUIRE);
}

void TinyGuest::set_number(std::uint64_t gpa, std::uint64_t value) {
  __atomic_store_n(reinterpret_cast<std::uint64_t*>(guest->ram.bytes(gpa, 8).data()), value,
                   __ATOMIC_RELEASE);
}

void TinyGuest::start(FirstHandler first, const VcpuThreadOptions& options) {
  first_ = std::move(first);
  exits = std::make_unique<VcpuExits>(
      *guest, traps,
      ExitCallbacks{.ended =
                        [this](std::uint32_t cpu, GuestEnd end, std::string detail) {
                          const std::lock_guard lock(mutex_);
                          ends_.push_back({.cpu = cpu, .end = end, .detail = std::move(detail)});
                          changed_.notify_all();
                        },
                    .trapped =
                        [this](std::uint32_t cpu, const TrapHit& hit) {
                          threads->hold();
                          const std::lock_guard lock(mutex_);
                          hits_.push_back({.cpu = cpu, .hit = hit});
                          changed_.notify_all();
                        }});
  threads = std::make_unique<VcpuThreads>();
  must(threads->start(
      guest->vcpus,
      [this](Vcpu& vcpu, int error) {
        if (first_) {
          if (const auto next = first_(vcpu, error)) return *next;
        }
        return exits->handle(vcpu, error);
      },
      options));
}

std::optional<End> TinyGuest::wait_end() {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, kPatience, [this] { return !ends_.empty(); });
  return ends_.empty() ? std::nullopt : std::optional(ends_.front());
}

std::optional<End> TinyGuest::ended() {
  const std::lock_guard lock(mutex_);
  return ends_.empty() ? std::nullopt : std::optional(ends_.front());
}

std::optional<Hit> TinyGuest::wait_hit() {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, kPatience, [this] { return !hits_.empty(); });
  if (hits_.empty()) return std::nullopt;
  const Hit hit = hits_.front();
  hits_.erase(hits_.begin());
  return hit;
}

void TinyGuest::forget_hits() {
  const std::lock_guard lock(mutex_);
  hits_.clear();
}

std::optional<End> TinyGuest::run() {
  start();
  go();
  auto end = wait_end();
  hold();
  return end;
}

bool TinyGuest::wait_number(std::uint64_t gpa, std::uint64_t least) {
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (number_at(gpa) < least) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::yield();
  }
  return true;
}

std::uint64_t TinyGuest::count(std::string_view of) {
  for (const auto& [name, number] : exits->counts())
    if (name == of) return number;
  return 0;
}

namespace {

std::size_t entries(const char* folder) {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder), {}));
}

}  // namespace

Belongings belongings() {
  Belongings all;
  all.descriptors = entries("/proc/self/fd");
  all.threads = entries("/proc/self/task");
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);)
    if (line.find("kvm-vcpu") != std::string::npos) ++all.vcpu_mappings;
  return all;
}

std::ostream& operator<<(std::ostream& out, const Belongings& belongings) {
  return out << belongings.descriptors << " descriptors, " << belongings.threads << " threads, "
             << belongings.vcpu_mappings << " mappings of vCPUs";
}

}  // namespace ktstr::kvm::tiny
