// TypedRef: a place in guest memory that knows its type, and the way by which it was found.
//
// For cold paths, where clear code and a message that says where things went wrong matter more than time;
// walks over thousands of objects resolve a Place once and extract() from copies instead.
//
//     auto root = kernel.pointed("scx_root", "scx_sched", context);
//     if (!root) return root.error();                  // "scx_root: null pointer"
//     auto name = root->read_string("ops.name", 128);
//     auto kind = root->read("exit_info->kind");       // "scx_root->exit_info: null pointer"
//
// Nothing is read before a value is asked for or a pointer is followed, and nothing is kept: asking again
// reads again.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "host/kernel/kernel_types.h"
#include "host/memory/address.h"
#include "host/memory/fault.h"
#include "host/memory/kernel_reader.h"
#include "host/memory/read_budget.h"

namespace ktstr {

// A datum that could not be had.
struct Missing {
  std::string path;            // the expression that failed, in C: "scx_root->exit_info->msg"
  std::optional<Fault> fault;  // when guest memory could not be read
  std::string reason;          // else: "null pointer", "struct rq has no member scx"

  // "scx_root->exit_info: null pointer"
  std::string to_string() const;
};

template <typename T>
using Datum = std::expected<T, Missing>;

// What reading needs; all three must outlive what is made from it.
struct ReadContext {
  const KernelTypes& types;
  KernelReader& memory;
  ReadBudget& budget;
};

// Why a pointer cannot be one to a kernel object: "null pointer", "LIST_POISON1 (taken off a list)", "freed
// memory (0x6b)", "error pointer -12", "not a kernel address 0x7f...". nullopt: it may be one.
std::optional<std::string> bad_pointer(Kva pointer);

class TypedRef {
 public:
  // Most bytes that one bytes() or c_string() gives.
  static constexpr std::size_t kMaxBytes = std::size_t{16} << 20;
  // Paths that become longer than this are shortened in the middle.
  static constexpr std::size_t kMaxPath = 240;

  // An object at `address`; `path` is how a person would write it in C.
  TypedRef(const ReadContext& context, Kva address, TypeInfo type, std::string path)
      : TypedRef(context, address, std::move(type), std::move(path), false) {}
  // An object that a pointer written as `pointer_path` points to: members are shown as "pointer->member".
  static TypedRef behind(const ReadContext& context, Kva address, TypeInfo type, std::string pointer_path) {
    return {context, address, std::move(type), std::move(pointer_path), true};
  }

  // A member: "scx.dsq", also of an array "kf_tasks[0]", also behind pointers that are members:
  // "curr->scx.dsq".
  Datum<TypedRef> member(std::string_view path) const;
  // An element of an array (whose length is checked), or what follows the object that a pointer points to.
  Datum<TypedRef> at(std::uint64_t index) const;
  // What a pointer points to. Missing when the pointer cannot be read or is no good (bad_pointer()).
  Datum<TypedRef> deref() const;
  // The same place, taken for something else.
  TypedRef cast(TypeInfo type) const;
  Datum<TypedRef> cast(std::string_view struct_name) const;
  // The struct of which this is the member.
  Datum<TypedRef> container_of(std::string_view struct_name, std::string_view member) const;

  // The number that stands here: an integer, enum, bool, pointer or bit field, sign-extended when it is
  // signed.
  Datum<std::uint64_t> value() const;
  // The same as T; surplus upper bits are cut off. For bool: whether it is not zero.
  template <std::integral T>
  Datum<T> as() const {
    const auto number = value();
    if (!number) return std::unexpected(number.error());
    if constexpr (std::same_as<T, bool>) {
      return *number != 0;
    } else {
      return static_cast<T>(*number);
    }
  }
  // The text in an array of char (up to its end or a zero), or behind a pointer to char; at most `limit`
  // bytes.
  Datum<std::string> c_string(std::size_t limit) const;
  // The first `size` bytes, whatever they are.
  Datum<std::vector<std::byte>> bytes(std::size_t size) const;

  // Shorthands of member() and value(), c_string().
  Datum<std::uint64_t> read(std::string_view path) const;
  Datum<std::string> read_string(std::string_view path, std::size_t limit) const;

  // Of a bit field its first byte's.
  Kva address() const { return address_; }
  const TypeInfo& type() const { return place_.type; }
  // "scx_root->ops.name"; of an object behind a pointer "*scx_root".
  std::string path() const { return behind_pointer_ ? "*" + path_ : path_; }
  ReadContext context() const { return {*types_, *memory_, *budget_}; }

 private:
  TypedRef(const ReadContext& context, Kva address, TypeInfo type, std::string path, bool behind_pointer);

  Datum<TypedRef> plain_member(std::string_view path) const;
  std::unexpected<Missing> missing(std::string reason) const;
  std::unexpected<Missing> missing(const Fault& fault) const;

  // Pointers, so that a ref can be assigned to.
  const KernelTypes* types_;
  KernelReader* memory_;
  ReadBudget* budget_;
  Kva address_;
  Place place_;  // offset 0
  std::string path_;
  bool behind_pointer_;
};

}  // namespace ktstr
