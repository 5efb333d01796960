// One kernel module file: .ko, .ko.gz, .ko.xz, .ko.zst.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"

namespace ktstr {

// "virtio_console" for "kernel/drivers/char/virtio-console.ko.xz": the file's name up to ".ko", with '-' as
// '_', the way the kernel names modules (scripts/Makefile.lib, name-fix). Empty when the name has no ".ko"
// (or, in a build tree's modules.order, ".o").
std::string module_name(std::string_view path);
// '-' and '_' mean the same in module names.
std::string canonical_module_name(std::string_view name);

// The module's plain ELF bytes, unpacked when the file is compressed: PID 1 loads modules with
// finit_module(2), and not every kernel unpacks (CONFIG_MODULE_DECOMPRESS). At most 128 MiB. Errors: kUsage
// when the file cannot be read; kKernelLacks when it is damaged or no x86-64 module.
Expected<std::string> read_module(const std::string& path);

// What a module says about others in its .modinfo section (include/linux/module.h).
struct ModuleInfo {
  std::vector<std::string> depends;
  // softdep: modules to be tried before and after this one.
  std::vector<std::string> before;
  std::vector<std::string> after;
};
// Errors as read_module.
Expected<ModuleInfo> read_module_info(const std::string& path);

// Adds what a softdep text ("pre: a b post: c") says to `info`.
void parse_softdep(std::string_view text, ModuleInfo& info);

}  // namespace ktstr
