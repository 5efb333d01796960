#include "host/machine/kvm/devices/guest_ram_view.h"

#include <algorithm>
#include <atomic>
#include <cstring>

namespace ktstr::kvm {
namespace {

// The bytes of `region` from `gpa` on, at most `size` of them; empty when `gpa` is not in the region.
std::span<std::byte> part_of(const RamRegion& region, std::uint64_t gpa, std::uint64_t size) {
  if (gpa < region.gpa) return {};
  const std::uint64_t offset = gpa - region.gpa;
  if (offset >= region.host.size()) return {};
  return region.host.subspan(offset, std::min(size, region.host.size() - offset));
}

// Calls `visit(piece)` for the pieces of a range, region by region. False when the range leaves RAM, which
// may be noticed after some pieces.
template <class Visit>
bool for_each_piece(const std::vector<RamRegion>& regions, std::uint64_t gpa, std::uint64_t size,
                    Visit visit) {
  for (const RamRegion& region : regions) {
    if (size == 0) return true;
    const std::span<std::byte> piece = part_of(region, gpa, size);
    if (piece.empty()) continue;
    visit(piece);
    gpa += piece.size();  // may wrap at the very end; then no further region begins there
    size -= piece.size();
  }
  return size == 0;
}

std::uint16_t* aligned_value(std::span<std::byte> bytes) {
  if (bytes.size() != sizeof(std::uint16_t)) return nullptr;
  if (reinterpret_cast<std::uintptr_t>(bytes.data()) % alignof(std::uint16_t) != 0) return nullptr;
  return reinterpret_cast<std::uint16_t*>(bytes.data());
}

}  // namespace

bool GuestRamView::contains(std::uint64_t gpa, std::uint64_t size) const {
  return for_each_piece(regions_, gpa, size, [](std::span<std::byte>) {});
}

bool GuestRamView::read(std::uint64_t gpa, std::span<std::byte> out) const {
  if (!contains(gpa, out.size())) return false;
  for_each_piece(regions_, gpa, out.size(), [&](std::span<std::byte> piece) {
    std::memcpy(out.data(), piece.data(), piece.size());
    out = out.subspan(piece.size());
  });
  // The guest writes here at any time. The compiler must not take a value from its origin a second time where
  // the caller looks at the copy.
  std::atomic_signal_fence(std::memory_order_seq_cst);
  return true;
}

bool GuestRamView::write(std::uint64_t gpa, std::span<const std::byte> bytes) const {
  if (!contains(gpa, bytes.size())) return false;
  for_each_piece(regions_, gpa, bytes.size(), [&](std::span<std::byte> piece) {
    std::memcpy(piece.data(), bytes.data(), piece.size());
    bytes = bytes.subspan(piece.size());
  });
  return true;
}

std::span<std::byte> GuestRamView::bytes(std::uint64_t gpa, std::uint64_t size) const {
  for (const RamRegion& region : regions_) {
    const std::span<std::byte> piece = part_of(region, gpa, size);
    if (!piece.empty()) return piece.size() == size ? piece : std::span<std::byte>{};
  }
  return {};
}

bool GuestRamView::load_acquire(std::uint64_t gpa, std::uint16_t& value) const {
  std::uint16_t* const at = aligned_value(bytes(gpa, sizeof value));
  if (at == nullptr) return false;
  value = std::atomic_ref(*at).load(std::memory_order_acquire);
  return true;
}

bool GuestRamView::store_release(std::uint64_t gpa, std::uint16_t value) const {
  std::uint16_t* const at = aligned_value(bytes(gpa, sizeof value));
  if (at == nullptr) return false;
  std::atomic_ref(*at).store(value, std::memory_order_release);
  return true;
}

}  // namespace ktstr::kvm
