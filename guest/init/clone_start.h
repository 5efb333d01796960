// What a clone does before anything else: it makes its own what it shares with every other clone of the same
// snapshot, and with the guest that was kept.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"
#include "proto/frames.pb.h"

namespace ktstr::guest {

inline constexpr std::size_t kCloneNonce = 16;
inline constexpr std::size_t kCloneSeed = 32;

// What is done to the kernel; tests have their own.
struct CloneActions {
  std::function<Expected<>(std::chrono::nanoseconds since_epoch)> set_wall_clock;
  std::function<Expected<>(std::string_view seed)> reseed;
};
CloneActions kernel_actions();

// One sentence that says what is wrong with the request, "" when it can be followed.
std::string refuse_clone(const ktstr::v1::CloneStart& start);

// Sets the wall clock and gives the kernel's random number generator a new seed, credited and in force at
// once. What cannot be done adds a sentence to `warnings`.
void become_clone(const ktstr::v1::CloneStart& start, const CloneActions& actions,
                  std::vector<std::string>& warnings);

}  // namespace ktstr::guest
