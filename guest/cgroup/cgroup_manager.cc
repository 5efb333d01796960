#include "guest/cgroup/cgroup_manager.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <utility>

#include <fmt/format.h>

#include "common/quote.h"

namespace ktstr::guest {
namespace {

// A cgroup's files are small; cgroup.procs has at most 11 bytes for each process.
constexpr std::size_t kMaxFileSize = std::size_t{1} << 20;

Expected<std::string> read_to_end(int fd, const std::string& path) {
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t got = ::read(fd, buffer, sizeof buffer);
    if (got < 0) {
      if (errno == EINTR) continue;
      return fail_errno(ErrorCode::kHost, fmt::format("cannot read {}", path));
    }
    if (got == 0) return text;
    text.append(buffer, static_cast<std::size_t>(got));
    if (text.size() > kMaxFileSize) return fail(ErrorCode::kHost, fmt::format("{} is too large", path));
  }
}

Expected<std::string> read_file(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return fail_errno(ErrorCode::kHost, fmt::format("cannot open {}", path));
  return read_to_end(fd.get(), path);
}

// One write(2), as cgroup files want it. An interrupted write has done nothing.
Expected<> write_file(const std::string& path, std::string_view value) {
  const std::string what = fmt::format("cannot write {} to {}", quote(value), path);
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) return fail_errno(ErrorCode::kHost, what);
  for (;;) {
    const ssize_t put = ::write(fd.get(), value.data(), value.size());
    if (put >= 0) break;
    if (errno != EINTR) return fail_errno(ErrorCode::kHost, what);
  }
  return {};
}

// Words of a list separated by blanks.
std::set<std::string> words(std::string_view text) {
  std::set<std::string> found;
  constexpr std::string_view kBlanks = " \n\t";
  for (std::size_t at = text.find_first_not_of(kBlanks); at != std::string_view::npos;) {
    const std::size_t end = std::min(text.find_first_of(kBlanks, at), text.size());
    found.emplace(text.substr(at, end - at));
    at = text.find_first_not_of(kBlanks, end);
  }
  return found;
}

// cgroup.events is a kernfs file: poll(2) says POLLPRI once its content differs from what was last read
// (kernfs_generic_poll), but also always POLLIN. An epoll set that asks for EPOLLPRI alone turns that into a
// descriptor which is readable exactly on a change.
class EventsWatch : public CgroupOps::PopulatedWatch {
 public:
  static Expected<std::unique_ptr<CgroupOps::PopulatedWatch>> open(std::string path) {
    auto watch = std::make_unique<EventsWatch>();
    watch->path_ = std::move(path);
    watch->events_ = UniqueFd(::open(watch->path_.c_str(), O_RDONLY | O_CLOEXEC));
    if (!watch->events_) return fail_errno(ErrorCode::kHost, fmt::format("cannot open {}", watch->path_));
    watch->epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
    epoll_event interest{};
    interest.events = EPOLLPRI;
    if (!watch->epoll_ ||
        ::epoll_ctl(watch->epoll_.get(), EPOLL_CTL_ADD, watch->events_.get(), &interest) != 0) {
      return fail_errno(ErrorCode::kHost, fmt::format("cannot watch {}", watch->path_));
    }
    return watch;
  }

  Expected<bool> populated() override {
    if (::lseek(events_.get(), 0, SEEK_SET) != 0) {
      return fail_errno(ErrorCode::kHost, fmt::format("cannot rewind {}", path_));
    }
    const auto text = read_to_end(events_.get(), path_);
    if (!text) return std::unexpected(text.error());
    return text->find("populated 1") != std::string::npos;
  }
  int fd() const override { return epoll_.get(); }

 private:
  std::string path_;
  UniqueFd events_;
  UniqueFd epoll_;
};

}  // namespace

CgroupManager::CgroupManager(std::string mount)
    : mount_(std::move(mount)), root_(fmt::format("{}/{}", mount_, kRootName)) {}

// Names come from a plan, which came over a wire: nothing may leave the scenario's root group.
Expected<std::string> CgroupManager::path(const std::string& name) const {
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos) {
    return fail(ErrorCode::kUsage, fmt::format("{} is no name of a cgroup", quote(name)));
  }
  return fmt::format("{}/{}", root_, name);
}

