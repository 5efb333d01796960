// BTF that is not to be trusted: a good section with bytes changed as the input says, or the input itself.
// Whatever parses must be answered by every question about types, within bounds.
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include <bpf/btf.h>

#include "host/kernel/kernel_types.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/unit/kernel/synthetic_btf.h"

namespace {

using namespace ktstr;
using fuzz::check;
using fuzz::FuzzInput;

std::string make_good() {
  test::SyntheticBtf types;
  const int u32 = types.integer("unsigned int", 4);
  const int character = types.integer("char", 1);
  const int odd = types.bits_of_integer("int", 4, 5, 3, BTF_INT_SIGNED);
  const int list = types.structure("list_head", 16, {{"next", u32, 0}, {"prev", u32, 64}});
  const int inner = types.structure("", 16, {{"nr", u32, 0}, {"", types.unite("", 4, {{"u", u32, 0}}), 64}});
  const int fields = types.structure("fields", 16, {{"a", u32, 3, 7}, {"b", u32, 64, 32}, {"", inner, 0}});
  const int old =
      types.structure("old", 8, {{"c", odd, 8}, {"d", types.volatile_of(types.constant_of(u32)), 32}});
  const int task = types.structure("task", 96,
                                   {{"comm", types.array(character, 16), 0},
                                    {"list", list, 128},
                                    {"fields", fields, 256},
                                    {"old", old, 384},
                                    {"grid", types.array(types.array(u32, 2), 2), 512},
                                    {"tail", types.array(list, 0), 768}});
  types.structure("task", 8, {{"comm", types.type_definition("t", u32), 0}});
  types.enumeration("e", 4, {{"E_A", 1}, {"E_B", -1}});
  types.enumeration64("e64", true, {{"E_C", std::int64_t{1} << 40}});
  types.function("f", {{"x", types.pointer(task)}, {"y", u32}});
  types.variable("v", task);
  return types.bytes();
}

void examine_type(const KernelTypes& types, const TypeInfo& type) {
  check(type.size <= KernelTypes::kMaxTypeSize, "sizes are bounded");
  describe(type);
  types.pointee(type);
  types.enumerators(type);
  if (type.kind == ValueKind::kArray) {
    const auto array = types.array(type);
    check(array.has_value(), "an array has elements");
    check(array->count == 0 || array->count * array->element.size == type.size, "its size is theirs");
    for (const char* path : {"[0]", "[1].next", "[4294967295]", "[1][1]"}) types.place(type, path);
  }
}

void examine_place(const Place& place) {
  static const std::array<std::byte, 64> object{};
  check(place.offset <= KernelTypes::kMaxOffset, "offsets are bounded");
  check(place.bit_offset < 8 && place.bit_size <= 64, "bit fields are bounded");
  const auto value = extract(place, object);
  check(!value || place.offset + stored_bytes(place) <= object.size(), "nothing is read past the copy");
}

void examine(const Btf& btf) {
  const KernelTypes types(btf);
  const std::uint32_t count = btf__type_cnt(btf.get());
  std::uint32_t work = 20'000;
  for (std::uint32_t id = 0; id <= count && id < 1000; ++id) {
    const TypeInfo type = types.type(id);
    examine_type(types, type);
    if (work == 0) continue;
    const auto members = types.members(type);
    check(members.size() <= KernelTypes::kMaxMembers, "members are bounded");
    for (const Place& member : members) {
      if (work == 0) break;
      --work;
      examine_place(member);
      if (const auto again = types.place(type, member.path)) examine_place(*again);
    }
    // A circle of anonymous members costs the whole budget of a question each time.
    if (members.size() > 10'000) work = 0;
  }
  for (const char* name : {"task", "fields", "old", "list_head", "e", "e64", "f", "v", ""}) {
    if (const auto found = types.find_struct(name))
      check(found->kind == ValueKind::kStruct || found->kind == ValueKind::kUnion, "a struct is one");
    for (const char* path : {"comm", "comm[3]", "fields.a", "fields.u", "old.c", "old.d", "grid[1][1]",
                             "grid[2]", "tail[7].prev", "list.next.prev"}) {
      if (const auto place = types.place(name, path)) examine_place(*place);
    }
    types.enumerators(name);
    types.has_function(name);
    types.variable(name);
    types.parameter(name, "x");
    types.enumerator(name);
  }
  for (const char* constant : {"E_A", "E_B", "E_C"}) types.enumerator(constant, std::uint64_t{1} << 40);
  check(types.ambiguous().size() <= 256, "the list of ambiguous names is bounded");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::string good = make_good();
  FuzzInput input(data, size);
  std::string section;
  if (input.number(1) % 8 == 7) {
    section = input.rest();
  } else {
    section = good;
    while (!input.empty()) {
      std::size_t at = input.number(2) % section.size();
      for (const char c : input.take(1 + input.number(1) % 8)) {
        if (at < section.size()) section[at++] = c;
      }
    }
  }
  if (const auto btf = Btf::parse(std::as_bytes(std::span(section)))) examine(*btf);
  return 0;
}
