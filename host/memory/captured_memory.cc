#include "host/memory/captured_memory.h"

#include <algorithm>
#include <string_view>

namespace ktstr {
namespace {

Fault not_captured(Kva kva, std::uint64_t size, Fault::Access access) {
  Fault fault;
  fault.kind = Fault::Kind::kNotCaptured;
  fault.access = access;
  fault.kva = kva;
  fault.size = size;
  return fault;
}

Fault out_of_budget(Kva kva, std::uint64_t size) {
  Fault fault = not_captured(kva, size, Fault::Access::kData);
  fault.kind = Fault::Kind::kBudget;
  return fault;
}

}  // namespace

void CapturedMemory::prepare(std::size_t bytes) {
  blocks_.clear();
  reach_.clear();
  used_ = 0;
  sealed_ = false;
  arena_.resize(std::max(arena_.size(), std::min(bytes, kMaxBytes)));
}

FaultOr<std::span<const std::byte>> CapturedMemory::capture(KernelReader& source, Kva kva, std::size_t size,
                                                            ReadBudget& budget) {
  if (size > kMaxBytes - used_) return std::unexpected(out_of_budget(kva, size));
  if (kva.value() + size < kva.value()) {
    Fault fault = not_captured(kva, size, Fault::Access::kData);
    fault.kind = Fault::Kind::kWraps;
    return std::unexpected(fault);
  }
  if (used_ + size > arena_.size())
    arena_.resize(std::min(kMaxBytes, std::max(used_ + size, 2 * arena_.size())));
  const std::span<std::byte> out = std::span(arena_).subspan(used_, size);
  if (const auto done = source.read(kva, out, budget); !done) return std::unexpected(done.error());
  blocks_.push_back({kva, size, used_});
  used_ += size;
  return out;
}

void CapturedMemory::seal() {
  std::sort(blocks_.begin(), blocks_.end(), [](const Block& a, const Block& b) {
    return std::pair(a.kva, b.size) < std::pair(b.kva, a.size);
  });
  reach_.resize(blocks_.size());
  std::uint64_t reach = 0;
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    reach = std::max(reach, blocks_[i].kva.value() + blocks_[i].size);
    reach_[i] = reach;
  }
  sealed_ = true;
}

std::span<const std::byte> CapturedMemory::run_at(Kva kva) const {
  if (!sealed_) return {};
  auto after = std::upper_bound(blocks_.begin(), blocks_.end(), kva,
                                [](Kva address, const Block& block) { return address < block.kva; });
  // Blocks may overlap; the one that reaches furthest is best, but the first that covers the place will do.
  for (auto index = static_cast<std::size_t>(after - blocks_.begin()); index > 0; --index) {
    if (reach_[index - 1] <= kva.value()) break;
    const Block& block = blocks_[index - 1];
    const std::uint64_t offset = kva - block.kva;
    if (offset < block.size) return std::span(arena_).subspan(block.at + offset, block.size - offset);
  }
  return {};
}

FaultOr<> CapturedMemory::read(Kva kva, std::span<std::byte> out, ReadBudget& budget) {
  if (!budget.spend(out.size())) return std::unexpected(out_of_budget(kva, out.size()));
  std::size_t done = 0;
  while (done < out.size()) {
    const auto run = run_at(kva + done);
    if (run.empty()) return std::unexpected(not_captured(kva + done, out.size(), Fault::Access::kData));
    const std::size_t piece = std::min(run.size(), out.size() - done);
    std::copy_n(run.begin(), piece, out.begin() + static_cast<std::ptrdiff_t>(done));
    done += piece;
  }
  return {};
}

FaultOr<GuestString> CapturedMemory::read_c_string(Kva kva, std::size_t limit, ReadBudget& budget) {
  GuestString string;
  while (string.text.size() < limit) {
    const auto run = run_at(kva + string.text.size());
    if (run.empty()) {
      return std::unexpected(not_captured(kva + string.text.size(), limit, Fault::Access::kString));
    }
    const std::size_t piece = std::min(run.size(), limit - string.text.size());
    if (!budget.spend(piece)) return std::unexpected(out_of_budget(kva, limit));
    const std::string_view text(reinterpret_cast<const char*>(run.data()), piece);
    const std::size_t end = text.find('\0');
    string.text += text.substr(0, end);
    if (end != std::string_view::npos) {
      string.terminated = true;
      break;
    }
  }
  return string;
}

void CapturedMemory::clear() {
  *this = CapturedMemory();
}

}  // namespace ktstr
