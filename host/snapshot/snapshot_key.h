// SnapshotInputs: everything that a snapshot of a guest depends on. Two runs with the same inputs may go on
// from the same snapshot; whatever else a plan says travels after the clone.
//
// Files are named by their contents, so that a rebuilt kernel is another one and a touched one is not.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace ktstr {

enum class SnapshotPoint {
  kHello,     // PID 1 has said Hello and waits for its plan
  kAttached,  // the scheduler is attached and settled
};

struct SnapshotInputs {
  // A file of the guest by the path it has there.
  struct File {
    std::string name;
    std::string hash;
  };

  std::string kernel;  // hash of the image
  std::vector<File> modules;
  std::string initramfs;  // hash
  std::string command_line;
  std::string topology;
  std::uint64_t memory_bytes = 0;
  std::string cpu_model;
  std::string cpu_flags;
  std::string machine;           // "kvm" or "tcg"
  std::string emulator_path;     // empty: none
  std::string emulator_version;  // as it says itself
  std::string emulator_hash;
  std::uint32_t state_version = 0;  // of the machine's own part of the state
  // Of this host, where the machine lets the guest see it: "CPU", "kernel".
  std::map<std::string, std::string> host;
  SnapshotPoint point = SnapshotPoint::kHello;
  // Only with kAttached; at kHello no scheduler has run, and all share one snapshot.
  std::vector<File> scheduler_files;
  std::vector<std::string> scheduler_arguments;
};

// A name may stand there more than once (two files of one name), so this is no map.
struct NamedInput {
  std::string name;
  std::string value;

  bool operator==(const NamedInput&) const = default;
};

// The inputs by name in a fixed order: "kernel", "module virtio_net.ko", "CPU flags", "scheduler argument 1",
// ... Files are ordered by name.
std::vector<NamedInput> named_inputs(const SnapshotInputs& inputs);

// 32 hexadecimal digits, the same in every process. Lengths are hashed with the texts: inputs that differ in
// any way have different keys, as far as 128 bits tell.
std::string snapshot_key(std::span<const NamedInput> inputs);
std::string snapshot_key(const SnapshotInputs& inputs);

// Names of what the two do not have in common, in the order of `inputs`; empty: they are the same.
std::vector<std::string> differences(std::span<const NamedInput> inputs, std::span<const NamedInput> others);
std::vector<std::string> differences(const SnapshotInputs& inputs, const SnapshotInputs& others);

// "kernel, CPU flags and 3 more": at most `most` names, fit for a message whatever the names are.
std::string list_names(std::span<const std::string> names, std::size_t most = 6);

// "hello", "attached".
const char* point_name(SnapshotPoint point);

}  // namespace ktstr
