#include "host/machine/kvm/state_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <initializer_list>
#include <string>

#include <fmt/core.h>

#include "common/sparse_file.h"
#include "host/machine/kvm/kvm_requests.h"
#include "proto/kvm_state.pb.h"

namespace ktstr::kvm {
namespace {

std::unexpected<Error> refuse(std::string what) {
  return fail(ErrorCode::kUsage, std::move(what));
}

Expected<void> check_bytes(const char* name, const std::string& bytes,
                           std::initializer_list<std::size_t> sizes) {
  if (std::ranges::find(sizes, bytes.size()) != sizes.end()) return {};
  return refuse(fmt::format("{}: {} bytes, not {}", name, bytes.size(), *sizes.begin()));
}

Expected<void> check_vcpu(const v1::KvmVcpuState& vcpu) {
  struct Part {
    const char* name;
    const std::string& bytes;
    std::initializer_list<std::size_t> sizes;
  };
  const Part parts[] = {
      {"events", vcpu.events(), {sizeof(kvm_vcpu_events)}},
      {"general registers", vcpu.regs(), {sizeof(kvm_regs)}},
      {"special registers", vcpu.sregs(), {sizeof(kvm_sregs2), sizeof(kvm_sregs)}},
      {"debug registers", vcpu.debug_regs(), {sizeof(kvm_debugregs)}},
      {"extended control registers", vcpu.xcrs(), {sizeof(kvm_xcrs), 0}},
      {"local APIC", vcpu.lapic(), {sizeof(kvm_lapic_state)}},
  };
  for (const Part& part : parts)
    if (auto ok = check_bytes(part.name, part.bytes, part.sizes); !ok) return ok;
  if (vcpu.xsave().size() < kXsaveBytes || vcpu.xsave().size() > kMaxXsave)
    return refuse(fmt::format("extended registers: {} bytes, not {} to {}", vcpu.xsave().size(), kXsaveBytes,
                              kMaxXsave));
  if (vcpu.msrs_size() > kMaxStateMsrs)
    return refuse(fmt::format("{} MSRs, more than {}", vcpu.msrs_size(), kMaxStateMsrs));
  return {};
}

Expected<void> check_chip(const v1::KvmChipState& chip) {
  if (auto ok = check_bytes("first PIC", chip.pic_master(), {sizeof(kvm_pic_state)}); !ok) return ok;
  if (auto ok = check_bytes("second PIC", chip.pic_slave(), {sizeof(kvm_pic_state)}); !ok) return ok;
  if (auto ok = check_bytes("I/O APIC", chip.io_apic(), {sizeof(kvm_ioapic_state)}); !ok) return ok;
  return check_bytes("PIT", chip.pit(), {sizeof(kvm_pit_state2)});
}

Expected<void> check(const v1::KvmState& state) {
  if (state.vcpus_size() < 1 || state.vcpus_size() > kMaxStateVcpus)
    return refuse(fmt::format("{} vCPUs, not 1 to {}", state.vcpus_size(), kMaxStateVcpus));
  if (state.node_bytes_size() < 1 || state.node_bytes_size() > kMaxStateNodes)
    return refuse(fmt::format("memory of {} nodes, not of 1 to {}", state.node_bytes_size(), kMaxStateNodes));
  for (int i = 0; i < state.vcpus_size(); ++i)
    if (auto ok = check_vcpu(state.vcpus(i)); !ok)
      return propagate(std::move(ok.error()), fmt::format("reading vCPU {}", i));
  if (state.has_chip() == state.has_io_apic())
    return refuse("there has to be one interrupt chip, KVM's or ours");
  if (state.has_chip())
    if (auto ok = check_chip(state.chip()); !ok)
      return propagate(std::move(ok.error()), "reading the interrupt chip");
  if (!state.has_serial() || !state.has_i8042() || !state.has_console_registers() || !state.has_console())
    return refuse("a device is missing");
  return {};
}

}  // namespace

Expected<void> parse_kvm_state(std::string_view bytes, v1::KvmState& state) {
  constexpr const char* kDoing = "reading a guest's state";
  if (bytes.size() > kMaxStateBytes)
    return propagate(
        Error(ErrorCode::kUsage, fmt::format("{} bytes, more than {}", bytes.size(), kMaxStateBytes)),
        kDoing);
  const bool parsed = state.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
  if (state.version() == 0)
    return propagate(Error(ErrorCode::kUsage, "it is none of a kvm machine, or it is damaged"), kDoing);
  // First: what another version means is not known.
  if (state.version() != kKvmStateVersion)
    return propagate(
        Error(ErrorCode::kUsage, fmt::format("it is of version {}, and this program reads version {}",
                                             state.version(), kKvmStateVersion)),
        kDoing);
  if (!parsed || state.end() != kKvmStateEnd)
    return propagate(Error(ErrorCode::kUsage, "it is cut off, or damaged"), kDoing);
  if (auto ok = check(state); !ok) return propagate(std::move(ok.error()), kDoing);
  return {};
}

Expected<void> read_kvm_state(int file, v1::KvmState& state) {
  struct stat st {};
  if (fstat(file, &st) != 0) return fail_errno(ErrorCode::kHost, "cannot find the size of a guest's state");
  if (static_cast<std::uint64_t>(st.st_size) > kMaxStateBytes)
    return fail(ErrorCode::kUsage,
                fmt::format("a guest's state of {} bytes; at most {} are read", st.st_size, kMaxStateBytes));
  std::string bytes(static_cast<std::size_t>(st.st_size), '\0');
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t got = pread(file, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno(ErrorCode::kHost, "cannot read a guest's state");
    // It has become shorter meanwhile.
    if (got == 0) bytes.resize(done);
    done += static_cast<std::size_t>(got);
  }
  return parse_kvm_state(bytes, state);
}

Expected<void> write_kvm_state(v1::KvmState& state, int file) {
  state.set_version(kKvmStateVersion);
  state.set_end(kKvmStateEnd);
  const std::string bytes = state.SerializeAsString();
  if (bytes.empty() || bytes.size() > kMaxStateBytes)
    return fail(ErrorCode::kHost, fmt::format("a guest's state of {} bytes cannot be saved", bytes.size()));
  if (auto allowed = check_file_limit(bytes.size()); !allowed) return allowed;
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t written = pwrite(file, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return fail_errno(ErrorCode::kHost, "cannot write a guest's state");
    done += static_cast<std::size_t>(written);
  }
  return {};
}

}  // namespace ktstr::kvm
