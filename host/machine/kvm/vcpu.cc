#include "host/machine/kvm/vcpu.h"

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/core.h>

#include "host/machine/kvm/boot_params.h"
#include "host/machine/kvm/guest_layout.h"
#include "host/machine/kvm/kvm_call.h"

namespace ktstr::kvm {
namespace {

// Model-specific registers (Intel SDM vol. 4, AMD APM vol. 2 appendix A).
constexpr std::uint32_t kMsrMiscEnable = 0x1a0;
constexpr std::uint32_t kMsrMtrrDefType = 0x2ff;
constexpr std::uint32_t kMsrKernelGsBase = 0xc0000102;
constexpr std::uint64_t kFastStrings = 1;
constexpr std::uint64_t kMtrrEnabledWriteBack = 1U << 11 | 6;

constexpr std::uint64_t kCr0 = 1U << 31 | 1U << 4 | 1U;  // PG, ET, PE
constexpr std::uint64_t kCr4Pae = 1U << 5;
constexpr std::uint64_t kX2ApicMode = 1U << 10;              // IA32_APIC_BASE.EXTD
constexpr std::uint64_t kEferLongMode = 1U << 10 | 1U << 8;  // LMA, LME

// KVM_GET_MSRS and KVM_SET_MSRS take a header with a list behind it. (struct kvm_msrs itself has another size
// in C++ than in C.)
struct OneMsr {
  std::uint32_t count = 1;
  std::uint32_t padding = 0;
  kvm_msr_entry entry = {};
};

// struct kvm_cpuid2 before its list.
struct CpuidHeader {
  std::uint32_t count = 0;
  std::uint32_t padding = 0;
};

kvm_segment flat_segment(std::uint16_t selector, bool code) {
  kvm_segment segment = {};
  segment.limit = 0xffffffff;
  segment.selector = selector;
  segment.type = code ? 11 : 3;
  segment.present = 1;
  segment.s = 1;
  segment.g = 1;
  segment.l = code ? 1 : 0;
  segment.db = code ? 0 : 1;
  return segment;
}

}  // namespace

Expected<Vcpu> Vcpu::create(Vm& vm, std::uint32_t index, std::uint32_t id) {
  Vcpu vcpu;
  auto fd = vm.create_vcpu(id);
  if (!fd) return std::unexpected(std::move(fd.error()));
  vcpu.fd_ = *std::move(fd);
  auto shared = Mapping::map(vcpu.fd_.get(), vm.run_size(), PROT_READ | PROT_WRITE, MAP_SHARED);
  if (!shared) return propagate(std::move(shared.error()), "mapping a vCPU's shared page");
  vcpu.shared_ = *std::move(shared);
  vcpu.run_ = reinterpret_cast<kvm_run*>(vcpu.shared_.mutable_bytes().data());
  vcpu.index_ = index;
  vcpu.id_ = id;
  if ((static_cast<unsigned>(vm.capability(KVM_CAP_SYNC_REGS)) & KVM_SYNC_X86_REGS) != 0)
    vcpu.run_->kvm_valid_regs = KVM_SYNC_X86_REGS;
  return vcpu;
}

Expected<void> Vcpu::set_up(std::span<const kvm_cpuid_entry2> cpuid, std::uint64_t entry, bool x2apic) {
  if (auto set = set_cpuid(cpuid); !set) return set;
  if (auto set = set_msrs(); !set) return set;
  if (auto set = set_local_interrupts(); !set) return set;
  if (x2apic) {
    if (auto set = set_x2apic_mode(); !set) return propagate(std::move(set.error()), "setting x2APIC mode");
  }
  // The others come up as on a PC: in real mode, at the address that the start-up interrupt names. KVM makes
  // them so.
  return entry == 0 ? Expected<void>() : set_boot_registers(entry);
}

Expected<void> Vcpu::set_cpuid(std::span<const kvm_cpuid_entry2> cpuid) {
  const CpuidHeader header = {.count = static_cast<std::uint32_t>(cpuid.size())};
  std::vector<std::byte> bytes(sizeof(header) + cpuid.size_bytes());
  std::memcpy(bytes.data(), &header, sizeof(header));
  std::memcpy(bytes.data() + sizeof(header), cpuid.data(), cpuid.size_bytes());
  if (auto set = KVM_CALL(fd_.get(), KVM_SET_CPUID2, bytes.data()); !set)
    return std::unexpected(std::move(set.error()));
  return {};
}

// What firmware would have set: caches on for all memory (a guest without it runs uncached on some hosts),
// fast strings.
Expected<void> Vcpu::set_msrs() {
  for (const auto& [index, value] :
       {std::pair{kMsrMiscEnable, kFastStrings}, std::pair{kMsrMtrrDefType, kMtrrEnabledWriteBack}}) {
    // A host that does not know one of them does not need it.
    [[maybe_unused]] const auto set = set_msr(index, value);
  }
  return {};
}

// LINT0 is the PIC's line, LINT1 the NMI (Intel MultiProcessor Specification 1.4, 3.6.2.2).
Expected<void> Vcpu::set_local_interrupts() {
  kvm_lapic_state state = {};
  if (auto got = KVM_CALL(fd_.get(), KVM_GET_LAPIC, &state); !got)
    return std::unexpected(std::move(got.error()));
  constexpr std::size_t kLint0 = 0x350;
  constexpr std::size_t kLint1 = 0x360;
  const auto set_mode = [&state](std::size_t offset, std::uint32_t mode) {
    std::uint32_t value = 0;
    std::memcpy(&value, state.regs + offset, sizeof(value));
    value = (value & ~0x700U) | mode << 8;
    std::memcpy(state.regs + offset, &value, sizeof(value));
  };
  constexpr std::uint32_t kNmi = 4;
  constexpr std::uint32_t kExtInt = 7;
  set_mode(kLint0, kExtInt);
  set_mode(kLint1, kNmi);
  if (auto set = KVM_CALL(fd_.get(), KVM_SET_LAPIC, &state); !set)
    return std::unexpected(std::move(set.error()));
  return {};
}

Expected<void> Vcpu::set_boot_registers(std::uint64_t entry) {
  kvm_sregs special = {};
  if (auto got = KVM_CALL(fd_.get(), KVM_GET_SREGS, &special); !got)
    return std::unexpected(std::move(got.error()));
  special.gdt = {.base = kGdtGpa, .limit = kGdtEntries * 8 - 1, .padding = {}};
  special.idt = {.base = 0, .limit = 0, .padding = {}};
  special.cs = flat_segment(kBootCs, true);
  special.ds = special.es = special.fs = special.gs = special.ss = flat_segment(kBootDs, false);
  special.cr3 = kPageTablesGpa;
  special.cr4 |= kCr4Pae;
  special.cr0 = kCr0;
  special.efer |= kEferLongMode;
  if (auto set = KVM_CALL(fd_.get(), KVM_SET_SREGS, &special); !set)
    return std::unexpected(std::move(set.error()));
  kvm_regs regs = {};
  regs.rflags = 2;
  regs.rip = entry;
  regs.rsp = regs.rbp = kBootStackGpa;
  regs.rsi = kBootParamsGpa;
  return set_general_registers(regs);
}

Expected<void> Vcpu::set_x2apic_mode() {
  kvm_sregs special = {};
  if (auto got = KVM_CALL(fd_.get(), KVM_GET_SREGS, &special); !got)
    return std::unexpected(std::move(got.error()));
  special.apic_base |= kX2ApicMode;
  if (auto set = KVM_CALL(fd_.get(), KVM_SET_SREGS, &special); !set)
    return std::unexpected(std::move(set.error()));
  return {};
}

int Vcpu::enter() {
  const int error = ioctl(fd_.get(), KVM_RUN, 0) == 0 ? 0 : errno;
  if (error == 0) note_exit();
  return error;
}

void Vcpu::note_exit() {
  Exit exit = {.reason = run_->exit_reason};
  if (exit.reason == KVM_EXIT_IO) {
    exit.write = run_->io.direction == KVM_EXIT_IO_OUT;
    exit.address = run_->io.port;
  } else if (exit.reason == KVM_EXIT_MMIO) {
    exit.write = run_->mmio.is_write != 0;
    exit.address = run_->mmio.phys_addr;
  } else if (exit.reason == KVM_EXIT_INTERNAL_ERROR) {
    exit.address = run_->internal.suberror;
  }
  __atomic_store_n(&exit_.write, exit.write, __ATOMIC_RELAXED);
  __atomic_store_n(&exit_.address, exit.address, __ATOMIC_RELAXED);
  __atomic_store_n(&exit_.reason, exit.reason, __ATOMIC_RELEASE);
}

Expected<void> Vcpu::complete_exit() {
  const std::uint8_t before = run_->immediate_exit;
  cancel(true);
  const int error = enter();
  cancel(before != 0);
  if (error != 0 && error != EINTR && error != EAGAIN)
    return std::unexpected(
        Error::from_errno(ErrorCode::kHost, "KVM_RUN failed while completing an exit", error));
  return {};
}

// A vCPU that exits right now may give a mixture of two exits.
std::string Vcpu::last_exit() const {
  const std::uint32_t reason = __atomic_load_n(&exit_.reason, __ATOMIC_ACQUIRE);
  const std::uint64_t address = __atomic_load_n(&exit_.address, __ATOMIC_RELAXED);
  const bool write = __atomic_load_n(&exit_.write, __ATOMIC_RELAXED);
  switch (reason) {
    case KVM_EXIT_UNKNOWN:
      return "none";
    case KVM_EXIT_IO:
      return fmt::format("{}, a {} port {:#x}", exit_name(reason), write ? "write to" : "read from", address);
    case KVM_EXIT_MMIO:
      return fmt::format("{}, a {} address {:#x}", exit_name(reason), write ? "write to" : "read from",
                         address);
    case KVM_EXIT_INTERNAL_ERROR:
      return fmt::format("{}, suberror {}", exit_name(reason), address);
    default:
      return exit_name(reason);
  }
}

std::optional<std::uint64_t> Vcpu::last_rip() const {
  if ((run_->kvm_valid_regs & KVM_SYNC_X86_REGS) == 0) return std::nullopt;
  return __atomic_load_n(&run_->s.regs.regs.rip, __ATOMIC_RELAXED);
}

Expected<kvm_regs> Vcpu::general_registers() const {
  kvm_regs regs = {};
  if (auto got = KVM_CALL(fd_.get(), KVM_GET_REGS, &regs); !got)
    return std::unexpected(std::move(got.error()));
  return regs;
}

Expected<void> Vcpu::set_general_registers(const kvm_regs& regs) {
  kvm_regs copy = regs;
  if (auto set = KVM_CALL(fd_.get(), KVM_SET_REGS, &copy); !set)
    return std::unexpected(std::move(set.error()));
  return {};
}

Expected<std::uint64_t> Vcpu::msr(std::uint32_t index) const {
  OneMsr one;
  one.entry.index = index;
  auto got = KVM_CALL(fd_.get(), KVM_GET_MSRS, &one);
  if (!got) return std::unexpected(std::move(got.error()));
  if (*got != 1) return fail(ErrorCode::kHost, fmt::format("KVM does not give MSR {:#x}", index));
  return one.entry.data;
}

Expected<void> Vcpu::set_msr(std::uint32_t index, std::uint64_t value) {
  OneMsr one;
  one.entry = {.index = index, .reserved = 0, .data = value};
  auto set = KVM_CALL(fd_.get(), KVM_SET_MSRS, &one);
  if (!set) return std::unexpected(std::move(set.error()));
  if (*set != 1)
    return fail(ErrorCode::kHost, fmt::format("KVM does not take {:#x} for MSR {:#x}", value, index));
  return {};
}

Expected<VcpuRegisters> Vcpu::registers() const {
  auto general = general_registers();
  if (!general) return std::unexpected(std::move(general.error()));
  kvm_sregs special = {};
  if (auto got = KVM_CALL(fd_.get(), KVM_GET_SREGS, &special); !got)
    return std::unexpected(std::move(got.error()));
  kvm_mp_state state = {};
  if (auto got = KVM_CALL(fd_.get(), KVM_GET_MP_STATE, &state); !got)
    return std::unexpected(std::move(got.error()));
  const kvm_regs& g = *general;
  VcpuRegisters regs;
  regs.rax = g.rax, regs.rbx = g.rbx, regs.rcx = g.rcx, regs.rdx = g.rdx;
  regs.rsi = g.rsi, regs.rdi = g.rdi, regs.rbp = g.rbp, regs.rsp = g.rsp;
  regs.r8 = g.r8, regs.r9 = g.r9, regs.r10 = g.r10, regs.r11 = g.r11;
  regs.r12 = g.r12, regs.r13 = g.r13, regs.r14 = g.r14, regs.r15 = g.r15;
  regs.rip = g.rip, regs.rflags = g.rflags;
  regs.cr0 = special.cr0, regs.cr2 = special.cr2, regs.cr3 = special.cr3, regs.cr4 = special.cr4;
  regs.efer = special.efer;
  regs.fs_base = special.fs.base, regs.gs_base = special.gs.base;
  regs.kernel_gs_base = msr(kMsrKernelGsBase).value_or(0);
  regs.idt_base = special.idt.base, regs.idt_limit = special.idt.limit;
  regs.gdt_base = special.gdt.base, regs.gdt_limit = special.gdt.limit;
  regs.cs = special.cs.selector, regs.ss = special.ss.selector;
  regs.halted = state.mp_state == KVM_MP_STATE_HALTED;
  return regs;
}

Expected<void> Vcpu::set_guest_debug(const kvm_guest_debug& debug) {
  kvm_guest_debug copy = debug;
  if (auto set = KVM_CALL(fd_.get(), KVM_SET_GUEST_DEBUG, &copy); !set)
    return std::unexpected(std::move(set.error()));
  return {};
}

Expected<void> Vcpu::give_debug_exception(std::uint64_t dr6) {
  constexpr std::uint64_t kOwn =
      0xe000;  // BD, BS, BT: not of a breakpoint register, which are ours (SDM 3B, 18.2.3)
  constexpr std::uint8_t kDebugVector = 1;
  if ((dr6 & kOwn) == 0) return {};
  kvm_debugregs registers = {};
  if (auto got = KVM_CALL(fd_.get(), KVM_GET_DEBUGREGS, &registers); !got)
    return std::unexpected(std::move(got.error()));
  registers.dr6 |= dr6 & kOwn;
  if (auto set = KVM_CALL(fd_.get(), KVM_SET_DEBUGREGS, &registers); !set)
    return std::unexpected(std::move(set.error()));
  kvm_vcpu_events events = {};
  if (auto got = KVM_CALL(fd_.get(), KVM_GET_VCPU_EVENTS, &events); !got)
    return std::unexpected(std::move(got.error()));
  events.exception.injected = 1;
  events.exception.nr = kDebugVector;
  events.exception.has_error_code = 0;
  if (auto set = KVM_CALL(fd_.get(), KVM_SET_VCPU_EVENTS, &events); !set)
    return std::unexpected(std::move(set.error()));
  return {};
}

void Vcpu::note_pause() {
  [[maybe_unused]] const auto noted = KVM_CALL(fd_.get(), KVM_KVMCLOCK_CTRL, 0);
}

#define KTSTR_EXIT_NAME(name) \
  case name:                  \
    return #name;
std::string exit_name(std::uint32_t reason) {
  switch (reason) {
    KTSTR_EXIT_NAME(KVM_EXIT_UNKNOWN)
    KTSTR_EXIT_NAME(KVM_EXIT_EXCEPTION)
    KTSTR_EXIT_NAME(KVM_EXIT_IO)
    KTSTR_EXIT_NAME(KVM_EXIT_HYPERCALL)
    KTSTR_EXIT_NAME(KVM_EXIT_DEBUG)
    KTSTR_EXIT_NAME(KVM_EXIT_HLT)
    KTSTR_EXIT_NAME(KVM_EXIT_MMIO)
    KTSTR_EXIT_NAME(KVM_EXIT_IRQ_WINDOW_OPEN)
    KTSTR_EXIT_NAME(KVM_EXIT_SHUTDOWN)
    KTSTR_EXIT_NAME(KVM_EXIT_FAIL_ENTRY)
    KTSTR_EXIT_NAME(KVM_EXIT_INTR)
    KTSTR_EXIT_NAME(KVM_EXIT_SET_TPR)
    KTSTR_EXIT_NAME(KVM_EXIT_TPR_ACCESS)
    KTSTR_EXIT_NAME(KVM_EXIT_NMI)
    KTSTR_EXIT_NAME(KVM_EXIT_INTERNAL_ERROR)
    KTSTR_EXIT_NAME(KVM_EXIT_SYSTEM_EVENT)
    KTSTR_EXIT_NAME(KVM_EXIT_IOAPIC_EOI)
    KTSTR_EXIT_NAME(KVM_EXIT_HYPERV)
    KTSTR_EXIT_NAME(KVM_EXIT_X86_RDMSR)
    KTSTR_EXIT_NAME(KVM_EXIT_X86_WRMSR)
    KTSTR_EXIT_NAME(KVM_EXIT_DIRTY_RING_FULL)
    KTSTR_EXIT_NAME(KVM_EXIT_AP_RESET_HOLD)
    KTSTR_EXIT_NAME(KVM_EXIT_X86_BUS_LOCK)
    KTSTR_EXIT_NAME(KVM_EXIT_XEN)
    KTSTR_EXIT_NAME(KVM_EXIT_NOTIFY)
    default:
      return fmt::format("exit {}", reason);
  }
}
#undef KTSTR_EXIT_NAME

}  // namespace ktstr::kvm
