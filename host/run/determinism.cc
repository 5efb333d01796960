#include "host/run/determinism.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <set>

#include <fmt/format.h>

#include "common/quote.h"
#include "common/units.h"
#include "common/xxh3.h"

namespace ktstr {
namespace {

using ktstr::v1::InputFile;
namespace fs = std::filesystem;

constexpr std::size_t kMaxPath = 300;  // in messages

// What QEMU's pc machine loads by itself for a kernel that is given to it.
constexpr std::string_view kFirmware[] = {"bios-256k.bin", "kvmvapic.bin", "linuxboot.bin",
                                          "linuxboot_dma.bin", "pvh.bin"};

// splitmix64 (Steele, Lea, Flood 2014): neighbouring seeds give unrelated numbers.
class SplitMix {
 public:
  explicit SplitMix(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27U)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31U);
  }

 private:
  std::uint64_t state_;
};

InputFile input_of_text(const std::string& kind, std::string_view text) {
  InputFile input;
  input.set_kind(kind);
  input.set_bytes(text.size());
  input.set_xxh3(Xxh3::hex_of(text));
  return input;
}

Expected<InputFile> input_of_fd(const std::string& kind, int fd, std::uint64_t size) {
  auto hash = Xxh3::hex_of_file(fd, size);
  if (!hash) return std::unexpected(std::move(hash.error()));
  InputFile input;
  input.set_kind(kind);
  input.set_bytes(size);
  input.set_xxh3(std::move(*hash));
  return input;
}

Expected<InputFile> input_of_file(const std::string& kind, const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat st = {};
  if (!fd || ::fstat(fd.get(), &st) != 0)
    return fail_errno(ErrorCode::kHost, "cannot read " + quote(path, kMaxPath));
  if (!S_ISREG(st.st_mode)) return fail(ErrorCode::kHost, quote(path, kMaxPath) + " is not a regular file");
  auto input = input_of_fd(kind, fd.get(), static_cast<std::uint64_t>(st.st_size));
  if (!input) return propagate(std::move(input.error()), "reading " + quote(path, kMaxPath));
  input->set_path(path);
  return input;
}

Expected<void> add_emulator(const Machine::Emulator& emulator, std::vector<InputFile>& inputs) {
  auto binary = input_of_file("emulator", emulator.path);
  if (!binary) return std::unexpected(std::move(binary.error()));
  inputs.push_back(std::move(*binary));
  // argv[0] is where the binary lies, and -L where its firmware does.
  std::string flags;
  std::vector<std::string> folders;
  for (std::size_t i = 1; i < emulator.argv.size(); ++i) {
    if (emulator.argv[i] == "-L" && i + 1 < emulator.argv.size()) {
      folders.push_back(emulator.argv[++i]);
    } else {
      flags += emulator.argv[i] + "\n";
    }
  }
  inputs.push_back(input_of_text("emulator's flags", flags));
  for (const std::string_view name : kFirmware) {
    for (const std::string& folder : folders) {
      const fs::path path = fs::path(folder) / name;
      std::error_code error;
      if (!fs::is_regular_file(path, error)) continue;
      auto firmware = input_of_file("firmware", path.string());
      if (!firmware) return std::unexpected(std::move(firmware.error()));
      inputs.push_back(std::move(*firmware));
      break;
    }
  }
  return {};
}

// What tells one input from another of its kind.
std::string name_of(const InputFile& input) {
  const std::string& place = input.guest_path().empty() ? input.path() : input.guest_path();
  return place.empty() ? input.kind() : input.kind() + " " + quote(place, kMaxPath);
}

std::string what_changed(const InputFile& before, const InputFile& now) {
  if (before.bytes() != now.bytes()) return fmt::format("{} bytes then, {} now", before.bytes(), now.bytes());
  return fmt::format("the same size, xxh3 {} then, {} now", before.xxh3(), now.xxh3());
}

}  // namespace

