// Finds the QEMU that runs tcg machines, and learns what must be known of its version.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"

namespace ktstr {

struct Qemu {
  std::string path;
  std::string version;  // "10.0.2 (Debian 1:10.0.2+ds-2)"
  int major = 0;
  // -L folders that belong to this binary; empty where it finds its firmware by itself.
  std::vector<std::string> firmware_folders;
  // False for QEMU before 10: with several vCPU threads it can go on running translations of code that
  // another vCPU has patched meanwhile, and attaching a scheduler patches static keys (`Oops: int3` in the
  // guest).
  bool multi_thread_safe() const { return major >= 10; }
};

// Where to look, in this order.
struct QemuPlaces {
  std::string override_path;                // KTSTR_QEMU: when set, nothing else is tried
  std::filesystem::path cache;              // unpacked by scripts/fetch-qemu, <cache>/qemu/current
  std::string search_path;                  // PATH
  std::chrono::milliseconds limit{10'000};  // for `-version`
};
QemuPlaces default_qemu_places();

// "10.0.2 (Debian ...)" and the major number out of what `-version` prints; kHost when that is no QEMU.
Expected<Qemu> parse_qemu_version(std::string_view output);

// Error kHost: none found (the message names package and script), or it cannot be run, or says nothing
// sensible within the limit.
Expected<Qemu> find_qemu(const QemuPlaces& places);

}  // namespace ktstr
