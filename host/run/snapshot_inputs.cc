#include "host/run/snapshot_inputs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include <fmt/format.h>

#include "common/quote.h"
#include "common/xxh3.h"
#include "host/kernel/image_cache.h"

namespace ktstr {
namespace {

// Large files that seldom change: their hashes are remembered.
Expected<std::string> hash_of_file(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat st = {};
  if (!fd || ::fstat(fd.get(), &st) != 0)
    return fail_errno(ErrorCode::kHost, "cannot read " + quote(path, 300));
  return ImageCache(ImageCache::default_folder()).key_of(fd.get(), static_cast<std::uint64_t>(st.st_size));
}

Expected<std::string> hash_of_content(const FileBundle& bundle, const FileBundle::File& file) {
  Xxh3 hash;
  std::string buffer;
  for (std::uint64_t at = 0; at < file.entry.size;) {
    buffer.resize(std::min<std::uint64_t>(std::uint64_t{1} << 20, file.entry.size - at));
    const ssize_t count =
        ::pread(bundle.memfd.get(), buffer.data(), buffer.size(), static_cast<off_t>(file.offset + at));
    if (count <= 0) return fail_errno(ErrorCode::kHost, "cannot read a file for the guest");
    hash.update(std::string_view(buffer).substr(0, static_cast<std::size_t>(count)));
    at += static_cast<std::uint64_t>(count);
  }
  return hash.hex();
}

// What of an entry the guest can see.
Expected<SnapshotInputs::File> input_of(const FileBundle& bundle, const FileBundle::File& file) {
  SnapshotInputs::File input{.name = file.entry.guest_path, .hash = fmt::format("{:o}", file.entry.mode)};
  if (file.entry.type == InitramfsEntryType::kSymlink) {
    input.hash += " -> " + file.entry.link_target;
  } else if (file.entry.type == InitramfsEntryType::kFile) {
    auto hash = hash_of_content(bundle, file);
    if (!hash) return std::unexpected(std::move(hash.error()));
    input.hash += " " + *hash;
  }
  return input;
}

// "1n1l2c1t", and what nodes and distances there are by their hash.
std::string topology_text(const ktstr::v1::Topology& topology) {
  return fmt::format("{}n{}l{}c{}t {}", topology.numa_nodes(), topology.llcs(), topology.cores_per_llc(),
                     topology.threads_per_core(), Xxh3::hex_of(topology.SerializeAsString()).substr(0, 8));
}

// The value behind `flag` on a command line, "" when it is not there.
std::string value_of(const std::vector<std::string>& argv, std::string_view flag) {
  const auto found = std::find(argv.begin(), argv.end(), flag);
  return found == argv.end() || found + 1 == argv.end() ? std::string() : *(found + 1);
}

}  // namespace

std::string lasting_command_line(const KernelCommandLine& line) {
  std::string text = line.text;
  for (const KernelArgument& argument : line.own) {
    if (!argument.text.starts_with("lpj=")) continue;
    const std::size_t at = (" " + text + " ").find(" " + argument.text + " ");
    if (at != std::string::npos) text.erase(at, argument.text.size() + 1);
  }
  return text;
}

Expected<SnapshotInputs> snapshot_inputs(const Prepared& prepared, const Machine& machine) {
  const auto& spec = prepared.plan.machine();
  SnapshotInputs inputs;
  auto kernel = hash_of_file(prepared.kernel.image_path());
  if (!kernel) return std::unexpected(std::move(kernel.error()));
  inputs.kernel = *kernel + (prepared.enter_payload ? " payload" : " image");
  auto initramfs = Xxh3::hex_of_file(prepared.initramfs.memfd.get(), prepared.initramfs.size);
  if (!initramfs) return std::unexpected(std::move(initramfs.error()));
  inputs.initramfs = std::move(*initramfs);
  inputs.command_line = lasting_command_line(machine.command_line());
  inputs.topology = topology_text(spec.topology());
  inputs.memory_bytes = spec.memory_bytes();
  const Machine::Emulator emulator = machine.emulator();
  inputs.cpu_model = value_of(emulator.argv, "-cpu");
  inputs.cpu_flags = fmt::format("{}", fmt::join(spec.cpu_flags(), ","));
  inputs.machine = machine.kind();
  if (!emulator.path.empty()) {
    auto hash = hash_of_file(emulator.path);
    if (!hash) return std::unexpected(std::move(hash.error()));
    inputs.emulator_path = emulator.path;
    inputs.emulator_version = emulator.version;
    inputs.emulator_hash = std::move(*hash);
  }
  Machine::SnapshotTerms terms = machine.snapshot_terms();
  inputs.state_version = terms.state_version;
  inputs.host = std::move(terms.host);
  for (const FileBundle::File& file : prepared.later_files.files) {
    // Folders are there for what is in them.
    if (file.entry.type == InitramfsEntryType::kDirectory) continue;
    auto input = input_of(prepared.later_files, file);
    if (!input) return std::unexpected(std::move(input.error()));
    inputs.scheduler_files.push_back(std::move(*input));
  }
  const auto& arguments = prepared.plan.scheduler().args();
  inputs.scheduler_arguments.assign(arguments.begin(), arguments.end());
  return inputs;
}

}  // namespace ktstr
