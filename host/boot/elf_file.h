// ElfFile: one ELF file opened for reading, and the few facts of it that packing needs.
//
// The file is hostile input: every offset, count and string is checked against the file's size before it is
// used, and nothing is read through a memory map, so that a file that shrinks meanwhile gives an error and
// not SIGBUS.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"
#include "common/unique_fd.h"

struct Elf;

namespace ktstr {

// One DT_NEEDED, DT_FILTER or DT_AUXILIARY entry.
struct ElfNeeded {
  std::string name;
  // DT_AUXILIARY: used when it is there, silently left out when it is not.
  bool optional = false;
};

// What the dynamic section says to ld.so (gABI chapter 5, "Dynamic Section").
struct ElfDynamic {
  // PT_INTERP, empty when there is none.
  std::string interpreter;
  // True when there is a PT_DYNAMIC segment. A static program has none; a static PIE has one without
  // `needed`.
  bool has_dynamic = false;
  std::vector<ElfNeeded> needed;
  std::string soname;
  // Search paths as written, tokens such as $ORIGIN not yet expanded. An empty DT_RUNPATH still switches
  // DT_RPATH off, so "absent" and "empty" differ.
  std::optional<std::string> rpath;
  std::optional<std::string> runpath;
  // DF_1_NODEFLIB: the default folders are not searched for this object's libraries.
  bool no_default_libraries = false;
};

class ElfFile {
 public:
  // Opens a regular file. Errors: kUsage when it cannot be opened or is no regular file, kStartFailed when
  // its content is not ELF (a script is said to be one, with its interpreter).
  static Expected<ElfFile> open(const std::string& path);
  // The same for an open descriptor; `name` is how messages call the file.
  static Expected<ElfFile> from_fd(UniqueFd fd, std::string name);
  // The same for bytes in memory, which must outlive the ElfFile.
  static Expected<ElfFile> from_bytes(std::span<const std::byte> bytes, std::string name);

  // 64-bit little-endian x86-64, what the guest runs.
  bool is_x86_64() const;
  // "x86-64", "32-bit x86", "AArch64", "BPF", "machine 190": for messages.
  std::string architecture() const;
  // ET_EXEC, ET_DYN, ET_REL, ... of elf.h.
  std::uint16_t type() const { return type_; }
  dev_t device() const { return device_; }
  ino_t inode() const { return inode_; }
  std::uint64_t size() const { return size_; }
  const std::string& name() const { return name_; }

  // The program headers' and the dynamic section's content. Error kStartFailed when they are damaged.
  Expected<ElfDynamic> read_dynamic() const;
  // Content of the section called `section`, nothing when there is none. Error kStartFailed when the section
  // headers are damaged or the section is larger than `limit` bytes.
  Expected<std::optional<std::string>> read_section(std::string_view section, std::size_t limit) const;

 private:
  struct ElfEnd {
    void operator()(Elf* elf) const;
  };
  using ElfPointer = std::unique_ptr<Elf, ElfEnd>;

  ElfFile() = default;
  Expected<void> identify(std::string_view start);
  Error damaged(const std::string& what) const;
  // `size` bytes of the file from `offset` on; an error naming `what` when they are not all in the file.
  Expected<std::string> chunk(std::uint64_t offset, std::uint64_t size, const std::string& what) const;
  Expected<std::string> string_at(std::uint64_t offset, std::uint64_t end, std::uint64_t limit,
                                  const std::string& what) const;

  UniqueFd fd_;                        // before elf_, which reads through it until it ends
  std::span<const std::byte> memory_;  // used when there is no fd_
  ElfPointer elf_;
  std::string name_;
  std::uint64_t size_ = 0;
  dev_t device_ = 0;
  ino_t inode_ = 0;
  std::uint16_t type_ = 0;
  std::uint16_t machine_ = 0;
  bool is_64_bit_ = false;
  bool is_little_endian_ = false;
};

}  // namespace ktstr
