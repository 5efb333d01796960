// ProgramPacker: programs with everything they need to start, into an initramfs.
#pragma once

#include <map>
#include <string>

#include "common/error.h"
#include "host/boot/elf_closure.h"
#include "host/boot/initramfs.h"

namespace ktstr {

// Adds programs and their libraries, then, in finish(), a minimal /etc/ld.so.cache for those libraries that
// only the host's cache led to (say, from /usr/local/lib).
class ProgramPacker {
 public:
  // `initramfs` must outlive the packer.
  explicit ProgramPacker(InitramfsBuilder& initramfs) : initramfs_(initramfs) {}

  // Packs the ELF program `host_path` at `guest_path` (mode 0755) and its closure; `role` is for messages.
  // Returns the closure for --explain. Errors as elf_closure and InitramfsBuilder::add_file.
  Expected<ElfClosure> add_program(const std::string& guest_path, const std::string& host_path,
                                   const std::string& role);
  // The same with a search of the caller's; its guest_path is used.
  Expected<ElfClosure> add_program(const std::string& host_path, const LibrarySearch& search);

  // Call once, after the last program.
  Expected<void> finish();

 private:
  InitramfsBuilder& initramfs_;
  std::map<std::string, std::string> cached_;  // library name -> guest path
};

}  // namespace ktstr
