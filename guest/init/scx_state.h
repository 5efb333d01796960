// What the kernel says of sched_ext in /sys/kernel/sched_ext.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace ktstr::guest {

// scx_enable_state_str (kernel/sched/ext.c); every kernel since 6.12 has these four.
enum class ScxPhase { kDisabled, kEnabling, kEnabled, kDisabling, kUnknown };

struct ScxState {
  ScxPhase phase = ScxPhase::kUnknown;
  // Name of the root scheduler (root/ops), empty while there is none.
  std::string ops;
};

// The first line of the `state` file; anything that is not one of the four words is kUnknown.
ScxPhase parse_scx_phase(std::string_view text);
std::string_view to_string(ScxPhase phase);
// The first line of `root/ops`, cut after 128 characters (SCX_OPS_NAME_LEN), with everything unprintable as
// '?'.
std::string parse_ops_name(std::string_view text);

// Reads the files below `root`..
class ScxStateReader {
 public:
  explicit ScxStateReader(std::string root = "/sys/kernel/sched_ext") : root_(std::move(root)) {}

  // False when the kernel has no sched_ext.
  bool supported() const;
  // The `state` file alone; kUnknown when it cannot be read.
  ScxPhase phase() const;
  // State and name.
  ScxState read() const;
  // Number of times a scheduler was enabled since boot (enable_seq); nothing where the kernel does not say.
  std::optional<std::uint64_t> enable_seq() const;

 private:
  std::string root_;
};

}  // namespace ktstr::guest
