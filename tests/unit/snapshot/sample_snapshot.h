// A snapshot for tests: 3 MiB of "RAM" with a few pages of data, and a short state.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "common/sparse_file.h"
#include "host/snapshot/snapshot_cache.h"

namespace ktstr::test {

inline SnapshotInputs sample_inputs() {
  SnapshotInputs inputs;
  inputs.kernel = "00112233445566778899aabbccddeeff";
  inputs.modules = {{"virtio.ko", "01"}, {"virtio_ring.ko", "02"}};
  inputs.initramfs = "ffeeddccbbaa99887766554433221100";
  inputs.command_line = "console=ttyS0 panic=-1";
  inputs.topology = "1n1l2c1t";
  inputs.memory_bytes = std::uint64_t{512} << 20;
  inputs.cpu_model = "EPYC";
  inputs.machine = "tcg";
  inputs.emulator_path = "/usr/bin/qemu-system-x86_64";
  inputs.emulator_version = "10.0.2";
  inputs.emulator_hash = "0123";
  inputs.state_version = 1;
  inputs.host = {{"CPU", "A Processor"}, {"kernel", "6.12"}};
  inputs.point = SnapshotPoint::kAttached;
  inputs.scheduler_files = {{"/bin/scx_lavd", "03"}, {"/lib/libelf.so.1", "04"}};
  inputs.scheduler_arguments = {"--performance", "--verbose"};
  return inputs;
}

// The same, but another snapshot for every number.
inline SnapshotInputs numbered_inputs(int number) {
  SnapshotInputs inputs = sample_inputs();
  inputs.command_line += " number=" + std::to_string(number);
  return inputs;
}

inline constexpr std::size_t kSampleRam = std::size_t{3} << 20;

inline std::vector<std::byte> sample_ram(std::size_t data_bytes = 64 << 10) {
  std::vector<std::byte> ram(kSampleRam);
  for (std::size_t i = 0; i < data_bytes; ++i)
    ram[(std::size_t{1} << 20) + i] = static_cast<std::byte>(i % 251 + 1);
  return ram;
}

inline const std::string kSampleState = "registers and devices";

inline v1::SnapshotManifest sample_manifest() {
  v1::SnapshotManifest manifest;
  manifest.set_run_id("20261121T140500Z-1a2b3c");
  manifest.mutable_facts()->set_kernel_release("6.12.1-test");
  manifest.set_guest_monotonic_ns(1'234'567'890);
  return manifest;
}

// Fills the writer's files; the checksum of RAM.
inline std::string fill(const SnapshotWriter& writer, std::size_t data_bytes = 64 << 10) {
  SparseWriter ram(writer.ram());
  EXPECT_TRUE(ram.append(sample_ram(data_bytes)));
  const auto contents = ram.finish();
  EXPECT_TRUE(contents);
  EXPECT_EQ(::pwrite(writer.state(), kSampleState.data(), kSampleState.size(), 0),
            static_cast<ssize_t>(kSampleState.size()));
  return contents ? contents->checksum : "";
}

// Makes a whole snapshot; its key.
inline std::string make_snapshot(const SnapshotCache& cache, const SnapshotInputs& inputs,
                                 std::size_t data_bytes = 64 << 10) {
  auto begun = cache.begin(inputs);
  EXPECT_TRUE(begun) << begun.error().to_string();
  if (!begun || !begun->writer) return "";
  const std::string checksum = fill(*begun->writer, data_bytes);
  const auto committed = begun->writer->commit(sample_manifest(), checksum);
  EXPECT_TRUE(committed) << committed.error().to_string();
  return snapshot_key(inputs);
}

inline std::string read_all(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Changes one byte of a file, whatever its mode is.
inline void flip_byte(const std::string& path, off_t at) {
  ASSERT_EQ(::chmod(path.c_str(), 0600), 0);
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  char byte = 0;
  EXPECT_EQ(::pread(fd, &byte, 1, at), 1);
  byte = static_cast<char>(byte ^ 0x10);
  EXPECT_EQ(::pwrite(fd, &byte, 1, at), 1);
  ::close(fd);
}

}  // namespace ktstr::test
