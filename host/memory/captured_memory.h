// CapturedMemory: what was copied out of a guest while it stood still.
//
// A guest is stopped for as short as possible: while it stands still objects are only found and copied, by
// capture(). What they mean is found out when it runs again, from the copies: this is a KernelReader too, and
// whatever was not captured is a fault (kNotCaptured), not a guess.
//
// The copies lie in one arena: address space that is reserved at once, so that it never moves, and filled
// from the beginning. Its first pages are touched beforehand by prepare(), since a page fault of ours while
// the guest stands still costs as much as copying a kilobyte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "host/memory/kernel_reader.h"

namespace ktstr {

class CapturedMemory : public KernelReader {
 public:
  // Most bytes that are kept; what does not fit is refused by capture().
  static constexpr std::size_t kMaxBytes = std::size_t{192} << 20;

  CapturedMemory() = default;
  ~CapturedMemory() override;
  CapturedMemory(const CapturedMemory&) = delete;
  CapturedMemory& operator=(const CapturedMemory&) = delete;
  CapturedMemory(CapturedMemory&& other) noexcept;
  CapturedMemory& operator=(CapturedMemory&& other) noexcept;

  // Forgets what was captured before, and makes the pages of the first `bytes` present; cheap when they are.
  // False when there is no address space left: every capture fails then.
  bool prepare(std::size_t bytes);

  // Copies `size` bytes at `kva` from `source` and returns them (valid until prepare or clear).
  // Where a part cannot be read, nothing is kept. Fault kBudget when kMaxBytes would be exceeded.
  FaultOr<std::span<const std::byte>> capture(KernelReader& source, Kva kva, std::size_t size,
                                              ReadBudget& budget);

  // Ends the capturing: sorts what there is. Reads are possible from now on.
  void seal();

  FaultOr<> read(Kva kva, std::span<std::byte> out, ReadBudget& budget) override;
  FaultOr<GuestString> read_c_string(Kva kva, std::size_t limit, ReadBudget& budget) override;
  using KernelReader::read;

  // What was captured: ranges as they were asked for, and their bytes together.
  std::size_t objects() const { return captures_; }
  std::size_t bytes() const { return used_; }
  // Gives all memory back.
  void clear();

 private:
  struct Block {
    Kva kva;
    std::uint64_t size = 0;
    std::size_t at = 0;  // in arena_
  };
  // Captured bytes from `kva` to the end of their block; empty when it is not captured.
  std::span<const std::byte> run_at(Kva kva) const;

  std::span<std::byte> arena_;  // kMaxBytes of address space
  std::size_t present_ = 0;     // bytes whose pages were touched
  std::size_t used_ = 0;
  std::vector<Block> blocks_;  // after seal(): ascending, without overlap
  std::size_t captures_ = 0;
  bool sealed_ = false;
};

}  // namespace ktstr
