// A vCPU at rest
// --------------
// KVM gives the state of a vCPU in a dozen pieces, each with a call of its own, and some calls change what
// others give or take. Nothing says so in one place; this is what the kernel's source says (arch/x86/kvm).
//
// Saving:
//
//   1. GET_MP_STATE: carries out an INIT or start-up interrupt that has come (kvm_apic_accept_events()),
//      and so changes registers.
//   2. GET_VCPU_EVENTS: collects NMIs, and writes CR2 or DR6 of an exception that waits for delivery
//      (kvm_handle_exception_payload_quirk()). So both come before what they change.
//   3. REGS, SREGS2, DEBUGREGS, XCRS, XSAVE2, LAPIC, in any order. GET_LAPIC also gathers the interrupts
//      that a processor with posted interrupts has collected apart, and works out what is left of the
//      timer's count.
//   4. MSRs, one list; of some only their reading fails.
// The caller has completed the last exit (VcpuThreads parks only such vCPUs), so no IN is half done: that
// state cannot be saved at all.
//
// Loading, into a vCPU that has its CPUID, which decides what registers it has and which bits of them
// exist:
//
//   1. KVM_SET_TSC_KHZ: timers and clocks are computed with it.
//   2. SREGS2: paging and mode; and the APIC's mode, which decides the layout of its state. Before REGS,
//      because an x86 without EFER.LMA has other registers.
//   3. REGS, XCRS, XSAVE, DEBUGREGS.
//   4. LAPIC: starts its timer from the count that was left; one whose count has run out interrupts at once
//      (set_target_expiration()): it may have come due while the vCPU was parked, and an interrupt too many
//      does no harm where one too few does.
//   5. MSRs: those of kvm-clock, steal time and asynchronous page faults make KVM look at the guest's
//      pages. Setting the latter wakes all guest tasks that wait for a page: the pages that the old
//      machine's host owed them will never be announced here.
//   6. VCPU_EVENTS: after all that sets events aside: SREGS clear a pending exception, the LAPIC asks for a
//      look at interrupts.
//   7. MP_STATE: last, because a vCPU whose registers look like those of a reset is taken for one that was
//      just switched on (__set_sregs()).
//   8. TSC and TSC_DEADLINE: GuestClock, when everything else is done, so that no time is lost. The
//      deadline is taken only if the LAPIC's timer is in that mode already, and is counted in the TSC of
//      that instant.
// What is the whole machine's, its interrupt chips above all, comes after the vCPUs: an I/O APIC that has
// an interrupt left sends it to a LAPIC at once, and step 4 would overwrite it.
//
// Flags of VCPU_EVENTS (api.rst 4.32): GET names in them which of its optional fields mean something, and SET
// takes those that are named. So they go back as they came. The pending exception of GET is one "injected" as
// long as KVM_CAP_EXCEPTION_PAYLOAD is not asked for, and goes back as that.
//
// MSRs. KVM has a list of those that it would like to be saved (KVM_GET_MSR_INDEX_LIST), which is not all:
// MTRRs and the banks of the machine check are not in it. And some of it is better left:
//   * TSC, TSC_DEADLINE: see 8.
//   * KVM_WALL_CLOCK: writing it is a command (KVM writes the time of day into the guest's memory). It and
//     KVM_SYSTEM_TIME have two numbers each for one register. KVM_ASYNC_PF_ACK is a command, too.
//   * Hyper-V's: our guests are not told of them.
//   * VMX's: constants, set by CPUID.
//   * The record of last branches: of no meaning to anybody but a debugger that has just been told of them.
// A KVM that does not take a value back is asked what it has: if it has that value, nothing is lost.
#include "host/machine/kvm/vcpu_state.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <vector>

#include <fmt/core.h>

#include "host/machine/kvm/kvm_call.h"
#include "host/machine/kvm/state_file.h"
#include "proto/kvm_state.pb.h"

