// GuestRam: the memory of a kvm guest: one mapping a NUMA node, cut into the pieces of the guest-physical
// map.
//
// The mappings are private and anonymous: pages come when the guest first touches them, and nobody outside of
// this process has them. The kernel's segments are mapped into them from the cached ELF, copy-on-write, so
// that a boot neither copies nor reads what it does not use (0.1 ms in place of 27 to 92 ms for copying 60
// MB). All of a clone's memory is mapped in that way, from the snapshot's file: clones share what none of
// them has written, and the file stays as it is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/cpu_set.h"
#include "common/error.h"
#include "common/mapping.h"
#include "common/sparse_file.h"
#include "common/unique_fd.h"
#include "host/machine/host_use.h"
#include "host/machine/machine.h"
#include "host/machine/ram_layout.h"

namespace ktstr::kvm {

class GuestRam {
 public:
  // `node_bytes`: of each node, whole MiB. Error kHost when there is not enough memory, or fewer huge pages
  // than needed.
  static Expected<GuestRam> create(std::span<const std::uint64_t> node_bytes, RamPages pages);

  // The memory of a clone: what save() has written to `file`, copy-on-write. It is neither copied nor read
  // now, except into huge pages, which cannot map a file. Pages that are holes there are anonymous ones:
  // touching them does not make the file's pages, which on a tmpfs would stay. The file must not change as
  // long as this lives; a descriptor of it is kept. Errors: kUsage when the file has another size; kHost.
  static Expected<GuestRam> create_from(int file, std::span<const std::uint64_t> node_bytes, RamPages pages);

  // The memory of `node` is taken from these nodes of the host as long as they have some (mbind(2),
  // MPOL_PREFERRED_MANY). What was touched before stays where it is, and so does what is a file's until it is
  // written to. Error kHost: there is no such node, or this is not allowed here.
  Expected<void> prefer_host_nodes(std::size_t node, const CpuSet& host_nodes);

  // Writes all memory to an empty file, node after node, pages of zeros as holes. Nobody may change it
  // meanwhile. The checksum of it as of SparseChecksum. Error kHost.
  Expected<std::string> save(int file) const;

  const std::vector<RamPiece>& pieces() const { return pieces_; }
  // Of each node; the RAM file has them one behind the other.
  std::vector<std::uint64_t> node_bytes() const;
  // Ascending by address; valid as long as this object is.
  std::vector<RamRegion> regions();
  // The bytes from `gpa` on; empty when they are not all in one piece.
  std::span<std::byte> bytes(std::uint64_t gpa, std::uint64_t size);

  // Puts `size` bytes of `file` from `offset` on at `gpa`: mapped copy-on-write where the addresses and
  // offset are congruent and the pages are normal ones, else copied. Bytes behind `size` on the last page
  // stay what they were. Errors: kUsage when the range is not in one piece of RAM or the file is too short;
  // kHost.
  Expected<void> load_file(int file, std::uint64_t offset, std::uint64_t size, std::uint64_t gpa);
  // Bytes that load_file() mapped, not copied.
  std::uint64_t mapped_bytes() const { return mapped_bytes_; }

 private:
  // Memory that is a file's where nobody has touched it.
  struct FileRange {
    std::span<const std::byte> memory;
    std::uint64_t offset = 0;  // in snapshot_
  };

  Expected<void> map_from(int file, std::uint64_t offset, std::span<std::byte> to);
  Expected<void> copy_file(int file, std::uint64_t offset, std::span<std::byte> to);
  Expected<void> save_untouched(std::span<const std::byte> pages, SparseWriter& writer) const;

  RamPages pages_ = RamPages::kNormal;
  std::vector<Mapping> nodes_;
  std::vector<RamPiece> pieces_;
  std::uint64_t mapped_bytes_ = 0;
  std::vector<FileRange> file_ranges_;  // ascending by address within each node
  UniqueFd snapshot_;                   // the file of all of them, in a clone
};

}  // namespace ktstr::kvm
