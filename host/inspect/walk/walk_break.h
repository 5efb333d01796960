// WalkBreak: a place where a container of the guest could not be followed any further.
//
// A vCPU can stop in the middle of a list_add() or a tree rotation, and a kernel that crashed may have
// damaged anything, so a break is a finding, not a failure: walkers keep what they reached and say where the
// links ended. Like Fault it is a plain value that turns into text when somebody prints it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "host/memory/address.h"
#include "host/memory/fault.h"

namespace ktstr {

struct WalkBreak {
  enum class Kind {
    kTorn,           // the node does not point back to where we came from
    kFault,          // the node can not be read: see `fault`
    kLimit,          // more nodes than the caller wanted
    kPoison,         // a link holds a poison value of the kernel's: the node was deleted or freed
    kNull,           // a link that may not be null is
    kUninitialised,  // the head is all zeros: nobody has initialised it yet (no damage by itself)
    kCycle,          // the links lead back to a node that was visited
    kMalformed,      // a value no kernel stores there: misaligned pointer, impossible size or depth
  };

  Kind kind = Kind::kTorn;
  // The node (or head, slot, table) where the walk ended: for kPoison and kNull the one that holds the bad
  // link, else the one that the link led to.
  Kva node;
  // What was read and is wrong; for kTorn the back pointer found, for kPoison the poison.
  std::uint64_t found = 0;
  // For kTorn: the back pointer that would have been right. For kLimit: the limit.
  std::uint64_t expected = 0;
  std::optional<Fault> fault;
  // Where in the container, for those that have parts: "buckets[3]", "future_tbl.buckets[1]"; else empty.
  std::string path;

  bool operator==(const WalkBreak&) const = default;

  // What is wrong, without the path: "torn at 0xffff888000001000: points back to 0x0 instead of
  // 0xffff888000002000".
  std::string what() const;
  // One line: "buckets[3]: torn at 0xffff888000001000: points back to 0x0 instead of 0xffff888000002000".
  std::string to_string() const;
};

// The breaks of one walk: at most kMaxBreaks are kept, so that a container that is damaged all over does not
// make a report of it all.
struct WalkBreaks {
  static constexpr std::size_t kMaxBreaks = 32;

  std::vector<WalkBreak> kept;
  std::uint64_t left_out = 0;

  bool empty() const { return kept.empty(); }
  auto begin() const { return kept.begin(); }
  auto end() const { return kept.end(); }
  void add(WalkBreak broken) {
    if (kept.size() < kMaxBreaks) {
      kept.push_back(std::move(broken));
    } else {
      ++left_out;
    }
  }
};

// What is wrong with the pointer `link` that was found in `holder`, before it is followed: null, poison, or
// not aligned to eight bytes. Nothing when it can be followed.
std::optional<WalkBreak> check_link(Kva holder, Kva link);

// "torn", "fault", "limit", "poison", "null", "not initialised", "cycle", "malformed".
const char* to_text(WalkBreak::Kind kind);

}  // namespace ktstr
