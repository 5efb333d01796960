#include "host/machine/kvm/guest_ram.h"

#include <fcntl.h>
#include <linux/mempolicy.h>
#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include <fmt/core.h>

#include "common/sparse_file.h"
#include "common/units.h"
#include "host/machine/kvm/guest_layout.h"
#include "host/machine/kvm/ram_pages.h"

namespace ktstr::kvm {
namespace {

constexpr std::uint64_t kPage = 4096;
// A clone's mappings: of holes smaller than this the file's zeros are mapped, so that there are not too many
// of them (vm.max_map_count is 65,530). A multiple of the processor's large pages.
constexpr std::uint64_t kMapGrain = 2 * kMiB;
constexpr std::uint64_t kMaxMappings = 4096;

Expected<Mapping> map_node(std::uint64_t bytes, RamPages pages) {
  // Huge pages are reserved now: one that is not there when the guest touches it ends the process (SIGBUS).
  const int flags =
      MAP_PRIVATE | MAP_ANONYMOUS | (pages == RamPages::kHuge ? MAP_HUGETLB | MAP_HUGE_2MB : MAP_NORESERVE);
  auto mapping = Mapping::map(-1, bytes, PROT_READ | PROT_WRITE, flags);
  if (!mapping) {
    const std::string hint =
        pages == RamPages::kHuge
            ? "; huge pages are set aside by writing their number to /proc/sys/vm/nr_hugepages"
            : "";
    return propagate(std::move(mapping.error()),
                     fmt::format("taking {} of guest RAM{}", format_size(bytes), hint));
  }
  // A core dump of the monitor is of no use with the guest's memory in it; ktstr-vm dump --core writes that
  // one.
  madvise(mapping->mutable_bytes().data(), bytes, MADV_DONTDUMP);
  if (pages == RamPages::kTransparent) madvise(mapping->mutable_bytes().data(), bytes, MADV_HUGEPAGE);
  return mapping;
}

}  // namespace

Expected<GuestRam> GuestRam::create(std::span<const std::uint64_t> node_bytes, RamPages pages) {
  GuestRam ram;
  ram.pages_ = pages;
  ram.pieces_ = lay_out_ram(node_bytes, kLowRamEnd);
  for (const std::uint64_t bytes : node_bytes) {
    if (pages == RamPages::kHuge && bytes % (2 * kMiB) != 0) {
      return fail(ErrorCode::kUsage,
                  fmt::format("a node's memory has to be a multiple of 2 MiB for huge pages, not {}",
                              format_size(bytes)));
    }
  }
  for (const std::uint64_t bytes : node_bytes) {
    auto mapping = map_node(bytes, pages);
    if (!mapping) return std::unexpected(std::move(mapping.error()));
    ram.nodes_.push_back(*std::move(mapping));
  }
  return ram;
}

Expected<GuestRam> GuestRam::create_from(int file, std::span<const std::uint64_t> node_bytes,
                                         RamPages pages) {
  auto ram = create(node_bytes, pages);
  if (!ram) return ram;
  ram->snapshot_.reset(fcntl(file, F_DUPFD_CLOEXEC, 0));
  if (!ram->snapshot_) return fail_errno(ErrorCode::kHost, "cannot keep the snapshot's RAM file");
  std::uint64_t total = 0;
  for (const std::uint64_t bytes : node_bytes) total += bytes;
  // Before mapping: a page behind the file's end is there, and ends the process when it is touched.
  struct stat st {};
  if (fstat(file, &st) != 0) return fail_errno(ErrorCode::kHost, "cannot find the size of a snapshot's RAM");
  if (static_cast<std::uint64_t>(st.st_size) != total)
    return fail(
        ErrorCode::kUsage,
        fmt::format("the snapshot's RAM file has {} bytes, and this guest's memory {}", st.st_size, total));
  std::uint64_t offset = 0;
  for (Mapping& node : ram->nodes_) {
    if (auto mapped = ram->map_from(file, offset, node.mutable_bytes()); !mapped)
      return std::unexpected(std::move(mapped.error()));
    offset += node.size();
  }
  return ram;
}

Expected<void> GuestRam::map_from(int file, std::uint64_t offset, std::span<std::byte> to) {
  const std::uint64_t grain = std::max(kMapGrain, to.size() / kMaxMappings / kMapGrain * kMapGrain);
  return for_each_data_part(
      file, offset, to.size(), grain, [&](std::uint64_t at, std::uint64_t size) -> Expected<void> {
        const std::span<std::byte> part = to.subspan(at - offset, size);
        if (pages_ == RamPages::kHuge) return copy_file(file, at, part);
        void* const mapped = mmap(part.data(), part.size(), PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, file, static_cast<off_t>(at));
        if (mapped == MAP_FAILED) return fail_errno(ErrorCode::kHost, "cannot map a snapshot's RAM");
        madvise(mapped, part.size(), MADV_DONTDUMP);
        mapped_bytes_ += part.size();
        file_ranges_.push_back({part, at});
        return {};
      });
}

Expected<void> GuestRam::prefer_host_nodes(std::size_t node, const CpuSet& host_nodes) {
  constexpr std::size_t kBits = 1024;  // nodes that any kernel can have (MAX_NUMNODES)
  constexpr std::size_t kWordBits = 64;
  std::array<unsigned long, kBits / kWordBits> mask = {};
  for (const std::uint32_t host_node : host_nodes.cpus())
    if (host_node < kBits) mask[host_node / kWordBits] |= 1UL << host_node % kWordBits;
  const auto memory = nodes_[node].mutable_bytes();
  // One bit more than there are: the kernel takes one off (get_nodes()).
  if (syscall(SYS_mbind, memory.data(), memory.size(), MPOL_PREFERRED_MANY, mask.data(), kBits + 1, 0) != 0) {
    return fail_errno(ErrorCode::kHost,
                      fmt::format("cannot take the memory of node {} from the host's nodes {}", node,
                                  host_nodes.to_string()));
  }
  return {};
}

Expected<std::string> GuestRam::save(int file) const {
  SparseWriter writer(file);
  for (const Mapping& node : nodes_) {
    auto saved = for_each_page_run(node.bytes(), [&](std::span<const std::byte> pages, bool touched) {
      return touched ? writer.append(pages) : save_untouched(pages, writer);
    });
    if (!saved) return propagate(std::move(saved.error()), "writing guest RAM");
  }
  auto contents = writer.finish();
  if (!contents) return propagate(std::move(contents.error()), "writing guest RAM");
  return std::move(contents->checksum);
}

// Zeros, except where a file is mapped.
Expected<void> GuestRam::save_untouched(std::span<const std::byte> pages, SparseWriter& writer) const {
  const std::byte* const end = pages.data() + pages.size();
  const std::byte* at = pages.data();
  for (const FileRange& range : file_ranges_) {
    const std::byte* const from = std::max(at, range.memory.data());
    const std::byte* const to = std::min(end, range.memory.data() + range.memory.size());
    if (from >= to) continue;
    writer.skip(static_cast<std::uint64_t>(from - at));
    const auto size = static_cast<std::uint64_t>(to - from);
    // Not by reading the memory, which would make pages of the snapshot's holes.
    auto saved =
        snapshot_ ? writer.append_file(snapshot_.get(), size,
                                       range.offset + static_cast<std::uint64_t>(from - range.memory.data()))
                  : writer.append({from, size});
    if (!saved) return saved;
    at = to;
  }
  writer.skip(static_cast<std::uint64_t>(end - at));
  return {};
}

std::vector<std::uint64_t> GuestRam::node_bytes() const {
  std::vector<std::uint64_t> bytes;
  for (const Mapping& node : nodes_) bytes.push_back(node.size());
  return bytes;
}

std::vector<RamRegion> GuestRam::regions() {
  std::vector<RamRegion> regions;
  for (const RamPiece& piece : pieces_)
    regions.push_back({piece.gpa, nodes_[piece.node].mutable_bytes().subspan(piece.file_offset, piece.size)});
  return regions;
}

std::span<std::byte> GuestRam::bytes(std::uint64_t gpa, std::uint64_t size) {
  for (const RamPiece& piece : pieces_) {
    if (gpa < piece.gpa || gpa - piece.gpa > piece.size || size > piece.size - (gpa - piece.gpa)) continue;
    return nodes_[piece.node].mutable_bytes().subspan(piece.file_offset + (gpa - piece.gpa), size);
  }
  return {};
}

Expected<void> GuestRam::load_file(int file, std::uint64_t offset, std::uint64_t size, std::uint64_t gpa) {
  if (size == 0) return {};
  const std::span<std::byte> to = bytes(gpa, size);
  if (to.empty()) {
    return fail(ErrorCode::kUsage,
                fmt::format("{} at {:#x} do not fit into guest RAM; give the guest more memory",
                            format_size(size), gpa));
  }
  // Before mapping: a page behind the file's end is there, and ends the process when it is touched.
  struct stat st {};
  if (fstat(file, &st) != 0) return fail_errno(ErrorCode::kHost, "cannot find the size of a file");
  const auto file_size = static_cast<std::uint64_t>(st.st_size);
  if (offset > file_size || size > file_size - offset)
    return fail(ErrorCode::kUsage, "the file is shorter than its headers say");
  // Whole pages are mapped; what is left on the last one is copied, because the rest of that page is not the
  // file's.
  const std::uint64_t whole = size / kPage * kPage;
  const bool congruent = offset % kPage == 0 && reinterpret_cast<std::uintptr_t>(to.data()) % kPage == 0;
  if (!congruent || pages_ != RamPages::kNormal || whole == 0 || snapshot_)
    return copy_file(file, offset, to);
  void* const mapped = mmap(to.data(), whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE,
                            file, static_cast<off_t>(offset));
  if (mapped == MAP_FAILED) return copy_file(file, offset, to);
  madvise(mapped, whole, MADV_DONTDUMP);
  mapped_bytes_ += whole;
  file_ranges_.push_back({to.first(whole), offset});
  return copy_file(file, offset + whole, to.subspan(whole));
}

Expected<void> GuestRam::copy_file(int file, std::uint64_t offset, std::span<std::byte> to) {
  while (!to.empty()) {
    const ssize_t got = pread(file, to.data(), to.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno(ErrorCode::kHost, "cannot read into guest RAM");
    if (got == 0) return fail(ErrorCode::kUsage, "the file is shorter than its headers say");
    to = to.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
  return {};
}

}  // namespace ktstr::kvm