Expected<ktstr::v1::Deterministic> derive_from_seed(const std::string& seed) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(seed.data(), seed.data() + seed.size(), number);
  if (error != std::errc() || end != seed.data() + seed.size()) {
    return fail(ErrorCode::kUsage, fmt::format("--deterministic={}: the seed is a whole number from 0 to {}",
                                               quote(seed), UINT64_MAX));
  }
  SplitMix random(number);
  ktstr::v1::Deterministic derived;
  derived.set_seed(number);
  // 4 or 8 ns an instruction: how much work fits between two ticks, and into a slice. Slower clocks would
  // cost too much guest time, faster ones too much of ours.
  derived.set_clock_shift(2 + static_cast<std::uint32_t>(random.next() & 1U));
  derived.set_random_seed(random.next());
  derived.set_jitter_seed(random.next() | 1U);  // 0 would be none
  return derived;
}

Expected<void> check_deterministic_kernel(const KernelImage& kernel) {
  constexpr const char* kOption = "CONFIG_X86_IOPL_IOPERM";
  const KernelConfig& config = kernel.config();
  if (!config.complete() || config.enabled(kOption)) return {};
  return fail(ErrorCode::kKernelLacks,
              fmt::format("--deterministic needs {}=y, which kernel {} does not have (according to {})",
                          kOption, kernel.release(), config.source()));
}

ktstr::v1::RunPlan plan_for_guest(const ktstr::v1::RunPlan& plan) {
  ktstr::v1::RunPlan lean = plan;
  lean.clear_run_id();
  lean.mutable_kernel()->clear_path();
  lean.mutable_kernel()->clear_config_source();
  lean.mutable_kernel()->clear_command_line();
  if (lean.has_scheduler()) lean.mutable_scheduler()->clear_host_path();
  for (auto& include : *lean.mutable_includes()) include.clear_host_path();
  return lean;
}

Expected<std::vector<InputFile>> list_inputs(const Prepared& prepared, const Machine& machine) {
  std::vector<InputFile> inputs;
  auto kernel = input_of_file("kernel", prepared.kernel.image_path());
  if (!kernel) return std::unexpected(std::move(kernel.error()));
  inputs.push_back(std::move(*kernel));
  for (const InitramfsEntry& entry : prepared.initramfs.entries) {
    if (entry.host_path.empty()) continue;
    auto file = input_of_file("guest file", entry.host_path);
    if (!file) return std::unexpected(std::move(file.error()));
    file->set_guest_path(entry.guest_path);
    inputs.push_back(std::move(*file));
  }
  inputs.push_back(input_of_text("plan", prepared.packed_plan));
  auto initramfs = input_of_fd("initramfs", prepared.initramfs.memfd.get(), prepared.initramfs.size);
  if (!initramfs) return propagate(std::move(initramfs.error()), "reading the initramfs");
  inputs.push_back(std::move(*initramfs));
  inputs.push_back(input_of_text("kernel command line", machine.command_line().text));
  if (auto added = add_emulator(machine.emulator(), inputs); !added)
    return std::unexpected(std::move(added.error()));
  return inputs;
}

std::vector<std::string> compare_inputs(const google::protobuf::RepeatedPtrField<InputFile>& recorded,
                                        const std::vector<InputFile>& present) {
  std::map<std::string, const InputFile*> now;
  for (const InputFile& input : present) now.emplace(name_of(input), &input);
  std::vector<std::string> changes;
  for (const InputFile& before : recorded) {
    const auto found = now.find(name_of(before));
    if (found == now.end()) {
      changes.push_back(name_of(before) + " is not used any more");
      continue;
    }
    if (found->second->xxh3() != before.xxh3())
      changes.push_back(name_of(before) + " has changed: " + what_changed(before, *found->second));
    now.erase(found);
  }
  for (const auto& [name, input] : now) changes.push_back(name + " was not there then");
  return changes;
}

std::vector<std::string> check_input_files(const google::protobuf::RepeatedPtrField<InputFile>& recorded) {
  std::vector<std::string> changes;
  std::set<std::string> seen;
  for (const InputFile& before : recorded) {
    if (before.path().empty() || !seen.insert(before.path()).second) continue;
    const auto now = input_of_file(before.kind(), before.path());
    if (!now) {
      changes.push_back(before.kind() + ": " + now.error().to_string());
    } else if (now->xxh3() != before.xxh3()) {
      changes.push_back(before.kind() + " " + quote(before.path(), kMaxPath) +
                        " has changed: " + what_changed(before, *now));
    }
  }
  return changes;
}

}  // namespace ktstr