Expected<> CgroupManager::enable(const std::string& directory, const std::set<Controller>& controllers) {
  if (controllers.empty()) return {};
  const auto available = read_file(directory + "/cgroup.controllers");
  if (!available) return std::unexpected(available.error());
  const std::set<std::string> present = words(*available);
  std::string wanted;
  for (const Controller controller : controllers) {
    const std::string name(controller_name(controller));
    if (!present.contains(name)) {
      return fail(ErrorCode::kKernelLacks,
                  fmt::format("{}/cgroup.controllers has no '{}': the kernel lacks {}", directory, name,
                              controller_config(controller)));
    }
    wanted += fmt::format("{}+{}", wanted.empty() ? "" : " ", name);
  }
  return write_file(directory + "/cgroup.subtree_control", wanted);
}

Expected<> CgroupManager::set_up(const std::set<Controller>& controllers) {
  if (auto enabled = enable(mount_, controllers); !enabled) return enabled;
  if (::mkdir(root_.c_str(), 0755) != 0 && errno != EEXIST) {
    return fail_errno(ErrorCode::kHost, fmt::format("cannot make the cgroup {}", root_));
  }
  return enable(root_, controllers);
}

Expected<> CgroupManager::tear_down() {
  if (::rmdir(root_.c_str()) != 0 && errno != ENOENT) {
    return fail_errno(ErrorCode::kHost, fmt::format("cannot remove the cgroup {}", root_));
  }
  return {};
}

Expected<> CgroupManager::create(const std::string& name) {
  const auto directory = path(name);
  if (!directory) return std::unexpected(directory.error());
  if (::mkdir(directory->c_str(), 0755) != 0) {
    return fail_errno(ErrorCode::kHost, fmt::format("cannot make the cgroup {}", *directory));
  }
  return {};
}

Expected<> CgroupManager::remove(const std::string& name) {
  const auto directory = path(name);
  if (!directory) return std::unexpected(directory.error());
  if (::rmdir(directory->c_str()) != 0 && errno != ENOENT) {
    return fail_errno(ErrorCode::kHost, fmt::format("cannot remove the cgroup {}", *directory));
  }
  return {};
}

Expected<> CgroupManager::set(const std::string& name, std::string_view file, std::string_view value) {
  const auto directory = path(name);
  if (!directory) return std::unexpected(directory.error());
  auto written = write_file(fmt::format("{}/{}", *directory, file), value);
  const std::string_view config = knob_config(file);
  if (!written && written.error().errno_value() == ENOENT && !config.empty()) {
    return std::unexpected(std::move(written.error())
                               .with_code(ErrorCode::kKernelLacks)
                               .while_doing(fmt::format("setting {}: the kernel lacks {}", file, config)));
  }
  return written;
}

Expected<> CgroupManager::attach(const std::string& name, pid_t pid) {
  return set(name, "cgroup.procs", std::to_string(pid));
}

Expected<> CgroupManager::kill(const std::string& name) {
  auto killed = set(name, "cgroup.kill", "1");
  if (killed || killed.error().errno_value() != ENOENT) return killed;
  const auto pids = procs(name);
  if (!pids) return std::unexpected(pids.error());
  for (const pid_t pid : *pids) {
    // 0 stands for a process of another pid namespace: kill(0) would be us.
    if (pid > 1) ::kill(pid, SIGKILL);
  }
  return {};
}

Expected<std::vector<pid_t>> CgroupManager::procs(const std::string& name) {
  const auto directory = path(name);
  if (!directory) return std::unexpected(directory.error());
  const auto text = read_file(*directory + "/cgroup.procs");
  if (!text) return std::unexpected(text.error());
  std::vector<pid_t> pids;
  for (const std::string& word : words(*text)) {
    pid_t pid = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), pid);
    if (error == std::errc() && end == word.data() + word.size()) pids.push_back(pid);
  }
  return pids;
}

Expected<> CgroupManager::freeze(const std::string& name, bool frozen) {
  return set(name, "cgroup.freeze", frozen ? "1" : "0");
}

UniqueFd CgroupManager::open_directory(const std::string& name) {
  const auto directory = path(name);
  return directory ? UniqueFd(::open(directory->c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) : UniqueFd();
}

Expected<std::unique_ptr<CgroupOps::PopulatedWatch>> CgroupManager::watch_populated(const std::string& name) {
  const auto directory = path(name);
  if (!directory) return std::unexpected(directory.error());
  return EventsWatch::open(*directory + "/cgroup.events");
}

}  // namespace ktstr::guest
