#include "guest/init/debug_port.h"

#include <sys/io.h>

namespace ktstr::guest {

bool write_debug_port(std::uint16_t port, std::span<const char> bytes) {
  if (::ioperm(port, 1, 1) != 0) return false;
  const char* data = bytes.data();
  std::size_t size = bytes.size();
  asm volatile("cld; rep outsb" : "+S"(data), "+c"(size) : "d"(port) : "memory", "cc");
  ::ioperm(port, 1, 0);
  return true;
}

}  // namespace ktstr::guest
