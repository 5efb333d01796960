// Kernel images: the first byte chooses what the rest is taken for (a bzImage, a payload, an ELF, types, a
// configuration), so that each reader is reached without the fuzzer having to invent compressed streams
// first.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include "host/kernel/btf.h"
#include "host/kernel/bytes.h"
#include "host/kernel/config_derive.h"
#include "host/kernel/elf_view.h"
#include "host/kernel/kernel_config.h"
#include "host/kernel/payload.h"
#include "host/kernel/setup_header.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/unit/kernel/test_image.h"

namespace {

using namespace ktstr;
using fuzz::check;
using fuzz::FuzzInput;

// What unpacks to more than this is stopped: the time goes into other inputs.
constexpr std::size_t kEnough = std::size_t{1} << 20;

// `base` with bytes changed, each as the input says: where (2 bytes), what (1 byte); at last it may be cut.
std::string changed(std::string base, FuzzInput& input) {
  const std::size_t cut = input.number(2);
  while (!input.empty()) {
    const std::size_t at = input.number(2) % base.size();
    base[at] = static_cast<char>(input.number(1));
  }
  if (cut < base.size()) base.resize(cut);
  return base;
}

std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

void read_types(std::span<const std::byte> section) {
  const auto btf = Btf::parse(section);
  if (!btf) return;
  const KernelConfig config =
      derive_config({.release = "1", .uts_version = "#1 SMP", .btf = &*btf, .pvh_entry = true});
  check(config.enabled("X86_64"), "a derived configuration has X86_64");
  btf->member_size("cpumask", "bits");
}

void read_elf(std::span<const std::byte> image) {
  const auto view = ElfView::parse(image, "'x'");
  if (!view) return;
  for (const ElfSection& section : view->sections()) {
    check(section.bytes.empty() || range_inside(section.offset, section.bytes.size(), image.size()),
          "a section lies in the file");
  }
  if (const auto note = view->note("GNU", NT_GNU_BUILD_ID))
    check(note->bytes.size() <= image.size(), "a note lies in the file");
  view->note("", 0);
  if (const ElfSection* section = view->section(".BTF")) read_types(section->bytes);
  KernelConfig::find_embedded(image);
}

void read_payload(std::span<const std::byte> payload) {
  std::string data;
  const auto size = unpack_payload(payload, [&data](std::span<const std::byte> bytes) -> Expected<> {
    if (bytes.size() > kEnough - data.size()) return fail(ErrorCode::kHost, "enough");
    data += as_text(bytes);
    return {};
  });
  if (!size) return;
  check(*size == data.size(), "the size is that of the data");
  read_elf(as_bytes(data));
}

void read_bzimage(std::span<const std::byte> image) {
  describe_foreign_image(image);
  const auto header = parse_setup_header(image, image.size(), "'x'");
  if (!header) return;
  check(range_inside(header->payload_offset, header->payload_size, image.size()),
        "the payload lies in the file");
  read_payload(image.subspan(header->payload_offset, header->payload_size));
}

void read_config(std::span<const std::byte> text) {
  const auto config = KernelConfig::parse(std::string(as_text(text)), KernelConfig::Origin::kFile);
  if (!config) return;
  for (const auto option : config->options()) {
    check(config->lookup(option).kind != ConfigValue::Kind::kAbsent, "every option is found");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzInput input(data, size);
  const auto raw = [&input] { return std::as_bytes(std::span(input.rest())); };
  switch (input.number(1) % 8) {
    case 0:
      read_bzimage(raw());
      break;
    case 1:
      read_payload(raw());
      break;
    case 2:
      read_elf(raw());
      break;
    case 3:
      read_types(raw());
      break;
    case 4:
      read_config(raw());
      break;
    case 5: {
      static const std::string types = test::make_btf();
      read_types(as_bytes(changed(types, input)));
      break;
    }
    case 6: {
      static const std::string elf = test::make_elf({.btf = test::make_btf(), .config = "CONFIG_A=y\n"});
      read_elf(as_bytes(changed(elf, input)));
      break;
    }
    default: {
      static const std::string image = test::make_bzimage();
      read_bzimage(as_bytes(changed(image, input)));
      break;
    }
  }
  return 0;
}
