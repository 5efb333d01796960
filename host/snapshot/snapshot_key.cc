#include "host/snapshot/snapshot_key.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <string_view>
#include <tuple>

#include <fmt/format.h>

#include "common/quote.h"
#include "common/xxh3.h"

namespace ktstr {
namespace {

// Changes when the meaning of an input changes without its name; then no old key is found any more.
constexpr std::string_view kKeyVersion = "ktstr-vm snapshot key 1\n";

// Little-endian on every host.
void add_number(Xxh3& hash, std::uint64_t value) {
  std::array<std::byte, 8> bytes = {};
  for (std::byte& byte : bytes) {
    byte = static_cast<std::byte>(value & 0xff);
    value >>= 8;
  }
  hash.update(bytes);
}

void add_text(Xxh3& hash, std::string_view text) {
  add_number(hash, text.size());
  hash.update(text);
}

bool comes_first(const NamedInput& a, const NamedInput& b) {
  return std::tie(a.name, a.value) < std::tie(b.name, b.value);
}

std::vector<NamedInput> sorted(std::vector<NamedInput> inputs) {
  std::sort(inputs.begin(), inputs.end(), comes_first);
  return inputs;
}

std::vector<NamedInput> named_files(std::string_view prefix, std::span<const SnapshotInputs::File> files) {
  std::vector<NamedInput> inputs;
  inputs.reserve(files.size());
  for (const auto& file : files) inputs.push_back({fmt::format("{} {}", prefix, file.name), file.hash});
  return sorted(std::move(inputs));
}

}  // namespace

std::vector<NamedInput> named_inputs(const SnapshotInputs& inputs) {
  std::vector<NamedInput> named;
  const auto add = [&](std::string name, std::string value) {
    named.push_back({std::move(name), std::move(value)});
  };
  const auto add_files = [&](std::string_view prefix, std::span<const SnapshotInputs::File> files) {
    for (NamedInput& file : named_files(prefix, files)) named.push_back(std::move(file));
  };
  add("point", point_name(inputs.point));
  add("kernel", inputs.kernel);
  add("initramfs", inputs.initramfs);
  add("command line", inputs.command_line);
  add("topology", inputs.topology);
  add("memory", fmt::format("{}", inputs.memory_bytes));
  add("CPU model", inputs.cpu_model);
  add("CPU flags", inputs.cpu_flags);
  add("machine", inputs.machine);
  add("emulator path", inputs.emulator_path);
  add("emulator version", inputs.emulator_version);
  add("emulator", inputs.emulator_hash);
  add("state version", fmt::format("{}", inputs.state_version));
  for (const auto& [name, value] : inputs.host) add("host " + name, value);
  if (inputs.point == SnapshotPoint::kAttached) {
    add_files("scheduler file", inputs.scheduler_files);
    for (std::size_t i = 0; i < inputs.scheduler_arguments.size(); ++i)
      add(fmt::format("scheduler argument {}", i + 1), inputs.scheduler_arguments[i]);
  }
  add_files("module", inputs.modules);
  return named;
}

std::string snapshot_key(std::span<const NamedInput> inputs) {
  Xxh3 hash;
  hash.update(kKeyVersion);
  add_number(hash, inputs.size());
  for (const NamedInput& input : inputs) {
    add_text(hash, input.name);
    add_text(hash, input.value);
  }
  return hash.hex();
}

std::string snapshot_key(const SnapshotInputs& inputs) {
  return snapshot_key(named_inputs(inputs));
}

std::vector<std::string> differences(std::span<const NamedInput> inputs, std::span<const NamedInput> others) {
  const auto ours = sorted({inputs.begin(), inputs.end()});
  const auto theirs = sorted({others.begin(), others.end()});
  std::vector<NamedInput> changed;
  std::set_symmetric_difference(ours.begin(), ours.end(), theirs.begin(), theirs.end(),
                                std::back_inserter(changed), comes_first);
  // One name for the two values it has, in the order in which people think of them.
  std::vector<std::string> names;
  const auto take = [&](std::span<const NamedInput> order) {
    for (const NamedInput& input : order) {
      const auto same_name = [&](const NamedInput& one) { return one.name == input.name; };
      if (!std::any_of(changed.begin(), changed.end(), same_name)) continue;
      names.push_back(input.name);
      std::erase_if(changed, same_name);
    }
  };
  take(inputs);
  take(others);
  return names;
}

std::vector<std::string> differences(const SnapshotInputs& inputs, const SnapshotInputs& others) {
  return differences(named_inputs(inputs), named_inputs(others));
}

std::string list_names(std::span<const std::string> names, std::size_t most) {
  std::string text;
  const std::size_t shown = std::min(names.size(), most);
  for (std::size_t i = 0; i < shown; ++i) {
    // A path of the user's may be in it.
    const std::string quoted = quote(names[i], 100);
    const bool plain = quoted.size() == names[i].size() + 2;
    text += (i > 0 ? ", " : "") + (plain ? names[i] : quoted);
  }
  if (shown < names.size()) text += fmt::format(" and {} more", names.size() - shown);
  return text;
}

const char* point_name(SnapshotPoint point) {
  return point == SnapshotPoint::kAttached ? "attached" : "hello";
}

}  // namespace ktstr
