// Where a kernel's files lie: the image inside a folder, and configuration, modules and vmlinux beside an
// image.
//
// Three kinds of folder are known: a kernel build tree (arch/x86/boot/bzImage); a folder that a
// distribution's package was unpacked into, or "/" itself (boot/vmlinuz-<release>,
// usr/lib/modules/<release>/vmlinuz, ...); and a folder that just holds images (/boot,
// /lib/modules/<release>).
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"

namespace ktstr {

// How the modules in modules_dir are laid out.
enum class ModuleLayout {
  kInstalled,  // lib/modules/<release>: kernel/..., modules.dep
  kBuildTree,  // a build tree: files where they were built, modules.order (list_tree_modules() reads it)
};

// What lies beside an image. Every path is absolute; empty when there is no such file.
struct KernelFiles {
  std::string build_tree;  // root of the build tree the image lies in
  std::string config;      // a .config file
  std::string modules;     // root of the modules, laid out as `layout` says
  ModuleLayout layout = ModuleLayout::kInstalled;
  std::string vmlinux;     // ELF of the same kernel, with symbols if it was not stripped
  std::string system_map;  // System.map with contents (distributions ship stubs)
};

// The image that `folder` holds. Error kUsage when it holds none (the message says what was looked for), or
// several, which are then named.
Expected<std::string> find_image_in_folder(const std::string& folder);

// What lies beside the image `path` of the release `release`. Files that carry no release in their name or
// folder are only taken when the tree says that it built this release (include/config/kernel.release).
KernelFiles find_kernel_files(const std::string& path, const std::string& release);

// The modules of a build tree: paths of .ko files relative to `tree`, from its modules.order (which lists .o
// files in newer kernels). Error kUsage when the file can not be read or holds paths that leave the tree.
Expected<std::vector<std::string>> list_tree_modules(const std::string& tree);

}  // namespace ktstr
