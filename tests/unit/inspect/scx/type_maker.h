// TypeMaker: structures of a kernel for tests, laid out as a compiler would.
//
// SyntheticBtf wants the offset of each member; here they follow from sizes and alignments, so that a test's
// structure reads like a declaration:
//
//     TypeMaker make;
//     const Type list = make.structure("list_head", {{"next", make.pointer()}, {"prev", make.pointer()}});
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "tests/unit/kernel/synthetic_btf.h"

namespace ktstr::test {

class TypeMaker {
 public:
  struct Type {
    SyntheticBtf::Id id = 0;
    std::uint32_t size = 0;   // bytes
    std::uint32_t align = 1;  // bytes
  };
  struct Member {
    std::string name;
    Type type;
    std::uint32_t bits = 0;  // of a bit field; each begins where the one before it ended, in its first byte
  };

  SyntheticBtf& btf() { return btf_; }

  Type integer(const std::string& name, std::uint32_t size, int encoding = 0) {
    return {btf_.integer(name, size, encoding), size, size};
  }
  Type pointer() { return {btf_.pointer(0), 8, 8}; }  // void *
  Type pointer(const Type& to) { return {btf_.pointer(to.id), 8, 8}; }
  // `count` 0: a flexible array.
  Type array(const Type& element, std::uint32_t count) {
    return {btf_.array(element.id, count), element.size * count, element.align};
  }
  Type enumeration(const std::string& name, const std::vector<SyntheticBtf::Constant>& constants) {
    return {btf_.enumeration(name, 4, constants), 4, 4};
  }
  Type enumeration64(const std::string& name, const std::vector<SyntheticBtf::Constant>& constants) {
    return {btf_.enumeration64(name, false, constants), 8, 8};
  }
  // Members that the next structures shall not have, and those that are of another type in them than they
  // say: "scx_rq.runnable_list".
  std::set<std::string> without;
  std::map<std::string, Type> instead;

  Type structure(const std::string& name, std::vector<Member> members) {
    std::erase_if(members, [&](const Member& one) { return without.contains(name + "." + one.name); });
    for (Member& member : members) {
      const auto other = instead.find(name + "." + member.name);
      if (other != instead.end()) member.type = other->second;
    }
    std::vector<SyntheticBtf::Member> placed;
    std::uint32_t bit = 0;  // where the next member may begin
    std::uint32_t align = 1;
    for (const Member& member : members) {
      align = std::max(align, member.type.align);
      if (member.bits == 0) bit = round_up(bit, 8 * member.type.align);
      placed.push_back({member.name, member.type.id, bit, member.bits});
      bit += member.bits == 0 ? 8 * member.type.size : member.bits;
    }
    const std::uint32_t size = round_up(bit, 8 * align) / 8;
    return {btf_.structure(name, size, placed), size, align};
  }
  Type unite(const std::string& name, const std::vector<Member>& members) {
    std::vector<SyntheticBtf::Member> placed;
    std::uint32_t size = 0;
    std::uint32_t align = 1;
    for (const Member& member : members) {
      align = std::max(align, member.type.align);
      size = std::max(size, member.type.size);
      placed.push_back({member.name, member.type.id, 0, 0});
    }
    size = round_up(size, align);
    return {btf_.unite(name, size, placed), size, align};
  }

 private:
  static std::uint32_t round_up(std::uint32_t value, std::uint32_t unit) {
    return (value + unit - 1) / unit * unit;
  }
  SyntheticBtf btf_;
};

}  // namespace ktstr::test
