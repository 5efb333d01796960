#include "host/boot/module_closure.h"

#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "common/quote.h"
#include "common/read_file.h"
#include "host/boot/module_file.h"

namespace ktstr {
namespace {

// modules.dep of a distribution kernel has 0.7 MB.
constexpr std::size_t kMaxList = std::size_t{32} << 20;
// Real chains have at most some 10 links.
constexpr int kMaxDepth = 64;

std::string shown(std::string_view path) {
  return quote(path, 512);
}

bool exists(const std::string& path) {
  struct stat st = {};
  return ::stat(path.c_str(), &st) == 0;
}

// A list file's content; nothing when there is no such file.
Expected<std::optional<std::string>> read_list(const std::string& path) {
  if (!exists(path)) return std::nullopt;
  auto content = read_file(path, kMaxList, ErrorCode::kUsage);
  if (!content) return std::unexpected(std::move(content.error()));
  return std::optional(std::move(*content));
}

template <typename Visit>
void for_each_line(std::string_view text, Visit visit) {
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (!line.empty() && !line.starts_with('#')) visit(line);
  }
}

// A path inside the folder: what is written in modules.dep must not lead elsewhere.
bool stays_inside(std::string_view path) {
  return !path.empty() && !path.starts_with('/') && !("/" + std::string(path) + "/").contains("/../");
}

// What a modules folder or build tree holds, by canonical module name.
class ModuleIndex {
 public:
  static Expected<ModuleIndex> read(const std::string& folder);

  // False: there is no folder to look into.
  bool usable() const { return usable_; }
  bool built_in(const std::string& name) const { return built_in_.contains(name); }
  // Host path, nothing when the index does not have the module.
  std::optional<std::string> path(const std::string& name) const;
  Expected<ModuleInfo> info(const std::string& name) const;

 private:
  struct Module {
    std::string path;
    ModuleInfo info;
  };
  Expected<void> read_dep(std::string_view text);
  void read_softdep(std::string_view text);
  void read_order(std::string_view text);

  std::string folder_;
  bool usable_ = false;
  bool info_from_files_ = false;  // a build tree: dependencies stand in the modules themselves
  std::set<std::string> built_in_;
  std::map<std::string, Module> modules_;
};

Expected<ModuleIndex> ModuleIndex::read(const std::string& folder) {
  ModuleIndex index;
  index.folder_ = folder;
  if (folder.empty()) return index;
  auto built_in = read_list(folder + "/modules.builtin");
  if (!built_in) return std::unexpected(std::move(built_in.error()));
  auto dep = read_list(folder + "/modules.dep");
  if (!dep) return std::unexpected(std::move(dep.error()));
  auto softdep = read_list(folder + "/modules.softdep");
  if (!softdep) return std::unexpected(std::move(softdep.error()));
  auto order = read_list(folder + "/modules.order");
  if (!order) return std::unexpected(std::move(order.error()));

  index.usable_ = *built_in || *dep || *order;
  if (*built_in) {
    for_each_line(**built_in, [&](std::string_view line) { index.built_in_.insert(module_name(line)); });
  }
  if (*dep) {
    if (auto done = index.read_dep(**dep); !done) return std::unexpected(std::move(done.error()));
    if (*softdep) index.read_softdep(**softdep);
  } else if (*order) {
    index.info_from_files_ = true;
    index.read_order(**order);
  }
  return index;
}

// "kernel/a.ko.xz: kernel/b.ko.xz kernel/c.ko.xz"
Expected<void> ModuleIndex::read_dep(std::string_view text) {
  std::string bad;
  for_each_line(text, [&](std::string_view line) {
    const std::size_t colon = line.find(':');
    const std::string_view path = line.substr(0, colon);
    const std::string name = module_name(path);
    if (colon == std::string_view::npos || name.empty() || !stays_inside(path)) {
      if (bad.empty()) bad = line;
      return;
    }
    Module module{.path = std::string(path), .info = {}};
    std::string_view rest = line.substr(colon + 1);
    while (!rest.empty()) {
      const std::string_view word = rest.substr(0, rest.find(' '));
      rest.remove_prefix(std::min(word.size() + 1, rest.size()));
      if (!word.empty()) module.info.depends.push_back(module_name(word));
    }
    modules_.insert_or_assign(name, std::move(module));
  });
  if (bad.empty()) return {};
  return fail(ErrorCode::kUsage,
              fmt::format("{} has a line that is no module and its dependencies: {}; run depmod",
                          shown(folder_ + "/modules.dep"), quote(bad)));
}

// "softdep NAME pre: a b post: c"
void ModuleIndex::read_softdep(std::string_view text) {
  constexpr std::string_view kWord = "softdep ";
  for_each_line(text, [&](std::string_view line) {
    if (!line.starts_with(kWord)) return;
    line.remove_prefix(kWord.size());
    const std::string_view name = line.substr(0, line.find(' '));
    const auto module = modules_.find(canonical_module_name(name));
    if (module != modules_.end()) parse_softdep(line.substr(name.size()), module->second.info);
  });
}

// A build tree's list: "drivers/net/veth.ko"; from Linux 6.2 on ".o" for ".ko", before 5.17 with "kernel/" in
// front.
void ModuleIndex::read_order(std::string_view text) {
  for_each_line(text, [&](std::string_view line) {
    const std::string name = module_name(line);
    if (name.empty() || !stays_inside(line)) return;
    std::string path(line);
    if (path.ends_with(".o")) path.replace(path.size() - 2, 2, ".ko");
    constexpr std::string_view kPrefix = "kernel/";
    if (path.starts_with(kPrefix) && !exists(folder_ + "/" + path)) path.erase(0, kPrefix.size());
    modules_.insert_or_assign(name, Module{.path = std::move(path), .info = {}});
  });
}

std::optional<std::string> ModuleIndex::path(const std::string& name) const {
  const auto module = modules_.find(name);
  if (module == modules_.end()) return std::nullopt;
  return folder_ + "/" + module->second.path;
}

Expected<ModuleInfo> ModuleIndex::info(const std::string& name) const {
  const Module& module = modules_.at(name);
  return info_from_files_ ? read_module_info(folder_ + "/" + module.path) : Expected<ModuleInfo>(module.info);
}

class Collector {
 public:
  Collector(const ModuleIndex& index, const std::string& folder, const ConfigLookup& config)
      : index_(index), folder_(folder), config_(config) {}

