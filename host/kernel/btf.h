// Btf: a typed, read-only view of a kernel's BTF (Documentation/bpf/btf.rst): which types, members, functions
// and per-CPU variables a kernel has.
//
// libbpf does the parsing and checks every record against the section's bounds, but neither type references
// nor string offsets until they are used; so names are always fetched through libbpf's checked accessors and
// every walk through references is bounded here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"

struct btf;

namespace ktstr {

class Btf {
 public:
  // Largest .BTF section that is accepted, bytes; kernels have 4 to 8 MiB.
  static constexpr std::size_t kMaxSize = std::size_t{64} << 20;

  // Parses a .BTF section (copied; `section` need not outlive this). Error kUsage when it is damaged or too
  // large.
  static Expected<Btf> parse(std::span<const std::byte> section);

  // Whether a struct (not a mere forward declaration) of that name exists.
  bool has_struct(const std::string& name) const { return find_struct(name).has_value(); }
  // Id of that struct, for repeated questions: looking a name up scans all types, 0.2 to 0.5 ms in a real
  // kernel.
  std::optional<std::uint32_t> find_struct(const std::string& name) const;
  // has_member() for an id that find_struct() returned.
  bool has_member(std::uint32_t struct_id, std::string_view member) const;
  // Size of a struct in bytes.
  std::optional<std::uint32_t> struct_size(const std::string& name) const;
  // Whether the struct has a member of that name, also inside its anonymous structs and unions. False when
  // there is no such struct.
  bool has_member(const std::string& struct_name, std::string_view member) const;
  // Size in bytes of that member's type (an array's is that of all elements); nullopt when there is no such
  // member or its type can not be resolved.
  std::optional<std::uint64_t> member_size(const std::string& struct_name, std::string_view member) const;
  // Whether a function of that name was compiled into the kernel (functions that were only ever inlined are
  // not there).
  bool has_func(const std::string& name) const;
  // Whether a per-CPU variable of that name exists (or any variable, in kernels that record all).
  bool has_var(const std::string& name) const;
  // Names of an enum's constants; empty when there is no such enum.
  std::vector<std::string> enumerators(const std::string& enum_name) const;

  // For what this view does not offer. Never nullptr.
  const ::btf* get() const { return btf_.get(); }

 private:
  struct Free {
    void operator()(::btf* btf) const;
  };

  explicit Btf(std::unique_ptr<::btf, Free> btf) : btf_(std::move(btf)) {}
  std::optional<std::uint32_t> find(const std::string& name, std::uint32_t kind) const;
  // Type id of the member; `budget` bounds the number of members looked at, over all levels.
  std::optional<std::uint32_t> find_member(std::uint32_t type_id, std::string_view member, int depth,
                                           std::uint32_t& budget) const;

  std::unique_ptr<::btf, Free> btf_;
};

}  // namespace ktstr
