#include "host/kernel/kernel_files.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <system_error>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "common/quote.h"

namespace ktstr {
namespace {

namespace fs = std::filesystem;

// A tree with everything switched on has about 9,000 modules.
constexpr std::size_t kMaxModules = 100'000;
constexpr std::uintmax_t kMaxModuleList = std::uintmax_t{16} << 20;
// Folders are listed up to here; who keeps more kernels in one place names a file.
constexpr int kMaxListed = 4096;
// A System.map of a real kernel has megabytes; Debian's stub has a line.
constexpr std::uintmax_t kMinSystemMap = 4096;

constexpr std::array kTreeImages{"arch/x86/boot/bzImage", "arch/x86_64/boot/bzImage"};

bool is_file(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

bool is_folder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

std::string absolute(const fs::path& path) {
  std::error_code error;
  const fs::path canonical = fs::canonical(path, error);
  return error ? path.string() : canonical.string();
}

std::string first_line(const fs::path& path) {
  std::ifstream stream(path);
  std::array<char, 256> line = {};
  stream.getline(line.data(), line.size());
  return line.data();
}

template <typename Visit>
void for_each_entry(const fs::path& folder, Visit&& visit) {
  std::error_code error;
  int count = 0;
  for (fs::directory_iterator it(folder, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    if (++count > kMaxListed) return;
    visit(*it);
  }
}

// Images by release; the same release in several places (boot/ and modules/) is one kernel, the first place
// counts.
using Images = std::map<std::string, std::string>;

void collect_named(Images& images, const fs::path& folder) {
  for_each_entry(folder, [&images](const fs::directory_entry& entry) {
    constexpr std::string_view kPrefix = "vmlinuz-";
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix) || !is_file(entry.path()) || name.ends_with(".old")) return;
    images.emplace(name.substr(kPrefix.size()), entry.path().string());
  });
}

void collect_in_modules(Images& images, const fs::path& folder) {
  for_each_entry(folder, [&images](const fs::directory_entry& entry) {
    const fs::path image = entry.path() / "vmlinuz";
    if (is_file(image)) images.emplace(entry.path().filename().string(), image.string());
  });
}

bool is_kernel_source(const fs::path& folder) {
  return is_file(folder / "Makefile") && is_file(folder / "Kconfig") && is_folder(folder / "arch");
}

// The root of the build tree that `image` was built in and still lies in, or "".
fs::path tree_of(const fs::path& image) {
  fs::path root;
  if (image.filename() == "bzImage" && image.parent_path().filename() == "boot") {
    root = image.parent_path().parent_path().parent_path().parent_path();  // <root>/arch/x86/boot
  } else if (image.filename() == "vmlinux") {
    root = image.parent_path();
  }
  const bool built_here =
      !root.empty() && (is_file(root / ".config") || is_file(root / "include/config/auto.conf"));
  return built_here ? root : fs::path();
}

void look_in_tree(KernelFiles& files, const fs::path& root, const fs::path& image,
                  const std::string& release) {
  files.build_tree = root.string();
  // A tree that was configured or built for another release since then describes another kernel.
  if (first_line(root / "include/config/kernel.release") != release) return;
  if (is_file(root / ".config")) files.config = (root / ".config").string();
  if (is_file(root / "modules.order")) {
    files.modules = root.string();
    files.layout = ModuleLayout::kBuildTree;
  }
  if (is_file(root / "vmlinux") && image.filename() != "vmlinux") files.vmlinux = (root / "vmlinux").string();
  if (is_file(root / "System.map")) files.system_map = (root / "System.map").string();
}

void take_first(std::string& target, const std::vector<fs::path>& candidates, bool (*test)(const fs::path&)) {
  if (!target.empty()) return;
  const auto found = std::find_if(candidates.begin(), candidates.end(), test);
  if (found != candidates.end()) target = found->string();
}

bool is_real_system_map(const fs::path& path) {
  std::error_code error;
  return is_file(path) && fs::file_size(path, error) >= kMinSystemMap && !error;
}

}  // namespace

Expected<std::string> find_image_in_folder(const std::string& folder) {
  const fs::path root(folder);
  for (const char* name : kTreeImages) {
    if (is_file(root / name)) return (root / name).string();
  }
  if (is_kernel_source(root)) {
    if (is_file(root / "vmlinux")) return (root / "vmlinux").string();
    return fail(ErrorCode::kUsage,
                fmt::format("{} is a kernel source tree without arch/x86/boot/bzImage; build it with "
                            "`make bzImage`, or name the build folder (O=)",
                            quote(folder, 200)));
  }
  Images images;
  collect_named(images, root / "boot");
  collect_in_modules(images, root / "usr/lib/modules");
  collect_in_modules(images, root / "lib/modules");
  collect_named(images, root);
  if (images.empty()) {
    for (const char* name : {"vmlinuz", "bzImage", "vmlinux"}) {
      if (is_file(root / name)) return (root / name).string();
    }
    return fail(
        ErrorCode::kUsage,
        fmt::format("{} holds no kernel: there is neither arch/x86/boot/bzImage, nor boot/vmlinuz-*, nor "
                    "usr/lib/modules/*/vmlinuz, nor vmlinuz, bzImage or vmlinux",
                    quote(folder, 200)));
  }
  if (images.size() > 1) {
    std::vector<std::string> names;
    for (const auto& [release, path] : images) names.push_back(quote(path, 200));
    const std::size_t hidden = names.size() > 8 ? names.size() - 8 : 0;
    names.resize(names.size() - hidden);
    return fail(ErrorCode::kUsage,
                fmt::format("{} holds several kernels; name one of {}{}", quote(folder, 200),
                            fmt::join(names, ", "), hidden > 0 ? ", ..." : ""));
  }
  return images.begin()->second;
}

KernelFiles find_kernel_files(const std::string& path, const std::string& release) {
  KernelFiles files;
  if (release.empty()) return files;
  const fs::path image(absolute(path));
  if (const fs::path tree = tree_of(image); !tree.empty()) {
    look_in_tree(files, tree, image, release);
    return files;
  }
  const fs::path folder = image.parent_path();
  // A package's or the system's root: above boot/, above [usr/]lib/modules/<release>/, or the folder itself.
  std::vector<fs::path> roots{folder};
  if (folder.filename() == "boot") roots.push_back(folder.parent_path());
  const bool in_modules = folder.filename() == release && folder.parent_path().filename() == "modules";
  if (in_modules) {
    const fs::path above_lib = folder.parent_path().parent_path().parent_path();
    roots.push_back(above_lib);
    if (above_lib.filename() == "usr") roots.push_back(above_lib.parent_path());
  }
  std::vector<fs::path> configs{folder / ("config-" + release)};
  std::vector<fs::path> maps{folder / ("System.map-" + release)};
  std::vector<fs::path> vmlinuxes{folder / ("vmlinux-" + release)};
  std::vector<fs::path> modules;
  if (folder.filename() == release) {
    modules.push_back(folder);
    configs.push_back(folder / "config");
    maps.push_back(folder / "System.map");
    vmlinuxes.push_back(folder / "vmlinux");
  }
  for (const fs::path& root : roots) {
    configs.push_back(root / "boot" / ("config-" + release));
    maps.push_back(root / "boot" / ("System.map-" + release));
    vmlinuxes.push_back(root / "usr/lib/debug/boot" / ("vmlinux-" + release));
    vmlinuxes.push_back(root / "usr/lib/debug/lib/modules" / release / "vmlinux");
    for (const char* name : {"usr/lib/modules", "lib/modules"}) {
      modules.push_back(root / name / release);
      configs.push_back(root / name / release / "config");
      maps.push_back(root / name / release / "System.map");
      vmlinuxes.push_back(root / name / release / "vmlinux");
    }
  }
  std::erase(vmlinuxes, image);
  take_first(files.config, configs, is_file);
  take_first(files.modules, modules, [](const fs::path& candidate) {
    return is_folder(candidate / "kernel") || is_file(candidate / "modules.dep");
  });
  take_first(files.vmlinux, vmlinuxes, is_file);
  take_first(files.system_map, maps, is_real_system_map);
  return files;
}

Expected<std::vector<std::string>> list_tree_modules(const std::string& tree) {
  const std::string list = tree + "/modules.order";
  std::error_code error;
  std::ifstream stream;
  if (fs::file_size(list, error) <= kMaxModuleList && !error) stream.open(list);
  if (!stream.is_open()) return fail(ErrorCode::kUsage, "cannot read " + quote(list, 200));
  std::vector<std::string> modules;
  std::string line;
  while (modules.size() < kMaxModules && std::getline(stream, line)) {
    if (line.empty()) continue;
    fs::path relative(line);
    // Before 5.3 the list had the names that the modules get when they are installed.
    if (line.starts_with("kernel/") && !is_file(fs::path(tree) / fs::path(line).replace_extension(".ko"))) {
      relative = fs::path(line.substr(std::string_view("kernel/").size()));
    }
    relative.replace_extension(".ko");
    const bool leaves = relative.is_absolute() ||
                        std::find(relative.begin(), relative.end(), fs::path("..")) != relative.end();
    if (leaves)
      return fail(ErrorCode::kUsage,
                  fmt::format("{} names a file outside the tree: {}", quote(list, 200), quote(line)));
    modules.push_back(relative.string());
  }
  return modules;
}

}  // namespace ktstr
