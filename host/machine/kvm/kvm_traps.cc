#include "host/machine/kvm/kvm_traps.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/core.h>

#include "common/mapping.h"
#include "host/machine/kvm/guest_layout.h"
#include "host/machine/kvm/kvm_call.h"

namespace ktstr::kvm {
namespace {

using Bytes5 = std::array<std::byte, 5>;
using Bytes4 = std::array<std::byte, 4>;

template <std::size_t N>
constexpr std::array<std::byte, N> bytes(const std::array<unsigned char, N>& values) {
  std::array<std::byte, N> result = {};
  for (std::size_t i = 0; i < N; ++i) result[i] = std::byte{values[i]};
  return result;
}

constexpr Bytes5 kNop5 = bytes<5>({0x0f, 0x1f, 0x44, 0x00, 0x00});
constexpr Bytes5 kTrap = bytes<5>({0xe6, kTrapPort, 0x0f, 0x1f, 0x00});  // out %al,$0xf4; nopl (%rax)
constexpr Bytes4 kEndbr64 = bytes<4>({0xf3, 0x0f, 0x1e, 0xfa});
constexpr Bytes4 kSealedEndbr = bytes<4>({0x0f, 0x1f, 0x40, 0xd6});
constexpr std::byte kCall{0xe8};

constexpr std::uint64_t kResumeFlag = 1U
                                      << 16;  // RFLAGS.RF: no instruction breakpoint on the next instruction

bool is_site(const Bytes5& code) {
  return code == kNop5 || code.front() == kCall;
}

// Fields of DR7 for register `n` (Intel SDM vol. 3B, 18.2.4): enable, condition, length.
std::uint64_t dr7_field(std::size_t n, std::uint64_t condition, std::uint64_t length) {
  return std::uint64_t{2} << (2 * n) | condition << (16 + 4 * n) | length << (18 + 4 * n);
}

std::uint64_t dr7_length(std::uint32_t size) {
  return size == 8 ? 2 : size - 1;
}

}  // namespace

Expected<std::uint64_t> translate(std::span<Vcpu> vcpus, std::uint64_t address) {
  for (Vcpu& vcpu : vcpus) {
    kvm_translation translation = {};
    translation.linear_address = address;
    if (KVM_CALL(vcpu.fd(), KVM_TRANSLATE, &translation) && translation.valid != 0)
      return translation.physical_address;
    // With page-table isolation a vCPU in user mode has tables without the kernel; those with it are one page
    // below (PTI_USER_PGTABLE_BIT, arch/x86/include/asm/pgtable.h).
    kvm_sregs special = {};
    if (!KVM_CALL(vcpu.fd(), KVM_GET_SREGS, &special)) continue;
    kvm_sregs kernel = special;
    kernel.cr3 &= ~std::uint64_t{0x1fff};
    if (kernel.cr3 == special.cr3 || !KVM_CALL(vcpu.fd(), KVM_SET_SREGS, &kernel)) continue;
    const auto got = KVM_CALL(vcpu.fd(), KVM_TRANSLATE, &translation);
    if (auto back = KVM_CALL(vcpu.fd(), KVM_SET_SREGS, &special); !back)
      return std::unexpected(std::move(back.error()));
    if (got && translation.valid != 0) return translation.physical_address;
  }
  return fail(ErrorCode::kHost, fmt::format("no vCPU's page tables lead to {:#x}", address));
}

Expected<KvmTraps::Site> KvmTraps::find_site(std::span<Vcpu> vcpus, const GuestRamView& ram,
                                             std::uint64_t address) {
  Site site = {.address = address, .site = address};
  auto gpa = translate(vcpus, address);
  if (!gpa) return propagate(std::move(gpa.error()), fmt::format("setting a trap at {:#x}", address));
  Bytes4 first = {};
  if (ram.read(*gpa, first) && (first == kEndbr64 || first == kSealedEndbr)) {
    site.site += first.size();
    gpa = translate(vcpus, site.site);
    if (!gpa) return propagate(std::move(gpa.error()), fmt::format("setting a trap at {:#x}", address));
  }
  site.gpa = *gpa;
  if (!ram.read(site.gpa, site.original) || !is_site(site.original)) {
    return fail(
        ErrorCode::kHost,
        fmt::format(
            "at {:#x} is no call site of the function tracer (CONFIG_DYNAMIC_FTRACE), or the kernel has not "
            "come to preparing it yet: a port trap needs one",
            address));
  }
  return site;
}

std::span<const std::uint64_t> KvmTraps::port_traps(const std::vector<std::uint64_t>& instructions,
                                                    std::size_t watchpoints) const {
  const std::size_t registers =
      kind_ == TrapKind::kPort ? 0 : kBreakpoints - std::min(watchpoints, kBreakpoints);
  return std::span(instructions).subspan(std::min(registers, instructions.size()));
}

Expected<void> KvmTraps::set(std::vector<Vcpu>& vcpus, const GuestRamView& ram,
                             const std::vector<std::uint64_t>& instructions,
                             const std::vector<Watchpoint>& writes, bool sites_ready) {
  if (writes.size() > kWatchpoints) {
    return fail(ErrorCode::kHost, fmt::format("{} watchpoints are more than the {} that there can be",
                                              writes.size(), kWatchpoints));
  }
  const auto ports = port_traps(instructions, writes.size());
  // A site is known by what the kernel has there.
  lift(ram);
  std::vector<Site> sites;
  for (const std::uint64_t address : sites_ready ? ports : ports.first(0)) {
    auto site = find_site(vcpus, ram, address);
    if (!site) {
      // All stays as it was: the debug registers still have the old ones, whose hits must be known.
      put_back(ram);
      return std::unexpected(std::move(site.error()));
    }
    if (std::ranges::find(sites, site->site, &Site::site) == sites.end()) sites.push_back(*site);
  }
  breakpoints_.assign(instructions.begin(), instructions.end() - static_cast<std::ptrdiff_t>(ports.size()));
  watchpoints_ = writes;
  sites_ = std::move(sites);
  put_back(ram);
  return set_registers(vcpus);
}

void KvmTraps::lift(const GuestRamView& ram) const {
  for (const Site& site : sites_) ram.write(site.gpa, site.original);
}

void KvmTraps::put_back(const GuestRamView& ram) const {
  for (const Site& site : sites_) ram.write(site.gpa, kTrap);
}

Expected<void> KvmTraps::set_registers(std::vector<Vcpu>& vcpus) {
  constexpr std::uint64_t kOnWrite = 1;
  kvm_guest_debug debug = {};
  std::size_t n = 0;
  for (const std::uint64_t address : breakpoints_) {
    debug.arch.debugreg[n] = address;
    debug.arch.debugreg[7] |= dr7_field(n++, 0, 0);
  }
  for (const Watchpoint& watchpoint : watchpoints_) {
    debug.arch.debugreg[n] = watchpoint.address;
    debug.arch.debugreg[7] |= dr7_field(n++, kOnWrite, dr7_length(watchpoint.size));
  }
  if (n > 0) {
    debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
    debug.arch.debugreg[7] |= 0x600;  // GE (exact breakpoints), and the bit that is always 1
  }
  for (Vcpu& vcpu : vcpus)
    if (auto set = vcpu.set_guest_debug(debug); !set) return set;
  return {};
}

std::optional<TrapHit> KvmTraps::debug_hit(Vcpu& vcpu) const {
  const kvm_debug_exit_arch& exit = vcpu.run().debug.arch;
  // A write comes first: the vCPU may stand at a breakpoint behind it, and hits that one when it runs.
  for (std::size_t i = 0; i < watchpoints_.size(); ++i) {
    if ((exit.dr6 >> (breakpoints_.size() + i) & 1) != 0)
      return TrapHit{.address = watchpoints_[i].address, .watchpoint = true};
  }
  // An instruction breakpoint tells itself by where the vCPU is; DR6 is not filled in by every KVM.
  if (std::ranges::find(breakpoints_, exit.pc) != breakpoints_.end()) return TrapHit{.address = exit.pc};
  return std::nullopt;
}

bool KvmTraps::sites_ready(Vcpu& vcpu, const GuestRamView& ram, std::span<const std::uint64_t> instructions) {
  return std::ranges::all_of(instructions, [&](std::uint64_t address) {
    return find_site(std::span(&vcpu, 1), ram, address).has_value();
  });
}

std::optional<TrapHit> KvmTraps::port_hit(Vcpu& vcpu) const {
  const auto before = vcpu.general_registers();
  if (!before) return std::nullopt;
  // At the OUT; or behind it, where KVM's emulator has executed it (on hosts without hardware
  // virtualization).
  constexpr std::uint64_t kOutSize = 2;
  const auto site = std::ranges::find_if(
      sites_, [rip = before->rip](const Site& one) { return rip == one.site || rip == one.site + kOutSize; });
  if (site == sites_.end()) return std::nullopt;
  // KVM finishes an OUT by moving past it when the vCPU runs next: let it do so now, and take the vCPU back.
  if (!vcpu.complete_exit()) return std::nullopt;
  kvm_regs at_entry = *before;
  at_entry.rip = site->address;
  if (!vcpu.set_general_registers(at_entry)) return std::nullopt;
  return TrapHit{.address = site->address, .kind = TrapKind::kPort};
}

Expected<void> KvmTraps::pass(Vcpu& vcpu, const GuestRamView& ram) const {
  auto regs = vcpu.general_registers();
  if (!regs) return std::unexpected(std::move(regs.error()));
  if (std::ranges::find(breakpoints_, regs->rip) != breakpoints_.end()) {
    regs->rflags |= kResumeFlag;
    return vcpu.set_general_registers(*regs);
  }
  const auto site = std::ranges::find(sites_, regs->rip, &Site::address);
  if (site == sites_.end()) return {};
  const std::uint64_t next = site->site + site->original.size();
  regs->rip = next;
  if (site->original.front() == kCall) {
    std::int32_t distance = 0;
    std::memcpy(&distance, site->original.data() + 1, sizeof(distance));
    regs->rsp -= sizeof(next);
    // By its own page tables: another vCPU may not have stopped, and KVM would wait for it.
    const auto stack = translate(std::span(&vcpu, 1), regs->rsp);
    if (!stack || !ram.write(*stack, std::as_bytes(std::span(&next, 1))))
      return fail(ErrorCode::kHost,
                  fmt::format("cannot make the call at {:#x}: its stack is no RAM", site->site));
    regs->rip = next + static_cast<std::uint64_t>(std::int64_t{distance});
  }
  return vcpu.set_general_registers(*regs);
}

namespace {

// A guest for trying the host's KVM: one vCPU, one page of RAM, and no interrupt chip, so that HLT is an
// exit.
struct TrialGuest {
  static constexpr std::uint64_t kPage = 0x1000;  // its address, and its size
  Vm vm;
  Mapping page;
  std::vector<Vcpu> vcpus;  // one

