#include "host/boot/program_packer.h"

#include <utility>

#include "host/boot/ld_cache.h"

namespace ktstr {

Expected<ElfClosure> ProgramPacker::add_program(const std::string& guest_path, const std::string& host_path,
                                                const std::string& role) {
  return add_program(host_path, LibrarySearch{.role = role, .guest_path = guest_path});
}

Expected<ElfClosure> ProgramPacker::add_program(const std::string& host_path, const LibrarySearch& search) {
  auto closure = elf_closure(host_path, search);
  if (!closure) return closure;
  Expected<void> added =
      initramfs_.add_file(search.guest_path.empty() ? host_path : search.guest_path, host_path, 0755);
  for (const std::string& folder : closure->directories) {
    if (added) added = initramfs_.add_directory(folder);
  }
  for (const ClosureFile& file : closure->files) {
    if (!added) break;
    added = file.link_to.empty() ? initramfs_.add_file(file.guest_path, file.host_path, 0755)
                                 : initramfs_.add_symlink(file.guest_path, file.link_to);
    if (file.from_cache) cached_.emplace(file.name, file.guest_path);
  }
  if (!added) return propagate(std::move(added.error()), "packing " + search.role + " '" + host_path + "'");
  return closure;
}

Expected<void> ProgramPacker::finish() {
  if (cached_.empty()) return {};
  return initramfs_.add_bytes("/etc/ld.so.cache", LdCache::encode(cached_), 0644);
}

}  // namespace ktstr