namespace ktstr::kvm {
namespace {

// Bytes of a struct of the kernel's. (std::string is what protobuf has for bytes.)
template <typename T>
void put(std::string& to, const T& value) {
  to.assign(reinterpret_cast<const char*>(&value), sizeof(value));
}
// `from` has the struct's size.
template <typename T>
T get(const std::string& from) {
  T value = {};
  std::memcpy(&value, from.data(), std::min(sizeof(value), from.size()));
  return value;
}

template <typename T>
Expected<void> save_struct(int fd, unsigned long request, const char* name, std::string& to) {
  T value = {};
  if (auto got = call(fd, request, &value, name); !got) return std::unexpected(std::move(got.error()));
  put(to, value);
  return {};
}
template <typename T>
Expected<void> load_struct(int fd, unsigned long request, const char* name, const std::string& from) {
  T value = get<T>(from);
  if (auto set = call(fd, request, &value, name); !set) return std::unexpected(std::move(set.error()));
  return {};
}
#define SAVE_STRUCT(type, request, to) save_struct<type>(fd, request, #request, to)
#define LOAD_STRUCT(type, request, from) load_struct<type>(fd, request, #request, from)

// ---------------------------------------------------------------------------------------------------------------------
// MSRs

constexpr std::uint32_t kMsrTsc = 0x10;
constexpr std::uint32_t kMsrTscDeadline = 0x6e0;
constexpr std::uint32_t kMsrMcgCap = 0x179;
constexpr std::uint32_t kFirstMcBank = 0x400;
constexpr std::uint32_t kMaxMcBanks = 32;

bool is_left(std::uint32_t msr) {
  struct Range {
    std::uint32_t first, last;
  };
  static constexpr Range kLeft[] = {
      {kMsrTsc, kMsrTsc},
      {kMsrTscDeadline, kMsrTscDeadline},
      {0x11, 0x12},              // KVM_WALL_CLOCK and KVM_SYSTEM_TIME by their old numbers
      {0x4b564d00, 0x4b564d00},  // KVM_WALL_CLOCK
      {0x4b564d07, 0x4b564d07},  // KVM_ASYNC_PF_ACK
      {0x40000000, 0x400001ff},  // Hyper-V
      {0x480, 0x491},            // VMX
      {0x1db, 0x1de},            // last branches, last interrupts
      {0x34, 0x34},              // count of SMIs, of which there are none
  };
  return std::ranges::any_of(kLeft,
                             [msr](const Range& range) { return msr >= range.first && msr <= range.last; });
}

// A header, and a list behind it; kvm_requests.h says why not struct kvm_msrs.
class MsrList {
 public:
  void add(std::uint32_t index, std::uint64_t value = 0) {
    entries_.push_back({.index = index, .reserved = 0, .data = value});
  }
  std::size_t size() const { return entries_.size(); }
  const kvm_msr_entry& operator[](std::size_t i) const { return entries_[i]; }

  // KVM_GET_MSRS or KVM_SET_MSRS of those from `first` on: how many KVM has done before one that it does not
  // do.
  Expected<std::size_t> pass(int fd, unsigned long request, const char* name, std::size_t first) {
    const auto count = static_cast<std::uint32_t>(entries_.size() - first);
    std::vector<std::byte> bytes(kCountAndPadding + count * sizeof(kvm_msr_entry));
    std::memcpy(bytes.data(), &count, sizeof(count));
    std::memcpy(bytes.data() + kCountAndPadding, entries_.data() + first, count * sizeof(kvm_msr_entry));
    auto done = call(fd, request, bytes.data(), name);
    if (!done) return std::unexpected(std::move(done.error()));
    const std::size_t passed = std::min<std::size_t>(static_cast<std::size_t>(*done), count);
    std::memcpy(entries_.data() + first, bytes.data() + kCountAndPadding, passed * sizeof(kvm_msr_entry));
    return passed;
  }

