#include "host/machine/kvm/guest_ram.h"

#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include <fmt/core.h>

#include "common/units.h"
#include "host/machine/kvm/guest_layout.h"

namespace ktstr::kvm {
namespace {

constexpr std::uint64_t kPage = 4096;

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
  if (!congruent || pages_ != RamPages::kNormal || whole == 0) return copy_file(file, offset, to);
  void* const mapped = mmap(to.data(), whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE,
                            file, static_cast<off_t>(offset));
  if (mapped == MAP_FAILED) return copy_file(file, offset, to);
  madvise(mapped, whole, MADV_DONTDUMP);
  mapped_bytes_ += whole;
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
