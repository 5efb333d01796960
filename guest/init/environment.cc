#include "guest/init/environment.h"

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "common/error.h"
#include "common/quote.h"
#include "common/read_file.h"
#include "common/unique_fd.h"

namespace ktstr::guest {
namespace {

constexpr const char* kModuleList = "/etc/ktstr/modules";
constexpr std::size_t kMaxModules = 256;
// MODULE_INIT_COMPRESSED_FILE (include/uapi/linux/module.h, Linux 5.17)
constexpr int kCompressedModule = 4;

void warn_errno(std::vector<std::string>& warnings, std::string what) {
  warnings.push_back(Error::from_errno(ErrorCode::kHost, std::move(what), errno).to_string());
}

void write_if_absent(const char* path, std::string_view text, std::vector<std::string>& warnings) {
  const UniqueFd fd(::open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!fd && errno == EEXIST) return;
  if (!fd || ::write(fd.get(), text.data(), text.size()) < 0)
    warn_errno(warnings, std::string("cannot write ") + path);
}

void make_etc(std::vector<std::string>& warnings) {
  ::mkdir("/etc", 0755);
  ::mkdir("/root", 0700);
  write_if_absent("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
                  warnings);
  write_if_absent("/etc/group", "root:x:0:\nnogroup:x:65534:\n", warnings);
  write_if_absent("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n", warnings);
  write_if_absent("/etc/os-release", "ID=ktstr-guest\nNAME=ktstr-guest\nPRETTY_NAME=ktstr-guest\n", warnings);
}

void raise_loopback(std::vector<std::string>& warnings) {
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::memcpy(request.ifr_name, "lo", 3);
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  // A kernel without network is a kernel a scheduler can be tested on.
  if (!socket && errno == EAFNOSUPPORT) return;
  if (!socket || ::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0)
    warn_errno(warnings, "cannot raise the loopback interface");
}

}  // namespace

void prepare_environment(std::vector<std::string>& warnings) {
  make_etc(warnings);
  raise_loopback(warnings);
  const rlimit unlimited{.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
  if (::setrlimit(RLIMIT_MEMLOCK, &unlimited) != 0) warn_errno(warnings, "cannot lift RLIMIT_MEMLOCK");
  // The workers' run_delay comes from /proc/<tid>/schedstat, which needs no switch; the wait and block
  // statistics of /proc/<pid>/sched do. Kernels without CONFIG_SCHEDSTATS have no such file.
  const std::string schedstats = "/proc/sys/kernel/sched_schedstats";
  if (::access(schedstats.c_str(), F_OK) == 0) {
    if (const Expected<> done = write_attribute(schedstats, "1"); !done)
      warnings.push_back(done.error().to_string());
  }
}

std::vector<std::string> parse_module_list(std::string_view text, std::vector<std::string>& warnings) {
  std::vector<std::string> paths;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.empty() || line.starts_with('#')) continue;
    if (!line.starts_with('/')) {
      warnings.push_back(std::string(kModuleList) + ": " + quote(line) + " is no absolute path");
    } else if (paths.size() == kMaxModules) {
      warnings.push_back(std::string(kModuleList) + " lists more than " + std::to_string(kMaxModules) +
                         " modules");
      break;
    } else {
      paths.emplace_back(line);
    }
  }
  return paths;
}

std::vector<std::string> load_modules(std::vector<std::string>& warnings) {
  std::vector<std::string> loaded;
  if (::access(kModuleList, F_OK) != 0) return loaded;
  const Expected<std::string> list = read_file(kModuleList, kMaxAttribute);
  if (!list) {
    warnings.push_back(list.error().to_string());
    return loaded;
  }
  for (const std::string& path : parse_module_list(*list, warnings)) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    const int flags = path.ends_with(".ko") ? 0 : kCompressedModule;
    if (fd && (::syscall(SYS_finit_module, fd.get(), "", flags) == 0 || errno == EEXIST)) {
      loaded.push_back(path);
    } else {
      warn_errno(warnings, "cannot load the module " + path);
    }
  }
  return loaded;
}

std::string become_fifo() {
  const sched_param parameters{.sched_priority = 1};
  if (::sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &parameters) == 0) return {};
  return Error::from_errno(ErrorCode::kHost, "sched_setscheduler(SCHED_FIFO)", errno).to_string();
}

}  // namespace ktstr::guest
