// Values that the kernel writes where no pointer must be followed any more.
#pragma once

#include <cstdint>

namespace ktstr {

// LIST_POISON1 and LIST_POISON2 (include/linux/poison.h) plus x86-64's POISON_POINTER_DELTA
// (CONFIG_ILLEGAL_POINTER_VALUE): what list_del() leaves in next and prev.
inline constexpr std::uint64_t kListPoison1 = 0xdead000000000100;
inline constexpr std::uint64_t kListPoison2 = 0xdead000000000122;

// Whether a pointer has been overwritten by a poison: those of lists and everything else made with
// POISON_POINTER_DELTA, freed slab objects (POISON_FREE 0x6b, its last byte POISON_END 0xa5), objects not yet
// initialised (POISON_INUSE 0x5a), freed pages (PAGE_POISON 0xaa) and SLUB's red zones (0xbb, 0xcc).
constexpr bool is_poison(std::uint64_t pointer) {
  if (pointer >> 48 == 0xdead) return true;
  switch (pointer) {
    case 0x6b6b6b6b6b6b6b6b:
    case 0xa56b6b6b6b6b6b6b:
    case 0x5a5a5a5a5a5a5a5a:
    case 0xaaaaaaaaaaaaaaaa:
    case 0xbbbbbbbbbbbbbbbb:
    case 0xcccccccccccccccc:
      return true;
    default:
      return false;
  }
}

}  // namespace ktstr
