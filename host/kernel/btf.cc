#include "host/kernel/btf.h"

#include <cerrno>
#include <cstring>

#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>

namespace ktstr {
namespace {

// task_struct has some 300 members; nesting of anonymous members beyond this does not occur.
constexpr std::uint32_t kMaxMembers = 65536;
constexpr int kMaxDepth = 8;

bool equal(const char* name, std::string_view wanted) {
  return name != nullptr && wanted == name;
}

int silence(libbpf_print_level /*level*/, const char* /*format*/, va_list /*arguments*/) {
  return 0;
}

}  // namespace

void Btf::Free::operator()(::btf* btf) const {
  btf__free(btf);
}

Expected<Btf> Btf::parse(std::span<const std::byte> section) {
  if (section.size() > kMaxSize) {
    return fail(ErrorCode::kUsage,
                fmt::format("the kernel's .BTF section has {} bytes; at most {} are accepted", section.size(),
                            kMaxSize));
  }
  // libbpf prints what it dislikes to standard error; the error returned here says it to the caller instead.
  const libbpf_print_fn_t printer = libbpf_set_print(silence);
  std::unique_ptr<::btf, Free> btf(btf__new(section.data(), static_cast<__u32>(section.size())));
  const int reason = errno;
  libbpf_set_print(printer);
  if (!btf) {
    return std::unexpected(
        Error::from_errno(ErrorCode::kUsage, "the kernel's .BTF section is damaged", reason));
  }
  return Btf(std::move(btf));
}

std::optional<std::uint32_t> Btf::find(const std::string& name, std::uint32_t kind) const {
  const __s32 id = btf__find_by_name_kind(btf_.get(), name.c_str(), kind);
  if (id <= 0) return std::nullopt;
  return static_cast<std::uint32_t>(id);
}

std::optional<std::uint32_t> Btf::find_struct(const std::string& name) const {
  return find(name, BTF_KIND_STRUCT);
}

std::optional<std::uint32_t> Btf::struct_size(const std::string& name) const {
  const auto id = find_struct(name);
  if (!id) return std::nullopt;
  return btf__type_by_id(btf_.get(), *id)->size;
}

std::optional<std::uint32_t> Btf::find_member(std::uint32_t type_id, std::string_view member, int depth,
                                              std::uint32_t& budget) const {
  const btf_type* type = btf__type_by_id(btf_.get(), type_id);
  if (type == nullptr || depth > kMaxDepth || (!btf_is_struct(type) && !btf_is_union(type)))
    return std::nullopt;
  const btf_member* members = btf_members(type);
  for (std::uint32_t i = 0; i < btf_vlen(type) && budget > 0; ++i, --budget) {
    const char* name = btf__name_by_offset(btf_.get(), members[i].name_off);
    if (equal(name, member)) return members[i].type;
    if (!equal(name, "")) continue;
    if (auto inner = find_member(members[i].type, member, depth + 1, budget)) return inner;
    if (budget == 0) return std::nullopt;
  }
  return std::nullopt;
}

bool Btf::has_member(std::uint32_t struct_id, std::string_view member) const {
  if (member.empty()) return false;  // that would be any anonymous member
  std::uint32_t budget = kMaxMembers;
  return find_member(struct_id, member, 0, budget).has_value();
}

bool Btf::has_member(const std::string& struct_name, std::string_view member) const {
  const auto id = find_struct(struct_name);
  return id && has_member(*id, member);
}

std::optional<std::uint64_t> Btf::member_size(const std::string& struct_name, std::string_view member) const {
  const auto id = find_struct(struct_name);
  if (!id) return std::nullopt;
  std::uint32_t budget = kMaxMembers;
  const auto type = find_member(*id, member, 0, budget);
  if (!type) return std::nullopt;
  // Follows at most 32 references and refuses products that overflow.
  const __s64 size = btf__resolve_size(btf_.get(), *type);
  if (size < 0) return std::nullopt;
  return static_cast<std::uint64_t>(size);
}

bool Btf::has_func(const std::string& name) const {
  return find(name, BTF_KIND_FUNC).has_value();
}

bool Btf::has_var(const std::string& name) const {
  return find(name, BTF_KIND_VAR).has_value();
}

std::vector<std::string> Btf::enumerators(const std::string& enum_name) const {
  std::vector<std::string> names;
  const auto id = find(enum_name, BTF_KIND_ENUM);
  if (!id) return names;
  const btf_type* type = btf__type_by_id(btf_.get(), *id);
  const struct btf_enum* values = ::btf_enum(type);
  for (std::uint32_t i = 0; i < btf_vlen(type); ++i) {
    if (const char* name = btf__name_by_offset(btf_.get(), values[i].name_off); name != nullptr)
      names.emplace_back(name);
  }
  return names;
}

}  // namespace ktstr
