#include "schedulers/ktstr-sched/bpf_scheduler.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>

namespace ktstr::sched {
namespace {

constexpr const char* kOps = "ktstr_sched";
constexpr std::uint64_t kSwitchPartial = 1 << 3;  // SCX_OPS_SWITCH_PARTIAL

std::unexpected<Error> fail_with(int error, std::string message) {
  return std::unexpected(
      Error::from_errno(ErrorCode::kStartFailed, std::move(message), error < 0 ? -error : error));
}

// Offset and size of a member of the ops in their value as libbpf keeps it before load, which has the layout
// of our own struct sched_ext_ops.
struct Member {
  std::size_t offset = 0;
  std::size_t size = 0;
};

Expected<Member> find_ops_member(const btf* types, std::string_view name) {
  const std::int32_t id = btf__find_by_name_kind(types, "sched_ext_ops", BTF_KIND_STRUCT);
  const btf_type* type = id < 0 ? nullptr : btf__type_by_id(types, static_cast<std::uint32_t>(id));
  for (std::uint32_t i = 0; type != nullptr && i < btf_vlen(type); ++i) {
    const btf_member& member = btf_members(type)[i];
    if (name != btf__name_by_offset(types, member.name_off)) continue;
    const std::int64_t size = btf__resolve_size(types, member.type);
    if (size < 0) break;
    return Member{btf_member_bit_offset(type, i) / 8, static_cast<std::size_t>(size)};
  }
  return fail(ErrorCode::kStartFailed, fmt::format("the BPF object has no sched_ext_ops.{}", name));
}

void store(void* target, std::size_t size, std::uint64_t value) {
  std::memcpy(target, &value, size);
}

}  // namespace

Expected<bool> lacks_user_dsqs() {
  const std::unique_ptr<btf, decltype(&btf__free)> types(btf__load_vmlinux_btf(), &btf__free);
  if (!types) return fail_with(errno, "cannot read the kernel's BTF (/sys/kernel/btf/vmlinux)");
  const std::int32_t id = btf__find_by_name_kind(types.get(), "scx_bpf_create_dsq", BTF_KIND_FUNC);
  if (id < 0)
    return fail(ErrorCode::kStartFailed, "the kernel has no sched_ext: its BTF has no scx_bpf_create_dsq");
  const btf_type* function = btf__type_by_id(types.get(), static_cast<std::uint32_t>(id));
  return btf_vlen(btf__type_by_id(types.get(), function->type)) != 2;
}

Expected<BpfScheduler> BpfScheduler::open(std::span<const std::byte> object) {
  bpf_object_open_opts options{};
  options.sz = sizeof(options);
  options.object_name = kOps;
  bpf_object* opened = bpf_object__open_mem(object.data(), object.size(), &options);
  if (opened == nullptr) return fail_with(errno, "cannot open the BPF object");
  BpfScheduler scheduler(opened);
  if (const Expected<> found = scheduler.find_variables(); !found) return std::unexpected(found.error());
  return scheduler;
}

BpfScheduler::BpfScheduler(BpfScheduler&& other) noexcept
    : object_(std::exchange(other.object_, nullptr)),
      link_(std::exchange(other.link_, nullptr)),
      variables_(std::move(other.variables_)),
      mappings_(std::exchange(other.mappings_, {})) {}

BpfScheduler::~BpfScheduler() {
  stop();
  for (const auto& [name, mapping] : mappings_) ::munmap(mapping.address, mapping.size);
  bpf_object__close(object_);
}

Expected<> BpfScheduler::find_variables() {
  const btf* types = bpf_object__btf(object_);
  const std::uint32_t count = types == nullptr ? 0 : btf__type_cnt(types);
  for (std::uint32_t id = 1; id < count; ++id) {
    const btf_type* section = btf__type_by_id(types, id);
    if (!btf_is_datasec(section)) continue;
    const std::string name = btf__name_by_offset(types, section->name_off);
    if (bpf_object__find_map_by_name(object_, name.c_str()) == nullptr) continue;
    for (std::uint32_t i = 0; i < btf_vlen(section); ++i) {
      const btf_var_secinfo& info = btf_var_secinfos(section)[i];
      const btf_type* variable = btf__type_by_id(types, info.type);
      variables_.insert_or_assign(btf__name_by_offset(types, variable->name_off),
                                  Variable{name, info.offset, info.size});
    }
  }
  if (variables_.empty()) return fail(ErrorCode::kStartFailed, "the BPF object has no global variables");
  return {};
}

Expected<> BpfScheduler::set(const char* variable, std::uint64_t value) {
  const auto found = variables_.find(variable);
  if (found == variables_.end() || found->second.size > sizeof(value))
    return fail(ErrorCode::kStartFailed, fmt::format("the BPF object has no number '{}'", variable));
  std::size_t size = 0;
  void* bytes =
      bpf_map__initial_value(bpf_object__find_map_by_name(object_, found->second.section.c_str()), &size);
  if (bytes == nullptr || found->second.offset + found->second.size > size)
    return fail(ErrorCode::kStartFailed, fmt::format("'{}' lies outside of its section", variable));
  store(static_cast<std::byte*>(bytes) + found->second.offset, found->second.size, value);
  return {};
}

Expected<> BpfScheduler::set_ops(bool partial, std::uint32_t timeout_ms, std::uint32_t dump_size) {
  const btf* types = bpf_object__btf(object_);
  const bpf_map* map = bpf_object__find_map_by_name(object_, kOps);
  std::size_t size = 0;
  void* value = map == nullptr ? nullptr : bpf_map__initial_value(const_cast<bpf_map*>(map), &size);
  if (value == nullptr) return fail(ErrorCode::kStartFailed, "the BPF object has no ops");
  auto* bytes = static_cast<std::byte*>(value);
  const Expected<Member> flags = find_ops_member(types, "flags");
  const Expected<Member> timeout = find_ops_member(types, "timeout_ms");
  const Expected<Member> dump = find_ops_member(types, "exit_dump_len");
  for (const Expected<Member>* member : {&flags, &timeout, &dump}) {
    if (!*member) return std::unexpected(member->error());
    if ((*member)->offset + (*member)->size > size)
      return fail(ErrorCode::kStartFailed, "the ops are too short");
  }
  std::uint64_t bits = 0;
  std::memcpy(&bits, bytes + flags->offset, flags->size);
  if (partial) bits |= kSwitchPartial;
  store(bytes + flags->offset, flags->size, bits);
  store(bytes + timeout->offset, timeout->size, timeout_ms);
  store(bytes + dump->offset, dump->size, dump_size);
  return {};
}

Expected<> BpfScheduler::map_sections() {
  for (const char* section : {".data", ".bss", ".data.exit_dump"}) {
    const bpf_map* map = bpf_object__find_map_by_name(object_, section);
    if (map == nullptr)
      return fail(ErrorCode::kStartFailed, fmt::format("the BPF object has no {}", section));
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    const std::size_t size = (bpf_map__value_size(map) + page - 1) / page * page;
    void* address = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(map), 0);
    if (address == MAP_FAILED) return fail_with(errno, fmt::format("cannot map {}", section));
    mappings_[section] = {address, size};
  }
  return {};
}

