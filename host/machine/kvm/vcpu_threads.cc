#include "host/machine/kvm/vcpu_threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include <fmt/core.h>

namespace ktstr::kvm {
namespace {

using namespace std::chrono_literals;

// How long end() waits for a thread. A vCPU that does not leave KVM_RUN within it never will.
constexpr auto kEndLimit = 5s;

int kick_signal() {
  return SIGRTMIN;
}

// The signal only has to interrupt KVM_RUN, so its handler does nothing; without one it would end the
// process.
void install_kick_handler() {
  struct sigaction action = {};
  action.sa_handler = [](int) {};
  sigemptyset(&action.sa_mask);
  sigaction(kick_signal(), &action, nullptr);
}

// Every other signal is for the thread of the event loop.
void block_other_signals() {
  sigset_t all;
  sigfillset(&all);
  sigdelset(&all, kick_signal());
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
}

Expected<void> apply(std::thread& thread, std::uint32_t index, const VcpuThreadOptions& options) {
  pthread_setname_np(thread.native_handle(), fmt::format("vcpu{}", index).c_str());
  if (index < options.host_cpus.size()) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(options.host_cpus[index], &set);
    if (const int error = pthread_setaffinity_np(thread.native_handle(), sizeof(set), &set); error != 0) {
      return std::unexpected(Error::from_errno(
          ErrorCode::kHost, fmt::format("cannot pin vCPU {} to host CPU {}", index, options.host_cpus[index]),
          error));
    }
  }
  if (options.fifo_priority > 0) {
    const sched_param param = {.sched_priority = options.fifo_priority};
    if (const int error = pthread_setschedparam(thread.native_handle(), SCHED_FIFO, &param); error != 0)
      return std::unexpected(
          Error::from_errno(ErrorCode::kHost, "cannot give vCPU threads SCHED_FIFO", error));
  }
  return {};
}

}  // namespace

Expected<void> VcpuThreads::start(std::vector<Vcpu>& vcpus, Handler handler,
                                  const VcpuThreadOptions& options) {
  install_kick_handler();
  vcpus_ = &vcpus;
  handler_ = std::move(handler);
  thread_ids_.assign(vcpus.size(), 0);
  for (Vcpu& vcpu : vcpus) {
    Slot& slot = *slots_.emplace_back(std::make_unique<Slot>());
    try {
      slot.thread = std::thread([this, &vcpu, &slot] { work(vcpu, slot); });
    } catch (const std::system_error& error) {
      slots_.pop_back();
      return std::unexpected(
          Error::from_errno(ErrorCode::kHost, "cannot make a thread for a vCPU", error.code().value()));
    }
    if (auto applied = apply(slot.thread, vcpu.index(), options); !applied) return applied;
  }
  std::unique_lock lock(mutex_);
  changed_.wait(
      lock, [this] { return std::ranges::all_of(slots_, [](const auto& slot) { return slot->parked; }); });
  return {};
}

void VcpuThreads::work(Vcpu& vcpu, Slot& slot) {
  block_other_signals();
  thread_ids_[vcpu.index()] = gettid();
  while (park(vcpu, slot)) run_guest(vcpu);
  const std::lock_guard lock(mutex_);
  slot.ended = true;
  changed_.notify_all();
}

bool VcpuThreads::park(Vcpu& vcpu, Slot& slot) {
  std::unique_lock lock(mutex_);
  slot.parked = true;
  slot.parked_at = Clock::now();
  changed_.notify_all();
  changed_.wait(lock, [this] { return wish_ != Wish::kPark; });
  slot.parked = false;
  slot.parked_at.reset();
  vcpu.cancel(wish_ == Wish::kEnd);
  return wish_ != Wish::kEnd;
}

void VcpuThreads::run_guest(Vcpu& vcpu) {
  while (wish_ == Wish::kRun) {
    const int error = vcpu.enter();
    // EAGAIN: a vCPU that waited for its start-up interrupt has got it.
    if (error == EINTR || error == EAGAIN) continue;
    if (handler_(vcpu, error) == Next::kPark) break;
  }
  // A trap's handler has set its registers itself and left nothing pending.
  [[maybe_unused]] const auto completed = vcpu.complete_exit();
}

void VcpuThreads::wish(Wish wish) {
  const std::lock_guard lock(mutex_);
  if (wish_ == Wish::kEnd) return;
  if (wish == Wish::kPark && wish_ == Wish::kRun) held_at_ = Clock::now();
  wish_ = wish;
  if (wish != Wish::kPark) changed_.notify_all();
}

void VcpuThreads::kick() {
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    (*vcpus_)[i].cancel(true);
    if (slots_[i]->thread.joinable()) pthread_kill(slots_[i]->thread.native_handle(), kick_signal());
  }
}

void VcpuThreads::go() {
  wish(Wish::kRun);
}

void VcpuThreads::hold() {
  wish(Wish::kPark);
  kick();
}

PauseReport VcpuThreads::wait_parked(std::chrono::nanoseconds limit) {
  std::unique_lock lock(mutex_);
  const auto start = held_at_.value_or(Clock::now());
  changed_.wait_until(lock, Clock::now() + limit, [this] {
    return std::ranges::all_of(slots_, [](const auto& slot) { return slot->parked; });
  });
  PauseReport report;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const Slot& slot = *slots_[i];
    if (!slot.parked) {
      report.missing.push_back(static_cast<std::uint32_t>(i));
      report.stopped_after.push_back(std::nullopt);
      continue;
    }
    const auto after = std::max(*slot.parked_at - start, Clock::duration::zero());
    report.stopped_after.push_back(after);
    report.rendezvous = std::max<std::chrono::nanoseconds>(report.rendezvous, after);
  }
  if (!report.missing.empty()) report.rendezvous = Clock::now() - start;
  return report;
}

bool VcpuThreads::parked(std::uint32_t cpu) {
  const std::lock_guard lock(mutex_);
  return cpu < slots_.size() && slots_[cpu]->parked;
}

bool VcpuThreads::end() {
  if (slots_.empty()) return !abandoned_;
  wish(Wish::kEnd);
  kick();
  {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kEndLimit, [this] {
      return std::ranges::all_of(slots_, [](const auto& slot) { return slot->ended; });
    });
    for (auto& slot : slots_) {
      if (slot->ended) continue;
      abandoned_ = true;
      slot->thread.detach();
      // Its thread may still come back to it.
      [[maybe_unused]] Slot* const left = slot.release();
    }
  }
  for (auto& slot : slots_)
    if (slot) slot->thread.join();
  slots_.clear();
  return !abandoned_;
}

}  // namespace ktstr::kvm
