#include "guest/init/event_loop.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace ktstr::guest {
namespace {

// An event carries the descriptor and the generation of its watch, so that an event that was fetched before a
// handler closed the descriptor (and perhaps opened another one of the same number) finds nobody.
std::uint64_t event_key(int fd, std::uint32_t generation) {
  return std::uint64_t{generation} << 32 | static_cast<std::uint32_t>(fd);
}

timespec to_timespec(MonotonicTime time) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(time);
  return {.tv_sec = seconds.count(), .tv_nsec = (time - seconds).count()};
}

}  // namespace

Expected<EventLoop> EventLoop::create() {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return fail_errno(ErrorCode::kHost, "cannot create an epoll instance");
  return EventLoop(std::move(epoll));
}

Expected<> EventLoop::watch(int fd, std::uint32_t events, FdHandler handler) {
  const std::uint32_t generation = next_generation_++;
  epoll_event event{};
  event.events = events;
  event.data.u64 = event_key(fd, generation);
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return fail_errno(ErrorCode::kHost, "cannot wait for descriptor " + std::to_string(fd));
  }
  watches_[fd] = Watch{.generation = generation, .handler = std::move(handler)};
  return {};
}

void EventLoop::change(int fd, std::uint32_t events) {
  const auto watch = watches_.find(fd);
  if (watch == watches_.end()) return;
  epoll_event event{};
  event.events = events;
  event.data.u64 = event_key(fd, watch->second.generation);
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

void EventLoop::unwatch(int fd) {
  if (watches_.erase(fd) == 0) return;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

EventLoop::TimerId EventLoop::add_timer(MonotonicTime at, MonotonicTime interval, TimerHandler handler) {
  const TimerId id = next_timer_++;
  timers_.push_back({.id = id, .at = at, .interval = interval, .handler = std::move(handler)});
  return id;
}

void EventLoop::cancel_timer(TimerId id) {
  std::erase_if(timers_, [id](const Timer& timer) { return timer.id == id; });
}

void EventLoop::run_timers() {
  const MonotonicTime now = monotonic_now();
  std::vector<TimerId> due;
  for (const Timer& timer : timers_) {
    if (timer.at <= now) due.push_back(timer.id);
  }
  for (const TimerId id : due) {
    const auto timer =
        std::find_if(timers_.begin(), timers_.end(), [id](const Timer& t) { return t.id == id; });
    if (timer == timers_.end()) continue;  // an earlier handler cancelled it
    // The handler is moved or copied out: it may cancel itself, and the vector may grow under it.
    if (timer->interval.count() > 0) {
      timer->at += timer->interval * ((now - timer->at) / timer->interval + 1);
      const TimerHandler handler = timer->handler;
      handler();
    } else {
      const TimerHandler handler = std::move(timer->handler);
      timers_.erase(timer);
      handler();
    }
  }
}

void EventLoop::run_once(MonotonicTime until) {
  MonotonicTime wake = until;
  for (const Timer& timer : timers_) wake = std::min(wake, timer.at);
  const timespec timeout = to_timespec(std::max(wake - monotonic_now(), MonotonicTime::zero()));
  std::array<epoll_event, 32> events{};
  const int count =
      ::epoll_pwait2(epoll_.get(), events.data(), static_cast<int>(events.size()), &timeout, nullptr);
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events.at(static_cast<std::size_t>(i));
    const int fd = static_cast<int>(event.data.u64 & 0xffffffffU);
    const auto watch = watches_.find(fd);
    if (watch == watches_.end() || event_key(fd, watch->second.generation) != event.data.u64) continue;
    const FdHandler handler = watch->second.handler;
    handler(event.events);
  }
  run_timers();
}

}  // namespace ktstr::guest