  Expected<void> add_wanted(const WantedModule& wanted);
  ModuleClosure take() { return std::move(closure_); }

 private:
  Expected<void> load(const std::string& name, const std::string& needed_by, int depth);
  Expected<void> load_if_there(const std::vector<std::string>& names, const std::string& needed_by,
                               int depth);

  const ModuleIndex& index_;
  const std::string& folder_;
  const ConfigLookup& config_;
  std::set<std::string> visited_;
  ModuleClosure closure_;
};

std::string option_of(const WantedModule& wanted) {
  if (!wanted.option.empty()) return wanted.option;
  std::string option = "CONFIG_";
  for (const char c : canonical_module_name(wanted.name)) {
    option += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return option;
}

Expected<void> Collector::add_wanted(const WantedModule& wanted) {
  const std::string name = canonical_module_name(wanted.name);
  const std::string option = option_of(wanted);
  constexpr char kUnknown = '?';
  const char value = config_ ? config_(option).value_or(kUnknown) : kUnknown;
  if (index_.built_in(name) || value == 'y') {
    closure_.built_in.push_back(name);
    return {};
  }
  if (index_.path(name)) return load(name, "", 0);
  if (!index_.usable() && value != 'm' && value != 'n') {
    closure_.assumed_built_in.push_back(name);
    return {};
  }
  if (value == 'm') {
    return fail(
        ErrorCode::kKernelLacks,
        fmt::format(
            "the kernel has the driver {} as a module ({}=m), but {}; give the kernel together with its "
            "modules folder, or build it with {}=y",
            name, option,
            index_.usable() ? shown(folder_) + " does not hold it" : "its modules were not found", option));
  }
  return fail(ErrorCode::kKernelLacks,
              fmt::format("the kernel lacks the driver {}: it is not built in{}; it needs {}=y or =m", name,
                          index_.usable() ? " and not in " + shown(folder_) : "", option));
}

Expected<void> Collector::load_if_there(const std::vector<std::string>& names, const std::string& needed_by,
                                        int depth) {
  for (const std::string& name : names) {
    const auto path = index_.path(name);
    if (!path || !exists(*path)) continue;
    if (auto done = load(name, needed_by, depth); !done) return done;
  }
  return {};
}

// Depth first: what a module depends on goes before it.
Expected<void> Collector::load(const std::string& name, const std::string& needed_by, int depth) {
  if (index_.built_in(name) || !visited_.insert(name).second) return {};
  if (depth > kMaxDepth) {
    return fail(ErrorCode::kUsage,
                fmt::format("the module list of {} has dependency chains of more than {} links",
                            shown(folder_), kMaxDepth));
  }
  const auto path = index_.path(name);
  if (!path || !exists(*path)) {
    return fail(ErrorCode::kKernelLacks,
                fmt::format("the kernel lacks the module {}{}: {}", name,
                            needed_by.empty() ? "" : ", which " + needed_by + " depends on",
                            path ? shown(*path) + " does not exist (a build tree needs 'make modules')"
                                 : "it is not in " + shown(folder_)));
  }
  auto info = index_.info(name);
  if (!info) return std::unexpected(std::move(info.error()));
  if (auto done = load_if_there(info->before, name, depth + 1); !done) return done;
  for (const std::string& dependency : info->depends) {
    if (auto done = load(dependency, name, depth + 1); !done) return done;
  }
  closure_.load_order.push_back({.name = name, .host_path = *path, .needed_by = needed_by});
  return load_if_there(info->after, name, depth + 1);
}

}  // namespace

Expected<ModuleClosure> module_closure(const std::string& folder, std::span<const WantedModule> wanted,
                                       const ConfigLookup& config) {
  auto index = ModuleIndex::read(folder);
  if (!index) return std::unexpected(std::move(index.error()));
  Collector collector(*index, folder, config);
  for (const WantedModule& module : wanted) {
    if (auto done = collector.add_wanted(module); !done) return std::unexpected(std::move(done.error()));
  }
  return collector.take();
}

Expected<void> pack_modules(const ModuleClosure& closure, InitramfsBuilder& initramfs) {
  // As many digits as the largest number has, so that the order by name is the order by number.
  const std::size_t digits = std::max<std::size_t>(2, std::to_string(closure.load_order.size()).size());
  std::size_t number = 0;
  for (const ModuleFile& module : closure.load_order) {
    auto content = read_module(module.host_path);
    if (!content) return std::unexpected(std::move(content.error()));
    const std::string path =
        fmt::format("{}/{:0{}}-{}.ko", kGuestModuleFolder, number++, digits, module.name);
    if (auto added = initramfs.add_bytes(path, std::move(*content), 0644); !added) return added;
  }
  return {};
}

}  // namespace ktstr
