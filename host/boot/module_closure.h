// Which kernel modules must be packed, and in which order PID 1 has to load them.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"
#include "host/boot/initramfs.h"

namespace ktstr {

// A driver that the guest needs.
struct WantedModule {
  // As modprobe takes it; '-' and '_' are the same.
  std::string name;
  // The option that builds it, for messages and the config lookup; empty: "CONFIG_" and the name in capitals,
  // which is right for all virtio drivers.
  std::string option = {};
};

// Value of a kernel option ("CONFIG_VIRTIO_CONSOLE"): 'y', 'm', 'n'; nothing when the config is not known.
using ConfigLookup = std::function<std::optional<char>(std::string_view option)>;

struct ModuleFile {
  // "virtio_console"
  std::string name;
  std::string host_path;
  // The wanted module or dependent module that made this one necessary; empty for a wanted one.
  std::string needed_by;
};

struct ModuleClosure {
  // Every module comes after all those it depends on.
  std::vector<ModuleFile> load_order;
  // Wanted modules that are part of the kernel image.
  std::vector<std::string> built_in;
  // Wanted modules of which nothing is known: no modules folder and no config. They are taken to be built in.
  std::vector<std::string> assumed_built_in;
};

// `folder` is a modules folder (lib/modules/<release>, with modules.dep), a kernel build tree (with
// modules.order and .ko files), or empty when there is none; a folder without any of these files counts as
// none.
//
// Whether a driver is built in is decided, in this order, by modules.builtin, by the config saying 'y', and,
// where there is no folder, by the config not saying 'm' or 'n'. Soft dependencies are packed where they
// exist and left out where not, as modprobe does it.
//
// Errors: kKernelLacks when a driver or a dependency is neither built in nor there, naming the module, the
// option and the folder; kUsage when the folder's lists cannot be read or are damaged.
Expected<ModuleClosure> module_closure(const std::string& folder, std::span<const WantedModule> wanted,
                                       const ConfigLookup& config);

// Where pack_modules puts modules: "<folder>/<two or more digits>-<name>.ko"; the names' order is the load
// order.
inline constexpr std::string_view kGuestModuleFolder = "/lib/modules/ktstr";

// Unpacks the modules and adds them to the initramfs. Errors as read_module and InitramfsBuilder::add_bytes.
Expected<void> pack_modules(const ModuleClosure& closure, InitramfsBuilder& initramfs);

}  // namespace ktstr
