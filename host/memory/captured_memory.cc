#include "host/memory/captured_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <string_view>
#include <utility>

namespace ktstr {
namespace {

constexpr std::size_t kPage = 4096;
// Objects are captured in pieces of about this size; how many there will be is only a guess.
constexpr std::size_t kBytesPerBlock = 128;

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

CapturedMemory::~CapturedMemory() {
  clear();
}

CapturedMemory::CapturedMemory(CapturedMemory&& other) noexcept {
  *this = std::move(other);
}

CapturedMemory& CapturedMemory::operator=(CapturedMemory&& other) noexcept {
  if (this == &other) return *this;
  clear();
  arena_ = std::exchange(other.arena_, {});
  present_ = std::exchange(other.present_, 0);
  used_ = std::exchange(other.used_, 0);
  blocks_ = std::exchange(other.blocks_, {});
  captures_ = std::exchange(other.captures_, 0);
  sealed_ = std::exchange(other.sealed_, false);
  return *this;
}

void CapturedMemory::clear() {
  if (!arena_.empty()) ::munmap(arena_.data(), arena_.size());
  arena_ = {};
  present_ = 0;
  used_ = 0;
  blocks_ = {};
  captures_ = 0;
  sealed_ = false;
}

bool CapturedMemory::prepare(std::size_t bytes) {
  blocks_.clear();
  captures_ = 0;
  used_ = 0;
  sealed_ = false;
  if (arena_.empty()) {
    void* const at = ::mmap(nullptr, kMaxBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return false;
    arena_ = {static_cast<std::byte*>(at), kMaxBytes};
  }
  for (bytes = std::min(bytes, kMaxBytes); present_ < bytes; present_ += kPage)
    arena_[present_] = std::byte{0};
  blocks_.reserve(present_ / kBytesPerBlock);
  return true;
}

FaultOr<std::span<const std::byte>> CapturedMemory::capture(KernelReader& source, Kva kva, std::size_t size,
                                                            ReadBudget& budget) {
  if (size > arena_.size() - used_) return std::unexpected(out_of_budget(kva, size));
  if (kva.value() + size < kva.value()) {
    Fault fault = not_captured(kva, size, Fault::Access::kData);
    fault.kind = Fault::Kind::kWraps;
    return std::unexpected(fault);
  }
  const std::span<std::byte> out = arena_.subspan(used_, size);
  if (const auto done = source.read(kva, out, budget); !done) return std::unexpected(done.error());
  blocks_.push_back({kva, size, used_});
  ++captures_;
  used_ += size;
  present_ = std::max(present_, used_ / kPage * kPage);
  return out;
}

// Blocks may overlap, and where they do they hold the same, since the guest stood still. What is kept of each
// is the part that no block before it reaches, so that every place is in one block only.
void CapturedMemory::seal() {
  std::sort(blocks_.begin(), blocks_.end(), [](const Block& a, const Block& b) { return a.kva < b.kva; });
  std::size_t kept = 0;
  std::uint64_t reach = 0;
  for (const Block& block : blocks_) {
    const std::uint64_t end = block.kva.value() + block.size;
    if (end <= reach) continue;
    const std::uint64_t hidden = reach > block.kva.value() ? reach - block.kva.value() : 0;
    blocks_[kept++] = {block.kva + hidden, block.size - hidden, block.at + hidden};
    reach = end;
  }
  blocks_.resize(kept);
  sealed_ = true;
}

std::span<const std::byte> CapturedMemory::run_at(Kva kva) const {
  if (!sealed_) return {};
  const auto after = std::upper_bound(blocks_.begin(), blocks_.end(), kva,
                                      [](Kva address, const Block& block) { return address < block.kva; });
  if (after == blocks_.begin()) return {};
  const Block& block = *(after - 1);
  const std::uint64_t offset = kva - block.kva;
  return offset < block.size ? arena_.subspan(block.at + offset, block.size - offset)
                             : std::span<std::byte>();
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

}  // namespace ktstr
