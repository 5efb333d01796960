// Small kernels for tests: an ELF with the sections that the code looks at, compressed and wrapped into a
// bzImage like a real one, with every number open to be spoiled.
#pragma once

#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "host/kernel/payload.h"

namespace ktstr::test {

inline std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

// Writes a little-endian value into `image` at `offset`.
template <typename T>
void poke(std::string& image, std::size_t offset, T value) {
  std::memcpy(image.data() + offset, &value, sizeof value);
}

template <typename T>
T peek(const std::string& image, std::size_t offset) {
  T value;
  std::memcpy(&value, image.data() + offset, sizeof value);
  return value;
}

constexpr const char* kRelease = "7.2.3+test";
constexpr const char* kUtsVersion = "#1 SMP PREEMPT_DYNAMIC Test 7.2.3-1";

struct TestSymbol {
  std::string name;
  std::uint64_t address = 0;
  bool weak = false;
};

// A further section of make_elf().
struct TestSection {
  std::string name;
  // Made for the address it gets.
  std::function<std::string(std::uint64_t address)> contents;
  // None: the next free one in the kernel, a multiple of 16. Else the section has a segment of its own.
  std::optional<std::uint64_t> address = {};
};

struct ElfOptions {
  std::string banner = std::string("Linux version ") + kRelease + " (me@here) (gcc 12) " + kUtsVersion + "\n";
  std::string build_id = "\x01\x23\x45\x67\x89\xab\xcd\xef\xfe\xdc";
  std::string btf = {};     // contents of .BTF; empty: no section
  std::string config = {};  // embedded as IKCONFIG does; empty: none
  // More of .rodata, made for the address it gets (a multiple of 8).
  std::function<std::string(std::uint64_t address)> rodata = {};
  // Contents of .symtab and .strtab; no sections when there are none.
  std::vector<TestSymbol> symbols = {};
  std::vector<TestSection> more = {};  // in this order
  bool pvh = true;                     // the note of a PVH entry at 0x1000200
  bool sections = true;                // false: program headers only
  std::size_t padding = 0;             // zeros in .text, for size
};

// An ELF64 x86-64 kernel with .text, .rodata, .notes, .BTF and a PT_LOAD and a PT_NOTE segment.
std::string make_elf(const ElfOptions& options = {});

// `data` as one compressed stream, without the trailing size. kLz4 gives the legacy frames that kernels use.
std::string compress(const std::string& data, Compression method);
// The stream with the trailing size as the kernel's build appends it (nothing for gzip).
std::string make_payload(const std::string& data, Compression method);

// Offsets of the setup header's fields (boot.rst).
constexpr std::size_t kSetupSects = 0x1f1;
constexpr std::size_t kSyssize = 0x1f4;
constexpr std::size_t kBootFlag = 0x1fe;
constexpr std::size_t kMagic = 0x202;
constexpr std::size_t kProtocol = 0x206;
constexpr std::size_t kVersionPointer = 0x20e;
constexpr std::size_t kLoadflags = 0x211;
constexpr std::size_t kXloadflags = 0x236;
constexpr std::size_t kPayloadOffset = 0x248;
constexpr std::size_t kPayloadLength = 0x24c;
constexpr std::size_t kInitSize = 0x260;

// A bzImage around `payload`, with four sectors of setup code and a little decompressor before and behind the
// payload.
std::string make_bzimage(const std::string& payload);
// The ordinary case: make_elf() compressed with gzip.
std::string make_bzimage();

// The types of a kernel that has sched_ext (or has not) and CONFIG_NR_CPUS=128.
struct BtfOptions {
  bool sched_ext = true;
  bool preempt_rcu = true;
  bool no_hz_full = false;
};
std::string make_btf(const BtfOptions& options = {});

}  // namespace ktstr::test
