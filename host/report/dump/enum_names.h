// EnumNames: the kernel's own names for numbers and flags, from the enums that a dump carries.
//
// A kernel enum that names flags holds more than flags: shifts and widths of bit fields (*_SHIFT, *_BITS),
// masks, and constants of several bits inside a mask (SCX_TASK_ENABLED is 4 << 8 within
// SCX_TASK_STATE_MASK in 7.2). And some enums are plain lists, 0, 1, 2, ... Which it is, is found out from
// the constants, as new ones appear with every kernel.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "proto/dump.pb.h"

namespace ktstr {

class EnumNames {
 public:
  EnumNames() = default;
  // Copies what it needs.
  explicit EnumNames(const ktstr::v1::Dump& dump);

  // Whether there is a table for a `bits` option.
  bool has(std::string_view enum_names) const { return tables_.find(enum_names) != tables_.end(); }

  // Names of what is set in `value`, lowest bit first; bits without a name come last as one "0x..". Empty
  // for 0 in an enum of flags, and where there is no table.
  std::vector<std::string> names(std::string_view enum_names, std::uint64_t value) const;

  // The constant's value, or `otherwise` where the kernel does not have it.
  std::uint64_t value(std::string_view enum_names, std::string_view constant, std::uint64_t otherwise) const;

 private:
  struct Constant {
    std::string name;
    std::uint64_t value = 0;
  };
  struct Mask {
    std::string name;  // without "_MASK"
    std::uint64_t bits = 0;
    std::vector<Constant> inside;
  };
  struct Table {
    bool plain = false;           // a list of values, not of bits
    std::vector<Constant> all;    // as the kernel has them
    std::vector<Constant> flags;  // one bit each, ascending
    std::vector<Mask> masks;      // those that hold numbers
  };
  static Table make_table(const ktstr::v1::EnumTable& from);

  std::map<std::string, Table, std::less<>> tables_;
};

}  // namespace ktstr
