#include "host/machine/tcg/guest_memory_files.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <fmt/core.h>

#include "common/units.h"

namespace ktstr {

Expected<GuestMemoryFiles> GuestMemoryFiles::create(std::vector<std::uint64_t> node_bytes) {
  GuestMemoryFiles memory;
  memory.node_bytes_ = std::move(node_bytes);
  for (const std::uint64_t bytes : memory.node_bytes_) {
    UniqueFd file(memfd_create("ktstr-guest-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!file) return fail_errno(ErrorCode::kHost, "cannot create a memory file for guest RAM");
    if (ftruncate(file.get(), static_cast<off_t>(bytes)) != 0 ||
        fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
      return fail_errno(ErrorCode::kHost, fmt::format("cannot give a memory file {}", format_size(bytes)));
    }
    auto mapping = Mapping::map(file.get(), bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE);
    if (!mapping) return propagate(std::move(mapping.error()), "mapping guest RAM");
    memory.files_.push_back(std::move(file));
    memory.mappings_.push_back(std::move(*mapping));
  }
  return memory;
}

std::vector<RamRegion> GuestMemoryFiles::regions() {
  std::vector<RamRegion> regions;
  for (const RamPiece& piece : pc_ram_layout(node_bytes_)) {
    regions.push_back(
        {piece.gpa, mappings_[piece.node].mutable_bytes().subspan(piece.file_offset, piece.size)});
  }
  return regions;
}

}  // namespace ktstr
