#include "host/machine/kvm/vcpu_threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>

#include <fmt/core.h>

namespace ktstr::kvm {
namespace {

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

std::string first_line(const std::string& path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  return line;
}

// By what the kernel says of a thread of this process (proc(5), task/TID/stat and wchan).
std::string describe_thread(pid_t id) {
  const std::string folder = fmt::format("/proc/self/task/{}/", id);
  // "4711 (vcpu0) S 1 ...": the name may have brackets in it.
  const std::string stat = first_line(folder + "stat");
  const std::size_t name_end = stat.rfind(") ");
  if (name_end == std::string::npos || name_end + 2 >= stat.size())
    return fmt::format("thread {} is not there", id);
  const char state = stat[name_end + 2];
  if (state == 'R') return fmt::format("thread {} runs, or waits for a host CPU", id);
  const std::string where = first_line(folder + "wchan");
  return fmt::format("thread {} {} in the host's kernel{}", id,
                     state == 'S'   ? "sleeps"
                     : state == 'D' ? "waits without taking signals"
                                    : fmt::format("is in state {}", state),
                     where.empty() || where == "0" ? "" : fmt::format(" ({})", where));
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
  end_limit_ = options.end_limit;
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
  while (park(vcpu, slot)) run_guest(vcpu, slot);
  const std::lock_guard lock(mutex_);
  slot.ended = true;
  changed_.notify_all();
}

bool VcpuThreads::park(Vcpu& vcpu, Slot& slot) {
  std::unique_lock lock(mutex_);
  slot.parked = true;
  slot.parked_at = Clock::now();
  note_place(slot, VcpuWhereabouts::Place::kParked);
  changed_.notify_all();
  changed_.wait(lock, [this] { return wish_ != Wish::kPark; });
  slot.parked = false;
  slot.parked_at.reset();
  // complete_exit() may have put back what go() has cleared in the meantime.
  vcpu.cancel(wish_ != Wish::kRun);
  return wish_ != Wish::kEnd;
}

std::optional<VcpuThreads::Clock::time_point> VcpuThreads::first_run() const {
  const Clock::rep at = first_run_;
  return at == 0 ? std::nullopt : std::optional(Clock::time_point(Clock::duration(at)));
}

void VcpuThreads::note_first_run() {
  if (first_run_ != 0) return;
  Clock::rep nobody_before = 0;
  first_run_.compare_exchange_strong(nobody_before, Clock::now().time_since_epoch().count());
}

void VcpuThreads::note_place(Slot& slot, VcpuWhereabouts::Place place) {
  slot.place_since.store(Clock::now().time_since_epoch().count(), std::memory_order_relaxed);
  slot.place.store(place, std::memory_order_release);
}

void VcpuThreads::run_guest(Vcpu& vcpu, Slot& slot) {
  note_first_run();
  while (wish_ == Wish::kRun) {
    note_place(slot, VcpuWhereabouts::Place::kInKvm);
    const int error = vcpu.enter();
    // One that was given up comes back to nothing but its own slot.
    if (wish_ == Wish::kEnd) break;
    note_place(slot, VcpuWhereabouts::Place::kInExit);
    // EAGAIN: a vCPU that waited for its start-up interrupt has got it.
    if (error == EINTR || error == EAGAIN) continue;
    if (handler_(vcpu, error) == Next::kPark) break;
  }
  note_place(slot, VcpuWhereabouts::Place::kInKvm);
  // A trap's handler has set its registers itself and left nothing pending.
  [[maybe_unused]] const auto completed = vcpu.complete_exit();
}

// What is wished and immediate_exit change together, so that a go() and a hold() of two threads cannot leave
// a vCPU that is to run and comes back from KVM_RUN at once, for ever.
void VcpuThreads::wish(Wish wish) {
  const std::lock_guard lock(mutex_);
  if (wish_ == Wish::kEnd) return;
  if (wish == Wish::kPark && wish_ == Wish::kRun) held_at_ = Clock::now();
  wish_ = wish;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    (*vcpus_)[i].cancel(wish != Wish::kRun);
    if (wish != Wish::kRun && slots_[i]->thread.joinable())
      pthread_kill(slots_[i]->thread.native_handle(), kick_signal());
  }
  if (wish != Wish::kPark) changed_.notify_all();
}

void VcpuThreads::go() {
  wish(Wish::kRun);
}

void VcpuThreads::hold() {
  wish(Wish::kPark);
}

bool VcpuThreads::held() const {
  return wish_ != Wish::kRun;
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
      report.stopped_after.emplace_back(std::nullopt);
      continue;
    }
    const auto after = std::max(*slot.parked_at - start, Clock::duration::zero());
    report.stopped_after.emplace_back(after);
    report.rendezvous = std::max<std::chrono::nanoseconds>(report.rendezvous, after);
  }
  if (!report.missing.empty()) report.rendezvous = Clock::now() - start;
  lock.unlock();
  for (const std::uint32_t cpu : report.missing) {
    const VcpuWhereabouts where = whereabouts(cpu);
    report.missing_at.push_back({fmt::format("vCPU {} is {}", cpu, where.to_string()), where.rip});
  }
  return report;
}

bool VcpuThreads::parked(std::uint32_t cpu) {
  const std::lock_guard lock(mutex_);
  return cpu < slots_.size() && slots_[cpu]->parked;
}

VcpuWhereabouts VcpuThreads::whereabouts(std::uint32_t cpu) {
  VcpuWhereabouts where;
  // The lock: against end(), which takes the slots away.
  const std::lock_guard lock(mutex_);
  if (cpu >= slots_.size()) return where;
  const Slot& slot = *slots_[cpu];
  where.place = slot.place.load(std::memory_order_acquire);
  const Clock::duration since(slot.place_since.load(std::memory_order_relaxed));
  where.since = std::max(Clock::now().time_since_epoch() - since, Clock::duration::zero());
  where.last_exit = (*vcpus_)[cpu].last_exit();
  where.rip = (*vcpus_)[cpu].last_rip();
  where.thread = describe_thread(thread_ids_[cpu]);
  return where;
}

std::string VcpuWhereabouts::to_string() const {
  if (place == Place::kParked) return "parked";
  return fmt::format("{} for {:.3f} s (last exit: {}{}); its {}",
                     place == Place::kInKvm ? "in KVM_RUN" : "having an exit answered",
                     std::chrono::duration<double>(since).count(), last_exit,
                     rip ? fmt::format(", rip {:#x}", *rip) : "", thread);
}

bool VcpuThreads::end() {
  if (slots_.empty()) return !abandoned_;
  wish(Wish::kEnd);
  {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, end_limit_, [this] {
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
