#include "host/memory/guest_memory.h"

#include <sys/uio.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace ktstr {

namespace {

// One load of a naturally aligned T: the guest may be storing to it.
template <typename T>
void copy_whole(std::byte* to, const std::byte* from) {
  using Aliasing [[gnu::may_alias]] = T;
  const T value = __atomic_load_n(reinterpret_cast<const Aliasing*>(from), __ATOMIC_RELAXED);
  std::memcpy(to, &value, sizeof value);
}

// Copies each byte exactly once. The compiler sees ordinary memory and would be free to load again from
// `from` what it has already copied; the barrier takes that freedom.
void copy_once(std::byte* to, const std::byte* from, std::size_t size) {
  const bool aligned = reinterpret_cast<std::uintptr_t>(from) % size == 0;
  if (aligned && size == 8) {
    copy_whole<std::uint64_t>(to, from);
  } else if (aligned && size == 4) {
    copy_whole<std::uint32_t>(to, from);
  } else if (aligned && size == 2) {
    copy_whole<std::uint16_t>(to, from);
  } else {
    std::memcpy(to, from, size);
  }
  asm volatile("" : : : "memory");
}

bool copy_from(pid_t process, std::span<std::byte> to, const std::byte* from) {
  const iovec local = {to.data(), to.size()};
  // The kernel only reads there.
  const iovec remote = {const_cast<std::byte*>(from), to.size()};
  return process_vm_readv(process, &local, 1, &remote, 1, 0) == static_cast<ssize_t>(to.size());
}

}  // namespace

Expected<GuestMemory> GuestMemory::create(std::vector<MemoryRegion> regions) {
  std::erase_if(regions, [](const MemoryRegion& region) { return region.bytes.empty(); });
  std::ranges::sort(regions, {}, &MemoryRegion::gpa);
  Gpa free;  // first address after the regions seen so far
  for (const MemoryRegion& region : regions) {
    if (region.gpa.value() >= kAddressLimit || region.bytes.size() > kAddressLimit - region.gpa.value()) {
      return fail(ErrorCode::kUsage,
                  fmt::format("guest memory: the region of {:#x} bytes at {} goes beyond the last physical "
                              "address {:#x}",
                              region.bytes.size(), region.gpa, kAddressLimit - 1));
    }
    if (region.gpa < free) {
      return fail(
          ErrorCode::kUsage,
          fmt::format("guest memory: the region at {} begins inside the one before it, which ends at {}",
                      region.gpa, free));
    }
    free = region.gpa + region.bytes.size();
  }
  return GuestMemory(std::move(regions));
}

const MemoryRegion* GuestMemory::find(Gpa gpa) const {
  const auto after = std::ranges::upper_bound(regions_, gpa, {}, &MemoryRegion::gpa);
  if (after == regions_.begin()) return nullptr;
  const MemoryRegion& region = *std::prev(after);
  return gpa - region.gpa < region.bytes.size() ? &region : nullptr;
}

FaultOr<> GuestMemory::read(Gpa gpa, std::span<std::byte> out, ReadBudget& budget) const {
  if (out.empty()) return {};
  if (!budget.spend(out.size()))
    return std::unexpected(Fault{.kind = Fault::Kind::kBudget, .kva = {}, .gpa = gpa, .size = out.size()});
  const std::uint64_t size = out.size();
  // No region reaches 2^64, so a range that wraps leaves RAM before it does.
  while (!out.empty()) {
    const MemoryRegion* region = find(gpa);
    if (region == nullptr)
      return std::unexpected(Fault{.kind = Fault::Kind::kNotRam, .kva = {}, .gpa = gpa, .size = size});
    const std::span<const std::byte> there = region->bytes.subspan(gpa - region->gpa);
    const std::size_t piece = std::min(out.size(), there.size());
    if (region->process == 0) {
      copy_once(out.data(), there.data(), piece);
    } else if (!copy_from(region->process, out.first(piece), there.data())) {
      return std::unexpected(Fault{.kind = Fault::Kind::kNotRam, .kva = {}, .gpa = gpa, .size = size});
    }
    out = out.subspan(piece);
    gpa += piece;
  }
  return {};
}

FaultOr<GuestString> GuestMemory::read_c_string(Gpa gpa, std::size_t limit, ReadBudget& budget) const {
  const auto as_string = [limit](Fault fault) {
    fault.access = Fault::Access::kString;
    fault.size = limit;
    return std::unexpected(fault);
  };
  GuestString string;
  std::array<char, kStringPiece> piece;
  while (string.text.size() < limit) {
    // Never beyond the end of RAM: the string may end right before it.
    const std::uint64_t left = std::max<std::uint64_t>(ram_left(gpa), 1);
    const std::size_t size = std::min({piece.size(), limit - string.text.size(), std::size_t{left}});
    if (const auto done = read(gpa, std::as_writable_bytes(std::span(piece).first(size)), budget); !done)
      return as_string(done.error());
    const std::string_view copied = std::string_view(piece.data(), size);
    const std::size_t length = std::min(copied.find('\0'), size);
    string.text += copied.substr(0, length);
    if (length != size) {
      string.terminated = true;
      break;
    }
    gpa += size;
  }
  return string;
}

std::uint64_t GuestMemory::ram_left(Gpa gpa) const {
  const MemoryRegion* region = find(gpa);
  return region == nullptr ? 0 : region->bytes.size() - (gpa - region->gpa);
}

Gpa GuestMemory::end() const {
  return regions_.empty() ? Gpa() : regions_.back().gpa + regions_.back().bytes.size();
}

std::uint64_t GuestMemory::total_bytes() const {
  std::uint64_t total = 0;
  for (const MemoryRegion& region : regions_) total += region.bytes.size();
  return total;
}

}  // namespace ktstr
