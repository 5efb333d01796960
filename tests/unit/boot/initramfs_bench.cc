// How long it takes to build an initramfs: initramfs_bench [--program] FILE...
// Packs the files given (with their shared libraries when --program is given), 21 times, for each
// compression, and prints the median and the extremes of the time in milliseconds, closure included.
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "host/boot/elf_closure.h"
#include "host/boot/initramfs.h"

namespace {

using ktstr::InitramfsBuilder;
using ktstr::InitramfsCompression;

ktstr::Expected<ktstr::Initramfs> pack(const std::vector<std::string>& files, bool programs,
                                       InitramfsCompression compression) {
  InitramfsBuilder builder;
  for (const std::string& file : files) {
    auto added = builder.add_file("/bin/" + file.substr(file.rfind('/') + 1), file, 0755);
    if (!added) return std::unexpected(std::move(added.error()));
    if (!programs) continue;
    auto closure = ktstr::elf_closure(file);
    if (!closure) return std::unexpected(std::move(closure.error()));
    for (const auto& library : closure->files) {
      added = library.link_to.empty() ? builder.add_file(library.guest_path, library.host_path, 0755)
                                      : builder.add_symlink(library.guest_path, library.link_to);
      if (!added) return std::unexpected(std::move(added.error()));
    }
  }
  return builder.build(compression);
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> files(argv + 1, argv + argc);
  const bool programs = !files.empty() && files.front() == "--program";
  if (programs) files.erase(files.begin());
  constexpr int kRounds = 21;
  for (const auto& [compression, name] :
       {std::pair(InitramfsCompression::kNone, "none"), std::pair(InitramfsCompression::kZstd, "zstd"),
        std::pair(InitramfsCompression::kGzip, "gzip")}) {
    std::vector<double> times;
    std::uint64_t size = 0;
    std::uint64_t memory = 0;
    for (int round = 0; round < kRounds; ++round) {
      const auto start = std::chrono::steady_clock::now();
      auto archive = pack(files, programs, compression);
      const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
      if (!archive) {
        fmt::print(stderr, "{}\n", archive.error().to_string());
        return 1;
      }
      struct stat st = {};
      if (::fstat(archive->memfd.get(), &st) == 0) memory = static_cast<std::uint64_t>(st.st_blocks) * 512;
      size = archive->size;
      times.push_back(took.count());
    }
    std::ranges::sort(times);
    fmt::print("{}: median {:.1f} ms ({:.1f} to {:.1f}), {} bytes, {} bytes of memory\n", name,
               times[times.size() / 2], times.front(), times.back(), size, memory);
  }
  return 0;
}
