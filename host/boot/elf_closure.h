// The shared-library closure of a program: every file that ld.so will open when the program starts in the
// guest.
#pragma once

#include <string>
#include <vector>

#include "common/error.h"

namespace ktstr {

// How libraries are looked for. The defaults are those of a program started from a shell on this host.
struct LibrarySearch {
  // What the program is, for messages: "scheduler", "payload".
  std::string role = "program";
  // Where the program will be in the guest; empty: at its resolved host path. $ORIGIN means this path's
  // folder there.
  std::string guest_path = {};
  // LD_LIBRARY_PATH; the program must then run with the same value in the guest.
  std::string library_path = {};
  // Host file; empty: no cache.
  std::string cache_path = "/etc/ld.so.cache";
  // Relative names and search path elements refer to these; empty host folder: the current one.
  std::string working_directory = {};
  std::string guest_working_directory = "/";
  // ld.so's built-in folders. Debian's come first, then those of lib64 distributions; a folder that is
  // missing, or holds libraries of another architecture, is passed over.
  std::vector<std::string> default_directories = {
      "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"};
  // Value of $LIB; empty: "lib/x86_64-linux-gnu" where that folder exists, else "lib64".
  std::string lib_token = {};
  // Value of $PLATFORM: AT_PLATFORM of a baseline CPU (glibc up to 2.40 says "haswell" on CPUs with AVX2).
  std::string platform_token = "x86_64";
};

struct ClosureFile {
  // As it was asked for: "libc.so.6", or the interpreter's path.
  std::string name;
  // Where ld.so will open it in the guest; absolute, without "." and "..".
  std::string guest_path;
  // The file on the host; symlinks are to be followed.
  std::string host_path;
  // Not empty: the same file is already packed at this guest path; pack a symlink to it, or ld.so would take
  // it for a second library and load it twice.
  std::string link_to;
  // From the program to whoever asked first, e.g. {"scx_foo", "libbar.so.1"}.
  std::vector<std::string> needed_by;
  // Found through ld.so.cache: the guest needs a cache entry too (LdCache::encode), unless the folder is one
  // of ld.so's own.
  bool from_cache = false;
};

struct ElfClosure {
  // PT_INTERP, empty for a static program.
  std::string interpreter;
  // Interpreter first, then in the order in which ld.so opens them. Empty for a static program.
  std::vector<ClosureFile> files;
  // Guest folders that must exist because a search path goes through them and back ("/opt/x/../lib").
  std::vector<std::string> directories;
};

// Computes the closure of `program`, an x86-64 ELF file. The files found are those that ldd(1) shows on this
// host, with one deliberate difference: glibc-hwcaps variants for newer CPUs (x86-64-v2, ...) are passed over
// in favour of the baseline library, since the guest's CPU model is not the host's.
//
// Errors: kUsage when `program` cannot be opened; kStartFailed when it is no ELF program for x86-64 or is
// damaged, and when a library is missing: "scheduler 'x' needs libfoo.so.3 (via libbar.so.1), which is not
// installed", with the places that were looked at as detail.
Expected<ElfClosure> elf_closure(const std::string& program, const LibrarySearch& search = {});

}  // namespace ktstr
