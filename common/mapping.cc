#include "common/mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <string>

#include "common/unique_fd.h"

namespace ktstr {

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  if (this != &other) {
    reset();
    address_ = std::exchange(other.address_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

void Mapping::reset() {
  if (size_ > 0) ::munmap(address_, size_);
  address_ = nullptr;
  size_ = 0;
}

Expected<Mapping> Mapping::map(int fd, std::size_t size, int prot, int flags, off_t offset) {
  if (size == 0) return Mapping();
  void* address = ::mmap(nullptr, size, prot, flags, fd, offset);
  if (address == MAP_FAILED) {
    return fail_errno(ErrorCode::kHost, "cannot map " + std::to_string(size) + " bytes");
  }
  return Mapping(address, size);
}

Expected<Mapping> Mapping::map_file(const char* path) {
  const std::string quoted = "'" + std::string(path) + "'";
  const UniqueFd fd(::open(path, O_RDONLY | O_CLOEXEC));
  if (!fd) return fail_errno(ErrorCode::kUsage, "cannot open " + quoted);
  struct stat st = {};
  if (::fstat(fd.get(), &st) != 0) return fail_errno(ErrorCode::kHost, "cannot stat " + quoted);
  if (!S_ISREG(st.st_mode)) return fail(ErrorCode::kUsage, quoted + " is not a regular file");
  auto mapping = map(fd.get(), static_cast<std::size_t>(st.st_size), PROT_READ, MAP_PRIVATE);
  if (!mapping) return propagate(std::move(mapping.error()), "reading " + quoted);
  return mapping;
}

}  // namespace ktstr