 private:
  std::vector<kvm_msr_entry> entries_;
};

Expected<MsrList> msrs_to_save(const Vm& vm, const Vcpu& vcpu) {
  auto listed = vm.msr_numbers();
  if (!listed) return std::unexpected(std::move(listed.error()));
  // Memory types: the default, variable ranges, fixed ranges.
  listed->push_back(0x2ff);
  for (std::uint32_t msr = 0x200; msr <= 0x20f; ++msr) listed->push_back(msr);
  for (const std::uint32_t msr : {0x250U, 0x258U, 0x259U}) listed->push_back(msr);
  for (std::uint32_t msr = 0x268; msr <= 0x26f; ++msr) listed->push_back(msr);
  // Four of each bank of the machine check.
  const auto banks = static_cast<std::uint32_t>(vcpu.msr(kMsrMcgCap).value_or(0) & 0xff);
  for (std::uint32_t i = 0; i < 4 * std::min(banks, kMaxMcBanks); ++i) listed->push_back(kFirstMcBank + i);
  MsrList list;
  for (const std::uint32_t msr : *listed)
    if (!is_left(msr)) list.add(msr);
  return list;
}

Expected<void> save_msrs(const Vm& vm, const Vcpu& vcpu, v1::KvmVcpuState& to) {
  auto list = msrs_to_save(vm, vcpu);
  if (!list) return std::unexpected(std::move(list.error()));
  for (std::size_t next = 0; next < list->size();) {
    const auto passed = list->pass(vcpu.fd(), KVM_GET_MSRS, "KVM_GET_MSRS", next);
    if (!passed) return std::unexpected(passed.error());
    for (const std::size_t end = next + *passed; next < end; ++next) {
      v1::KvmMsr& msr = *to.add_msrs();
      msr.set_index((*list)[next].index);
      msr.set_value((*list)[next].data);
    }
    // One that this processor, or this guest, does not have.
    ++next;
  }
  if (to.msrs_size() > kMaxStateMsrs)
    return fail(ErrorCode::kHost,
                fmt::format("this KVM has {} MSRs, more than the {} that a snapshot can have", to.msrs_size(),
                            kMaxStateMsrs));
  return {};
}

Expected<void> load_msrs(Vcpu& vcpu, const v1::KvmVcpuState& from) {
  MsrList list;
  for (const v1::KvmMsr& msr : from.msrs())
    if (!is_left(msr.index())) list.add(msr.index(), msr.value());
  for (std::size_t next = 0; next < list.size(); ++next) {
    const auto passed = list.pass(vcpu.fd(), KVM_SET_MSRS, "KVM_SET_MSRS", next);
    if (!passed) return std::unexpected(passed.error());
    next += *passed;
    if (next >= list.size()) break;
    const kvm_msr_entry& refused = list[next];
    if (const auto has = vcpu.msr(refused.index); has && *has == refused.data) continue;
    return fail(ErrorCode::kHost, fmt::format("KVM does not take back {:#x} for MSR {:#x}, which it gave",
                                              refused.data, refused.index));
  }
  return {};
}

// ---------------------------------------------------------------------------------------------------------------------

// State of a guest's own guests is KVM_GET_NESTED_STATE's, which nobody here has a use for.
Expected<void> check_no_hypervisor(const Vm& vm, const Vcpu& vcpu) {
  const int size = vm.capability(KVM_CAP_NESTED_STATE);
  if (size < static_cast<int>(sizeof(kvm_nested_state))) return {};
  std::vector<std::uint64_t> bytes((static_cast<std::size_t>(size) + 7) / 8);
  auto* const state = reinterpret_cast<kvm_nested_state*>(bytes.data());
  state->size = static_cast<std::uint32_t>(size);
  // A processor without nested virtualization has no such state.
  if (!KVM_CALL(vcpu.fd(), KVM_GET_NESTED_STATE, state)) return {};
  const bool in_guest = (state->flags & (KVM_STATE_NESTED_GUEST_MODE | KVM_STATE_NESTED_RUN_PENDING)) != 0;
  const bool vmx_on =
      state->format == KVM_STATE_NESTED_FORMAT_VMX && state->hdr.vmx.vmxon_pa != ~std::uint64_t{0};
  if (!in_guest && !vmx_on) return {};
  return fail(ErrorCode::kHost, "the guest runs a hypervisor itself, and its guests cannot be saved");
}

std::size_t xsave_size(const Vm& vm) {
  return std::max<std::size_t>(kXsaveBytes, static_cast<std::size_t>(vm.capability(KVM_CAP_XSAVE2)));
}

Expected<void> save_xsave(const Vm& vm, int fd, std::string& to) {
  // Whole pages of room: KVM_GET_XSAVE2 writes as much as the capability says.
  to.assign(xsave_size(vm), '\0');
  const bool second = vm.capability(KVM_CAP_XSAVE2) > 0;
  auto got = second ? KVM_CALL(fd, KVM_GET_XSAVE2, to.data()) : KVM_CALL(fd, KVM_GET_XSAVE, to.data());
  if (!got) return std::unexpected(std::move(got.error()));
  return {};
}

}  // namespace

Expected<void> save_vcpu(const Vm& vm, const Vcpu& vcpu, v1::KvmVcpuState& to) {
  if (auto ok = check_no_hypervisor(vm, vcpu); !ok) return ok;
  const int fd = vcpu.fd();
  to.set_apic_id(vcpu.id());
  kvm_mp_state mp_state = {};
  if (auto got = KVM_CALL(fd, KVM_GET_MP_STATE, &mp_state); !got)
    return std::unexpected(std::move(got.error()));
  to.set_mp_state(mp_state.mp_state);
  if (auto got = SAVE_STRUCT(kvm_vcpu_events, KVM_GET_VCPU_EVENTS, *to.mutable_events()); !got) return got;
  if (auto got = SAVE_STRUCT(kvm_regs, KVM_GET_REGS, *to.mutable_regs()); !got) return got;
  auto special = vm.capability(KVM_CAP_SREGS2) != 0
                     ? SAVE_STRUCT(kvm_sregs2, KVM_GET_SREGS2, *to.mutable_sregs())
                     : SAVE_STRUCT(kvm_sregs, KVM_GET_SREGS, *to.mutable_sregs());
  if (!special) return special;
  if (auto got = SAVE_STRUCT(kvm_debugregs, KVM_GET_DEBUGREGS, *to.mutable_debug_regs()); !got) return got;
  if (vm.capability(KVM_CAP_XCRS) != 0) {
    if (auto got = SAVE_STRUCT(kvm_xcrs, KVM_GET_XCRS, *to.mutable_xcrs()); !got) return got;
  }
  if (auto got = save_xsave(vm, fd, *to.mutable_xsave()); !got) return got;
  if (auto got = SAVE_STRUCT(kvm_lapic_state, KVM_GET_LAPIC, *to.mutable_lapic()); !got) return got;
  return save_msrs(vm, vcpu, to);
}

Expected<void> load_vcpu(const Vm& vm, Vcpu& vcpu, const v1::KvmVcpuState& from) {
  const int fd = vcpu.fd();
  if (const std::size_t size = xsave_size(vm); from.xsave().size() != size)
    return fail(ErrorCode::kHost,
                fmt::format("{} bytes of extended registers were saved, and this host's have {}",
                            from.xsave().size(), size));
  auto special = from.sregs().size() == sizeof(kvm_sregs2)
                     ? LOAD_STRUCT(kvm_sregs2, KVM_SET_SREGS2, from.sregs())
                     : LOAD_STRUCT(kvm_sregs, KVM_SET_SREGS, from.sregs());
  if (!special) return special;
  if (auto set = LOAD_STRUCT(kvm_regs, KVM_SET_REGS, from.regs()); !set) return set;
  if (!from.xcrs().empty()) {
    if (auto set = LOAD_STRUCT(kvm_xcrs, KVM_SET_XCRS, from.xcrs()); !set) return set;
  }
  // Its size is the processor's, so the number of the request says nothing of it.
  std::string xsave = from.xsave();
  if (auto set = KVM_CALL(fd, KVM_SET_XSAVE, xsave.data()); !set)
    return std::unexpected(std::move(set.error()));
  if (auto set = LOAD_STRUCT(kvm_debugregs, KVM_SET_DEBUGREGS, from.debug_regs()); !set) return set;
  if (auto set = LOAD_STRUCT(kvm_lapic_state, KVM_SET_LAPIC, from.lapic()); !set) return set;
  if (auto set = load_msrs(vcpu, from); !set) return set;
  if (auto set = LOAD_STRUCT(kvm_vcpu_events, KVM_SET_VCPU_EVENTS, from.events()); !set) return set;
  kvm_mp_state mp_state = {.mp_state = from.mp_state()};
  if (auto set = KVM_CALL(fd, KVM_SET_MP_STATE, &mp_state); !set)
    return std::unexpected(std::move(set.error()));
  return {};
}

}  // namespace ktstr::kvm