  static Expected<TrialGuest> create();
  template <typename T>
  void put(std::uint64_t address, const T& value) {
    std::memcpy(page.mutable_bytes().data() + (address - kPage), &value, sizeof(value));
  }
  // Changes what KVM_GET_SREGS gives.
  template <typename Change>
  Expected<void> change_special_registers(Change change);
  Expected<std::uint32_t> run();  // its exit
};

Expected<TrialGuest> TrialGuest::create() {
  auto vm = Vm::create();
  if (!vm) return std::unexpected(std::move(vm.error()));
  auto page = Mapping::map(-1, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  if (!page) return std::unexpected(std::move(page.error()));
  const RamRegion region = {.gpa = kPage, .host = page->mutable_bytes()};
  if (auto set = vm->set_memory(std::span(&region, 1)); !set) return std::unexpected(std::move(set.error()));
  auto vcpu = Vcpu::create(*vm, 0, 0);
  if (!vcpu) return std::unexpected(std::move(vcpu.error()));
  TrialGuest guest{.vm = *std::move(vm), .page = *std::move(page), .vcpus = {}};
  guest.vcpus.push_back(*std::move(vcpu));
  return guest;
}

template <typename Change>
Expected<void> TrialGuest::change_special_registers(Change change) {
  kvm_sregs special = {};
  if (auto got = KVM_CALL(vcpus[0].fd(), KVM_GET_SREGS, &special); !got)
    return std::unexpected(std::move(got.error()));
  change(special);
  if (auto set = KVM_CALL(vcpus[0].fd(), KVM_SET_SREGS, &special); !set)
    return std::unexpected(std::move(set.error()));
  return {};
}

Expected<std::uint32_t> TrialGuest::run() {
  int error = EINTR;
  // A signal for somebody else may come.
  for (int tries = 0; error == EINTR && tries < 100; ++tries) error = vcpus[0].enter();
  if (error != 0)
    return std::unexpected(Error::from_errno(ErrorCode::kHost, "KVM_RUN of the trial guest", error));
  return vcpus[0].run().exit_reason;
}

constexpr std::uint64_t kTrialCode = TrialGuest::kPage + 0x800;

// `nop; hlt` in real mode, with a breakpoint on the hlt.
Expected<bool> try_breakpoint(TrialGuest& guest) {
  guest.put(kTrialCode, std::array<unsigned char, 2>{0x90, 0xf4});
  auto changed = guest.change_special_registers([](kvm_sregs& special) {
    special.cs.base = 0;
    special.cs.selector = 0;
  });
  if (!changed) return std::unexpected(std::move(changed.error()));
  kvm_regs regs = {};
  regs.rip = kTrialCode;
  regs.rflags = 2;
  if (auto set = guest.vcpus[0].set_general_registers(regs); !set)
    return std::unexpected(std::move(set.error()));
  KvmTraps traps;
  if (auto set = traps.set(guest.vcpus, {}, {kTrialCode + 1}, {}); !set)
    return std::unexpected(std::move(set.error()));
  const auto first = guest.run();
  if (!first) return std::unexpected(first.error());
  if (*first != KVM_EXIT_DEBUG) return false;
  // KVM's emulator, on hosts without hardware virtualization, stops again at the same place.
  if (auto passed = traps.pass(guest.vcpus[0], {}); !passed)
    return std::unexpected(std::move(passed.error()));
  const auto second = guest.run();
  if (!second) return std::unexpected(second.error());
  if (auto cleared = traps.set(guest.vcpus, {}, {}, {}); !cleared)
    return std::unexpected(std::move(cleared.error()));
  return *second == KVM_EXIT_HLT;
}

// A vCPU in 32-bit protected mode (real mode saves only 16 flags) gets an interrupt before its first
// instruction. The handler halts at once and leaves the flags that were saved, uppermost on the stack.
Expected<bool> try_interrupt(TrialGuest& guest) {
  constexpr std::uint64_t kGdt = TrialGuest::kPage;
  constexpr std::uint64_t kIdt = TrialGuest::kPage + 0x100;
  constexpr std::uint64_t kHandler = TrialGuest::kPage + 0x900;
  constexpr std::uint64_t kStack = 2 * TrialGuest::kPage;  // grows down
  constexpr std::uint32_t kVector = 32;
  constexpr std::uint16_t kCode = 8;
  constexpr std::uint64_t kFlatCode = 0x00cf9b000000ffff;
  constexpr std::uint64_t kInterruptGate = 0x00008e0000000000;
  constexpr std::uint64_t kInterruptFlag = 1U << 9;
  guest.put(kGdt + kCode, kFlatCode);
  guest.put(kIdt + std::uint64_t{8} * kVector, kInterruptGate | std::uint64_t{kCode} << 16 | kHandler);
  guest.put(kTrialCode, std::array<unsigned char, 2>{0x90, 0xf4});
  guest.put(kHandler, std::uint8_t{0xf4});
  auto changed = guest.change_special_registers([&](kvm_sregs& special) {
    kvm_segment flat = {};
    flat.limit = 0xffffffff;
    flat.selector = kCode;
    flat.type = 11;
    flat.present = flat.s = flat.g = flat.db = 1;
    special.cs = flat;
    flat.selector = 2 * kCode;
    flat.type = 3;
    special.ds = special.es = special.fs = special.gs = special.ss = flat;
    special.cr0 |= 1;  // PE
    special.gdt = {.base = kGdt, .limit = 2 * 8 - 1, .padding = {}};
    special.idt = {.base = kIdt, .limit = (kVector + 1) * 8 - 1, .padding = {}};
  });
  if (!changed) return std::unexpected(std::move(changed.error()));
  kvm_regs regs = {};
  regs.rip = kTrialCode;
  regs.rsp = kStack;
  regs.rflags = kInterruptFlag | 2;
  if (auto set = guest.vcpus[0].set_general_registers(regs); !set)
    return std::unexpected(std::move(set.error()));
  kvm_interrupt interrupt = {.irq = kVector};
  if (auto sent = KVM_CALL(guest.vcpus[0].fd(), KVM_INTERRUPT, &interrupt); !sent)
    return std::unexpected(std::move(sent.error()));
  const auto exit = guest.run();
  if (!exit) return std::unexpected(exit.error());
  const auto after = guest.vcpus[0].general_registers();
  if (!after) return std::unexpected(after.error());
  if (*exit != KVM_EXIT_HLT || after->rip != kHandler + 1)
    return fail(ErrorCode::kHost, fmt::format("the trial guest did not take its interrupt: {} at {:#x}",
                                              exit_name(*exit), after->rip));
  std::uint32_t saved = 0;
  std::memcpy(&saved, guest.page.bytes().data() + TrialGuest::kPage - sizeof(saved), sizeof(saved));
  return (saved & kResumeFlag) == 0;
}

}  // namespace

Expected<bool> breakpoints_work() {
  auto guest = TrialGuest::create();
  if (!guest) return std::unexpected(std::move(guest.error()));
  return try_breakpoint(*guest);
}

Expected<bool> interrupts_keep_breakpoints() {
  auto guest = TrialGuest::create();
  if (!guest) return std::unexpected(std::move(guest.error()));
  return try_interrupt(*guest);
}

std::string breakpoint_defect() {
  auto guest = TrialGuest::create();
  if (!guest) return {};
  const auto arrive = try_breakpoint(*guest);
  if (!arrive) return "hardware breakpoints cannot be tried on this host: " + arrive.error().to_string();
  if (!*arrive) return "hardware breakpoints do not arrive on this host";
  if (const auto kept = try_interrupt(*guest); kept && !*kept)
    return "an interrupt makes this host's processor, an emulated one, pass by a hardware breakpoint";
  return {};
}

}  // namespace ktstr::kvm
