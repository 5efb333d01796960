// A Supervisor for tests: waits for real, remembers what it was told, and can be made to report an end.
#pragma once

#include <poll.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "guest/scenario/supervisor.h"

namespace ktstr::guest {

class FakeSupervisor : public Supervisor {
 public:
  // Asked at the start of every wait that does not ignore the end, with the deadline; an answer ends that
  // wait.
  std::function<std::optional<Wake>(MonotonicTime deadline)> script;
  // Called with every frame.
  std::function<void(const ktstr::v1::Frame&)> observer;

  std::vector<ktstr::v1::Frame> frames;
  std::vector<std::string> phases;
  std::set<int> children;
  std::function<std::uint64_t()> iteration_source;

  Wake wait_until(MonotonicTime deadline, int fd = -1, bool ignore_end = false) override {
    if (!ignore_end && script) {
      if (const auto wake = script(deadline)) return *wake;
    }
    for (;;) {
      const auto left = std::max(deadline - monotonic_now(), MonotonicTime(0));
      const auto whole = std::chrono::duration_cast<std::chrono::seconds>(left);
      timespec timeout{};
      timeout.tv_sec = whole.count();
      timeout.tv_nsec = (left - whole).count();
      pollfd entry{fd, POLLIN, 0};
      const int ready = ::ppoll(&entry, fd < 0 ? 0 : 1, &timeout, nullptr);
      if (ready > 0) return Wake::kReadable;
      if (ready == 0) return Wake::kDeadline;
    }
  }
  void send(ktstr::v1::Frame frame) override {
    if (observer) observer(frame);
    frames.push_back(std::move(frame));
  }
  void set_phase(std::string phase) override { phases.push_back(std::move(phase)); }
  void set_iteration_source(std::function<std::uint64_t()> source) override {
    iteration_source = std::move(source);
  }
  void adopt_child(int pid) override { children.insert(pid); }
  void forget_child(int pid) override { children.erase(pid); }
};

}  // namespace ktstr::guest
