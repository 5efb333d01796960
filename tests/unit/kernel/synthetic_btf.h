// BTF made by hand, for tests of everything that reads types.
//
//     SyntheticBtf types;
//     const auto u64 = types.integer("u64", 8);
//     const auto list = types.structure("list_head", 16, {{"next", u64, 0}, {"prev", u64, 64}});
//     const Btf btf = types.parse();
//
// Ids count from 1 in the order of the calls, so a reference forward is a number that comes later. Misuse
// ends the program.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <bpf/btf.h>

#include "host/kernel/btf.h"

namespace ktstr::test {

class SyntheticBtf {
 public:
  using Id = int;

  // Offsets are in bits; `width` above 0 makes a bit field and sets the struct's kind_flag.
  struct Member {
    std::string name;  // "" for an anonymous one
    Id type = 0;
    std::uint32_t offset = 0;
    std::uint32_t width = 0;
  };
  struct Constant {
    std::string name;
    std::int64_t value = 0;
  };
  struct Parameter {
    std::string name;
    Id type = 0;
  };

  SyntheticBtf() : btf_(btf__new_empty(), btf__free) {}

  // `encoding`: BTF_INT_SIGNED, BTF_INT_BOOL.
  Id integer(const std::string& name, std::size_t size, int encoding = 0) {
    return good(btf__add_int(raw(), name.c_str(), size, encoding));
  }
  // An integer of which only some bits count: what old structs have bit fields of.
  Id bits_of_integer(const std::string& name, std::size_t size, std::uint32_t offset, std::uint32_t bits,
                     int encoding = 0) {
    const Id id = integer(name, size, encoding);
    auto* type = const_cast<btf_type*>(btf__type_by_id(raw(), static_cast<__u32>(id)));
    auto* info = reinterpret_cast<__u32*>(type + 1);
    *info = static_cast<__u32>(encoding) << 24 | offset << 16 | bits;
    return id;
  }
  Id pointer(Id to) { return good(btf__add_ptr(raw(), to)); }
  Id array(Id element, std::uint32_t count) { return good(btf__add_array(raw(), element, element, count)); }
  Id type_definition(const std::string& name, Id of) {
    return good(btf__add_typedef(raw(), name.c_str(), of));
  }
  Id constant_of(Id type) { return good(btf__add_const(raw(), type)); }
  Id volatile_of(Id type) { return good(btf__add_volatile(raw(), type)); }
  Id declaration(const std::string& name) { return good(btf__add_fwd(raw(), name.c_str(), BTF_FWD_STRUCT)); }

  Id structure(const std::string& name, std::uint32_t size, const std::vector<Member>& members) {
    const Id id = good(btf__add_struct(raw(), name.c_str(), size));
    add(members);
    return id;
  }
  Id unite(const std::string& name, std::uint32_t size, const std::vector<Member>& members) {
    const Id id = good(btf__add_union(raw(), name.c_str(), size));
    add(members);
    return id;
  }

  // BTF_KIND_ENUM: values are cut to 32 bits, as old tools did.
  Id enumeration(const std::string& name, std::uint32_t size, const std::vector<Constant>& constants) {
    const Id id = good(btf__add_enum(raw(), name.c_str(), size));
    for (const Constant& constant : constants)
      good(btf__add_enum_value(raw(), constant.name.c_str(), static_cast<std::int32_t>(constant.value)));
    return id;
  }
  Id enumeration64(const std::string& name, bool is_signed, const std::vector<Constant>& constants) {
    const Id id = good(btf__add_enum64(raw(), name.c_str(), 8, is_signed));
    for (const Constant& constant : constants)
      good(btf__add_enum64_value(raw(), constant.name.c_str(), static_cast<std::uint64_t>(constant.value)));
    return id;
  }

  Id function(const std::string& name, const std::vector<Parameter>& parameters, Id returns = 0) {
    const Id prototype = good(btf__add_func_proto(raw(), returns));
    for (const Parameter& parameter : parameters)
      good(btf__add_func_param(raw(), parameter.name.c_str(), parameter.type));
    return good(btf__add_func(raw(), name.c_str(), BTF_FUNC_STATIC, prototype));
  }
  Id variable(const std::string& name, Id type) {
    return good(btf__add_var(raw(), name.c_str(), BTF_VAR_STATIC, type));
  }

  struct Placed {
    Id variable = 0;
    std::uint32_t offset = 0;
    std::uint32_t size = 0;
  };
  // BTF_KIND_DATASEC: variables in a section of the image.
  Id section(const std::string& name, std::uint32_t size, const std::vector<Placed>& variables) {
    const Id id = good(btf__add_datasec(raw(), name.c_str(), size));
    for (const Placed& one : variables)
      good(btf__add_datasec_var_info(raw(), one.variable, one.offset, one.size));
    return id;
  }

  // The .BTF section.
  std::string bytes() const {
    __u32 size = 0;
    const void* data = btf__raw_data(btf_.get(), &size);
    if (data == nullptr) die("btf__raw_data");
    return {static_cast<const char*>(data), size};
  }
  Btf parse() const {
    const std::string section = bytes();
    auto btf = Btf::parse(std::as_bytes(std::span(section)));
    if (!btf) die(btf.error().to_string().c_str());
    return std::move(*btf);
  }

 private:
  [[noreturn]] static void die(const char* what) {
    std::fprintf(stderr, "SyntheticBtf: %s\n", what);
    std::abort();
  }
  static int good(int result) {
    if (result < 0) die("refused by libbpf");
    return result;
  }
  ::btf* raw() { return btf_.get(); }
  void add(const std::vector<Member>& members) {
    for (const Member& member : members) {
      // libbpf would take an offset that is not that of a byte for a bit field of the new form.
      const bool poke = member.width == 0 && member.offset % 8 != 0;
      good(btf__add_field(raw(), member.name.c_str(), member.type, poke ? 0 : member.offset, member.width));
      if (!poke) continue;
      auto* type = const_cast<btf_type*>(btf__type_by_id(raw(), btf__type_cnt(raw()) - 1));
      btf_members(type)[static_cast<std::size_t>(btf_vlen(type)) - 1].offset = member.offset;
    }
  }

  std::unique_ptr<::btf, void (*)(::btf*)> btf_;
};

}  // namespace ktstr::test
