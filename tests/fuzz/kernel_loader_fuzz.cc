// A kernel's file with any bytes, as an ELF and as a bzImage, into a guest's RAM. What is loaded lies in RAM
// above 1 MiB, and the boot parameters that follow from it are in order.
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "common/unique_fd.h"
#include "host/machine/kvm/boot_params.h"
#include "host/machine/kvm/guest_layout.h"
#include "host/machine/kvm/guest_ram.h"
#include "host/machine/kvm/kernel_loader.h"
#include "tests/fuzz/fuzz_input.h"

using namespace ktstr;
using namespace ktstr::kvm;
using ktstr::fuzz::check;
using ktstr::fuzz::FuzzInput;

namespace {

constexpr std::uint64_t kRam = 8 * kMiB;

void boot(int file, bool is_elf, std::uint64_t initramfs_size, std::string_view command_line) {
  auto ram = GuestRam::create(std::array{kRam / 2, kRam / 2}, RamPages::kNormal);
  check(ram.has_value(), "RAM");
  const auto kernel = load_kernel(*ram, file, is_elf);
  if (!kernel) return;
  check(kernel->start >= kHighMemoryGpa && kernel->end <= kRam && kernel->start < kernel->end, "where it is");
  check(kernel->entry >= kernel->start && kernel->entry < kernel->end, "its entry");
  // Every byte can be touched: nothing that is mapped lies behind the file's end.
  unsigned sum = 0;
  for (std::uint64_t gpa = kHighMemoryGpa; gpa < kRam; gpa += 512)
    sum += std::to_integer<unsigned>(ram->bytes(gpa, 1).front());
  check(sum != ~0U, "sum");
  const auto written = write_boot_params(
      *ram, *kernel, {.command_line = command_line, .initramfs = file, .initramfs_size = initramfs_size});
  if (!written) return;
  boot_params params = {};
  std::memcpy(&params, ram->bytes(kBootParamsGpa, sizeof(params)).data(), sizeof(params));
  const std::uint64_t image = params.hdr.ramdisk_image;
  if (initramfs_size > 0) check(image >= kernel->end && image + params.hdr.ramdisk_size <= kRam, "initramfs");
  check(params.e820_entries == 3, "memory map");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzInput input(data, size);
  const bool is_elf = input.number(1) % 2 == 0;
  const std::uint64_t initramfs_size = input.number(3);
  const std::string_view command_line = input.take(input.number(1));
  const UniqueFd file(memfd_create("kernel", MFD_CLOEXEC));
  const std::string_view bytes = input.rest();
  check(write(file.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()), "write");
  boot(file.get(), is_elf, initramfs_size, command_line);
  return 0;
}
