// KernelTypes: where members of the kernel's structures lie, by BTF.
//
// Walkers know names only. Each access path ("scx.dsq_list.node") is resolved once, to a Place: offset, size
// and kind, checked on the way; what a kernel does not have is an answer with a reason, never offset 0.
//
// BTF is input from outside like any other: type references are followed a bounded number of times, sizes and
// offsets are checked not to wrap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "host/kernel/btf.h"
#include "host/kernel/place.h"

namespace ktstr {

struct Enumerator {
  std::string name;
  std::uint64_t value = 0;  // sign-extended when the enum is signed
};

// Not for use by several threads at once: find_struct() keeps a list.
class KernelTypes {
 public:
  // Deepest access path and longest chain of typedefs that are followed.
  static constexpr std::size_t kMaxDepth = 32;
  // Most members that one question may look at.
  static constexpr std::uint32_t kMaxMembers = 100'000;
  // Longest name, the kernel's own limit (KSYM_NAME_LEN); what has a longer one is not found.
  static constexpr std::size_t kMaxName = 512;
  // Largest type, bytes; a larger array is kOther. Sizes of structs have 32 bits in BTF.
  static constexpr std::uint64_t kMaxTypeSize = std::uint64_t{1} << 32;
  // Farthest member of an object, bytes (elements of flexible arrays included).
  static constexpr std::uint64_t kMaxOffset = std::uint64_t{1} << 40;

  // `btf` must outlive this. Makes an index of names: some milliseconds, 0.6 MB for a distribution's kernel.
  explicit KernelTypes(const Btf& btf);

  const Btf& btf() const { return btf_; }

  // A struct or union that is defined (not only declared). Where the name is defined more than once, the
  // largest; `ambiguous()` names those that were asked for.
  std::optional<TypeInfo> find_struct(std::string_view name) const;
  // Whatever BTF id this is, peeled.
  TypeInfo type(std::uint32_t id) const;

  // Where `path` leads to inside a struct: members by name, separated by dots, through anonymous structs and
  // unions; "[3]" picks an array's element (checked against its length; in a flexible array any). The error
  // is one sentence: "struct sched_ext_entity has no member tid".
  std::expected<Place, std::string> place(std::string_view struct_name, std::string_view path) const;
  std::expected<Place, std::string> place(const TypeInfo& type, std::string_view path) const;

  // The members of a struct in order, those of anonymous structs and unions in place of these.
  // What BTF places outside of the struct is left out.
  std::vector<Place> members(const TypeInfo& type) const;

  // What a pointer points to; kOther for void.
  TypeInfo pointee(const TypeInfo& pointer) const;
  // Element and number of elements of an array (0 for a flexible one).
  struct Array {
    TypeInfo element;
    std::uint64_t count = 0;
  };
  std::optional<Array> array(const TypeInfo& type) const;

  // Constants of an enum in the order of the kernel's; empty when there is no such enum.
  std::vector<Enumerator> enumerators(std::string_view enum_name) const;
  std::vector<Enumerator> enumerators(const TypeInfo& type) const;
  // A constant, in whichever enum it stands. BTF made by a pahole before 1.24 has no ENUM64 and cuts
  // constants to 32 bits: then `fallback`, if given, wins over a value whose upper half it contradicts.
  std::optional<std::uint64_t> enumerator(std::string_view constant,
                                          std::optional<std::uint64_t> fallback = std::nullopt) const;

  // Position of a function's parameter, 0-based. The error is one sentence.
  std::expected<std::uint32_t, std::string> parameter(std::string_view function, std::string_view name) const;
  bool has_function(std::string_view name) const;
  // Type of a per-CPU variable (BTF's DATASEC), or of any other where the kernel records them.
  std::optional<TypeInfo> variable(std::string_view name) const;

  // Names that were looked up and are defined more than once.
  const std::vector<std::string>& ambiguous() const { return ambiguous_; }

 private:
  enum class NameClass : std::uint32_t;

  // Ids of all definitions of a name, ascending.
  std::vector<std::uint32_t> find(NameClass wanted, std::string_view name) const;
  std::optional<std::uint32_t> find_first(NameClass wanted, std::string_view name) const;
  void note_ambiguous(std::string_view name) const;

  const Btf& btf_;
  // A hash table: the ids of bucket n are ids_[buckets_[n]] to ids_[buckets_[n + 1]], ascending.
  std::vector<std::uint32_t> buckets_;
  std::vector<std::uint32_t> ids_;
  std::vector<std::uint32_t> enums_;  // ids of all enums, those without a name too
  bool has_enum64_ = false;
  mutable std::vector<std::string> ambiguous_;
};

}  // namespace ktstr