Expected<> BpfScheduler::start() {
  if (const int error = bpf_object__load(object_); error != 0)
    return fail_with(error, "error: cannot load the BPF programs");
  if (const Expected<> mapped = map_sections(); !mapped) return mapped;
  link_ = bpf_map__attach_struct_ops(bpf_object__find_map_by_name(object_, kOps));
  if (link_ == nullptr) return fail_with(errno, "error: cannot attach the scheduler");
  return {};
}

void BpfScheduler::stop() {
  if (link_ != nullptr) bpf_link__destroy(std::exchange(link_, nullptr));
}

template <typename T>
T BpfScheduler::read(const char* variable) const {
  const auto found = variables_.find(variable);
  const auto mapping = found == variables_.end() ? mappings_.end() : mappings_.find(found->second.section);
  if (mapping == mappings_.end() || found->second.offset + sizeof(T) > mapping->second.size) return T{};
  const auto* address = static_cast<const std::byte*>(mapping->second.address) + found->second.offset;
  // Written by BPF code meanwhile, always in one piece.
  return *reinterpret_cast<const volatile T*>(address);
}

std::string BpfScheduler::read_text(const char* variable) const {
  const auto found = variables_.find(variable);
  const auto mapping = found == variables_.end() ? mappings_.end() : mappings_.find(found->second.section);
  if (mapping == mappings_.end() || found->second.offset + found->second.size > mapping->second.size)
    return "";
  const auto* text = static_cast<const char*>(mapping->second.address) + found->second.offset;
  return std::string(text, ::strnlen(text, found->second.size));
}

bool BpfScheduler::has_exited() const {
  return read<std::int32_t>("exit_kind") != 0;
}

ExitRecord BpfScheduler::exit_record() const {
  ExitRecord record;
  record.kind = read<std::int32_t>("exit_kind");
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  record.cpu = read<std::int32_t>("exit_cpu");
  record.code = read<std::int64_t>("exit_code");
  record.reason = read_text("exit_reason");
  record.message = read_text("exit_message");
  record.dump = read_text("exit_dump");
  return record;
}

}  // namespace ktstr::sched
