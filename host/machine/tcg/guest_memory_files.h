// GuestMemoryFiles: guest RAM in unnamed files that QEMU and we share.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/error.h"
#include "common/mapping.h"
#include "common/unique_fd.h"
#include "host/machine/machine.h"
#include "host/machine/tcg/pc_memory.h"

namespace ktstr {

// One memfd a NUMA node. The files have no name anywhere, and their size is sealed, so that no process that
// has them can make our mapping fault by truncating.
class GuestMemoryFiles {
 public:
  // `node_bytes`: of each node. Error kHost when the kernel refuses.
  static Expected<GuestMemoryFiles> create(std::vector<std::uint64_t> node_bytes);

  const std::vector<UniqueFd>& files() const { return files_; }
  // Ascending by guest address; valid as long as this object is.
  std::vector<RamRegion> regions();

 private:
  std::vector<std::uint64_t> node_bytes_;
  std::vector<UniqueFd> files_;
  std::vector<Mapping> mappings_;
};

}  // namespace ktstr
