// The file with a guest's state (proto/kvm_state.proto): reading it is taking in what anybody may have
// written, so everything that can be told without KVM is checked here. What only KVM or a device can tell,
// they check when they load it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "common/error.h"

namespace ktstr::v1 {
class KvmState;
}

namespace ktstr::kvm {

inline constexpr std::uint32_t kKvmStateVersion = 1;
inline constexpr std::uint32_t kKvmStateEnd = 0x6b766d2e;

// Limits of what is read. Usual is 10 KiB for each vCPU.
inline constexpr std::size_t kMaxStateBytes = std::size_t{256} << 20;
inline constexpr int kMaxStateVcpus = 4096;
inline constexpr int kMaxStateNodes = 1024;
inline constexpr int kMaxStateMsrs = 1024;
inline constexpr std::size_t kMaxXsave = std::size_t{64} << 10;

// Error kUsage: another version, torn, or a part is missing, too much, or of another size than it can have.
Expected<void> parse_kvm_state(std::string_view bytes, v1::KvmState& state);
// parse_kvm_state() of a whole file. Error kHost when it cannot be read.
Expected<void> read_kvm_state(int file, v1::KvmState& state);
// Into an empty file; sets version and end. Error kHost.
Expected<void> write_kvm_state(v1::KvmState& state, int file);

}  // namespace ktstr::kvm
