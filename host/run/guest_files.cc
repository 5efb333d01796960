#include "host/run/guest_files.h"

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>

#include <fmt/format.h>

#include "host/boot/module_closure.h"
#include "host/boot/program_packer.h"

namespace ktstr {
namespace {

namespace fs = std::filesystem;

constexpr const char* kGuestProgram = "ktstr-guest";

std::optional<char> config_letter(const KernelConfig& config, std::string_view option) {
  switch (config.lookup(option).kind) {
    case ConfigValue::Kind::kYes:
      return 'y';
    case ConfigValue::Kind::kModule:
      return 'm';
    case ConfigValue::Kind::kNo:
      return 'n';
    default:
      return config.complete() ? std::optional('n') : std::nullopt;
  }
}

Expected<void> add_modules(InitramfsBuilder& builder, const KernelImage& kernel,
                           const std::vector<std::string>& names) {
  std::vector<WantedModule> wanted;
  for (const std::string& name : names) wanted.push_back({.name = name});
  const auto closure =
      module_closure(kernel.modules_dir().value_or(""), wanted,
                     [&](std::string_view option) { return config_letter(kernel.config(), option); });
  if (!closure) return std::unexpected(closure.error());
  if (auto packed = pack_modules(*closure, builder); !packed) return packed;
  std::string list;
  for (const InitramfsEntry& entry : builder.entries()) {
    if (entry.type == InitramfsEntryType::kFile && entry.guest_path.starts_with(kGuestModuleFolder)) {
      list += entry.guest_path + "\n";
    }
  }
  return builder.add_bytes("/etc/ktstr/modules", std::move(list), 0644);
}

Expected<void> add_kernel_config(InitramfsBuilder& builder, const KernelImage& kernel) {
  if (kernel.config().text().empty()) return {};
  return builder.add_bytes("/boot/config-" + kernel.release(), kernel.config().text(), 0644);
}

bool is_elf(const std::string& path) {
  const auto mapping = Mapping::map_file(path.c_str());
  return mapping && mapping->size() > 4 &&
         std::memcmp(mapping->bytes().data(),
                     "\x7f"
                     "ELF",
                     4) == 0;
}

// An included program needs its libraries as well; anything else is just packed.
Expected<void> add_include(InitramfsBuilder& builder, ProgramPacker& packer,
                           const ktstr::v1::IncludedFile& file) {
  const auto mode = static_cast<mode_t>(fs::status(file.host_path()).permissions()) & 0777U;
  if ((mode & 0111U) != 0 && is_elf(file.host_path())) {
    auto closure = packer.add_program(file.guest_path(), file.host_path(), "included file");
    if (!closure) return std::unexpected(std::move(closure.error()));
    return {};
  }
  return builder.add_file(file.guest_path(), file.host_path(), mode);
}

// What every guest with this kernel on this kind of machine has.
Expected<void> add_base(InitramfsBuilder& builder, const KernelImage& kernel,
                        const std::vector<std::string>& modules) {
  const auto init = find_guest_program();
  if (!init) return std::unexpected(init.error());
  if (auto added = builder.add_file("/init", *init, 0755); !added) return added;
  // PID 1's messages before it has mounted anything go to /dev/console.
  if (auto added = builder.add_device_node("/dev/console", 5, 1, 0600); !added) return added;
  if (auto added = builder.add_device_node("/dev/null", 1, 3, 0666); !added) return added;
  if (auto added = add_modules(builder, kernel, modules); !added) return added;
  return add_kernel_config(builder, kernel);
}

Expected<void> add_run_files(InitramfsBuilder& builder, const ktstr::v1::RunPlan& plan) {
  ProgramPacker packer(builder);
  if (plan.has_scheduler()) {
    auto closure =
        packer.add_program(plan.scheduler().guest_path(), plan.scheduler().host_path(), "scheduler");
    if (!closure) return std::unexpected(std::move(closure.error()));
  }
  for (const auto& file : plan.includes()) {
    if (auto added = add_include(builder, packer, file); !added) return added;
  }
  return packer.finish();
}

bool belongs_to_kernel(std::string_view guest_path) {
  for (const std::string_view folder : {"/proc", "/sys", "/dev"}) {
    if (guest_path.starts_with(folder) &&
        (guest_path.size() == folder.size() || guest_path[folder.size()] == '/'))
      return true;
  }
  return false;
}

}  // namespace

std::string guest_scheduler_path(const std::string& name) {
  return "/ktstr/bin/" + name;
}

Expected<ktstr::v1::IncludedFile> parse_include(const std::string& text) {
  // The last colon separates, unless the whole text is a file's name.
  std::error_code error;
  const std::size_t colon = fs::exists(text, error) ? std::string::npos : text.rfind(':');
  const std::string host = text.substr(0, colon);
  ktstr::v1::IncludedFile file;
  if (!fs::is_regular_file(host, error))
    return fail(ErrorCode::kUsage, fmt::format("--include '{}': no such file", host));
  file.set_host_path(fs::absolute(host).string());
  file.set_guest_path(colon == std::string::npos ? "/include/" + fs::path(host).filename().string()
                                                 : text.substr(colon + 1));
  if (!file.guest_path().starts_with('/')) {
    return fail(ErrorCode::kUsage,
                fmt::format("--include '{}': the guest path '{}' must be absolute", text, file.guest_path()));
  }
  if (belongs_to_kernel(file.guest_path())) {
    return fail(
        ErrorCode::kUsage,
        fmt::format(
            "--include '{}': '{}' cannot be seen in the guest, the kernel has its own file system there",
            text, file.guest_path()));
  }
  return file;
}

Expected<std::string> find_guest_program() {
  std::vector<fs::path> places;
  if (const char* chosen = std::getenv("KTSTR_GUEST")) places.emplace_back(chosen);
  std::error_code error;
  const fs::path own = fs::read_symlink("/proc/self/exe", error).parent_path();
  places.push_back(own / kGuestProgram);
  places.push_back(own / ".." / "libexec" / "ktstr-vm" / kGuestProgram);
  for (const fs::path& place : places) {
    if (fs::is_regular_file(place, error)) return place.lexically_normal().string();
  }
  std::string names;
  for (const fs::path& place : places)
    names += (names.empty() ? "" : ", ") + place.lexically_normal().string();
  return fail(
      ErrorCode::kHost,
      fmt::format("the guest's program is in none of {}; build it, or name it in KTSTR_GUEST", names));
}

Expected<GuestFiles> pack_guest_files(const ktstr::v1::RunPlan& plan, const KernelImage& kernel,
                                      const std::vector<std::string>& modules, bool nothing_later) {
  InitramfsBuilder base;
  const auto pack = [&]() -> Expected<GuestFiles> {
    if (auto added = add_base(base, kernel, modules); !added)
      return std::unexpected(std::move(added.error()));
    InitramfsBuilder all = base;
    if (auto added = add_run_files(all, plan); !added) return std::unexpected(std::move(added.error()));
    GuestFiles files;
    if (!nothing_later) {
      auto later = all.bundle_beyond(base);
      if (!later) return std::unexpected(std::move(later.error()));
      files.later = std::move(*later);
    }
    auto initramfs = (nothing_later ? all : base).build();
    if (!initramfs) return std::unexpected(std::move(initramfs.error()));
    files.initramfs = std::move(*initramfs);
    files.all = std::move(all);
    return files;
  };
  auto packed = pack();
  if (!packed) return propagate(std::move(packed.error()), "packing the guest's files");
  return packed;
}

Expected<Initramfs> pack_plan(std::string serialized_plan) {
  InitramfsBuilder builder;
  if (auto added = builder.add_bytes("/etc/ktstr/plan", std::move(serialized_plan), 0644); !added)
    return std::unexpected(std::move(added.error()));
  return builder.build();
}

}  // namespace ktstr
