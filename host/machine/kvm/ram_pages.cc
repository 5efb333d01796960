#include "host/machine/kvm/ram_pages.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "common/unique_fd.h"

namespace ktstr::kvm {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kEntries = 4096;  // looked up at a time: 16 MiB of memory

// Of an entry: the page is there, or was and is in swap (or on its way to another place).
constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;
constexpr std::uint64_t kSwapped = std::uint64_t{1} << 62;

// All of `entries`, or false.
bool read_entries(int pagemap, std::uint64_t first_page, std::span<std::uint64_t> entries) {
  const ssize_t got = pread(pagemap, entries.data(), entries.size_bytes(),
                            static_cast<off_t>(first_page * sizeof(std::uint64_t)));
  return got == static_cast<ssize_t>(entries.size_bytes());
}

}  // namespace

Expected<void> for_each_page_run(std::span<const std::byte> memory, const PageRun& each) {
  const UniqueFd pagemap(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  if (!pagemap) return each(memory, true);
  std::vector<std::uint64_t> entries(kEntries);
  while (!memory.empty()) {
    const std::size_t pages = std::min(kEntries, memory.size() / kPage);
    const std::span<std::uint64_t> part = std::span(entries).first(pages);
    if (!read_entries(pagemap.get(), reinterpret_cast<std::uintptr_t>(memory.data()) / kPage, part))
      std::ranges::fill(part, kPresent);
    for (std::size_t begin = 0; begin < pages;) {
      const auto touched = [&part](std::size_t page) { return (part[page] & (kPresent | kSwapped)) != 0; };
      std::size_t end = begin + 1;
      while (end < pages && touched(end) == touched(begin)) ++end;
      if (auto done = each(memory.subspan(begin * kPage, (end - begin) * kPage), touched(begin)); !done)
        return done;
      begin = end;
    }
    memory = memory.subspan(pages * kPage);
  }
  return {};
}

Expected<void> for_each_data_part(int file, std::uint64_t begin, std::uint64_t size, std::uint64_t grain,
                                  const FilePart& each) {
  const std::uint64_t end = begin + size;
  // The next data at `at` or behind; `end` when there are none. Without holes everything is data.
  const auto next_data = [&](std::uint64_t at) {
    const off_t data = lseek(file, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0) return errno == ENXIO ? end : at;
    return std::min(end, static_cast<std::uint64_t>(data));
  };
  const auto grain_end = [&](std::uint64_t at) {
    return std::min(end, begin + ((at - begin) / grain + 1) * grain);
  };
  for (std::uint64_t at = next_data(begin); at < end;) {
    const std::uint64_t from = begin + (at - begin) / grain * grain;
    std::uint64_t to = grain_end(at);
    // As long as the next grain has data too.
    while (to < end) {
      at = next_data(to);
      if (at >= grain_end(to)) break;
      to = grain_end(to);
    }
    if (auto done = each(from, to - from); !done) return done;
    if (to >= end) break;
  }
  return {};
}

}  // namespace ktstr::kvm
