#include "guest/init/clone_start.h"

#include <fcntl.h>
#include <linux/random.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>

#include "common/unique_fd.h"

namespace ktstr::guest {
namespace {

constexpr const char* kRandomDevice = "/dev/urandom";
constexpr std::uint64_t kNsPerSecond = 1'000'000'000;

Expected<> set_wall_clock(std::chrono::nanoseconds since_epoch) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(since_epoch);
  const timespec time{.tv_sec = seconds.count(), .tv_nsec = (since_epoch - seconds).count()};
  if (::clock_settime(CLOCK_REALTIME, &time) == 0) return {};
  return fail_errno(ErrorCode::kHost, "cannot set the wall clock");
}

// RNDADDENTROPY mixes the seed in and credits it; a generator that is ready already takes it into use only
// when its key is old, which RNDRESEEDCRNG does now (drivers/char/random.c, random_ioctl).
Expected<> reseed(std::string_view seed) {
  const UniqueFd device(::open(kRandomDevice, O_WRONLY | O_CLOEXEC));
  if (!device) return fail_errno(ErrorCode::kHost, std::string("cannot open ") + kRandomDevice);
  // struct rand_pool_info ends in an array of no fixed size.
  alignas(rand_pool_info) std::array<char, sizeof(rand_pool_info) + kCloneSeed> buffer{};
  const int bytes = static_cast<int>(std::min(seed.size(), kCloneSeed));
  const int header[2] = {bytes * 8, bytes};  // entropy_count in bits, buf_size
  static_assert(offsetof(rand_pool_info, buf) == sizeof header);
  std::memcpy(buffer.data(), header, sizeof header);
  std::memcpy(buffer.data() + sizeof header, seed.data(), static_cast<std::size_t>(bytes));
  if (::ioctl(device.get(), RNDADDENTROPY, buffer.data()) != 0 || ::ioctl(device.get(), RNDRESEEDCRNG) != 0)
    return fail_errno(ErrorCode::kHost, "cannot seed the random number generator");
  return {};
}

}  // namespace

CloneActions kernel_actions() {
  return {.set_wall_clock = set_wall_clock, .reseed = reseed};
}

std::string refuse_clone(const ktstr::v1::CloneStart& start) {
  if (start.nonce().size() != kCloneNonce) return "the nonce has not 16 bytes";
  if (start.random_seed().size() != kCloneSeed) return "the random seed has not 32 bytes";
  if (start.realtime_ns() < kNsPerSecond || start.realtime_ns() > INT64_MAX)
    return "the wall clock is absurd";
  return {};
}

void become_clone(const ktstr::v1::CloneStart& start, const CloneActions& actions,
                  std::vector<std::string>& warnings) {
  const std::chrono::nanoseconds time(static_cast<std::int64_t>(start.realtime_ns()));
  for (const Expected<>& done : {actions.set_wall_clock(time), actions.reseed(start.random_seed())}) {
    if (!done) warnings.push_back("as a clone: " + done.error().to_string());
  }
}

}  // namespace ktstr::guest
