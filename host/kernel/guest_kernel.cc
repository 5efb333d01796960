#include "host/kernel/guest_kernel.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include <fmt/format.h>

namespace ktstr {
namespace {

// Per-CPU sections have less than a megabyte, the kernel's addresses are in the upper half.
constexpr std::uint64_t kUpperHalf = std::uint64_t{1} << 63;

std::unexpected<Missing> missing(std::string path, std::string reason) {
  return std::unexpected(
      Missing{.path = std::move(path), .fault = std::nullopt, .reason = std::move(reason)});
}

// A type that BTF need not have.
TypeInfo integer(std::size_t size, bool is_signed) {
  TypeInfo type;
  type.kind = ValueKind::kInteger;
  type.size = size;
  type.is_signed = is_signed;
  return type;
}

}  // namespace

GuestKernel::GuestKernel(const SymbolTable& symbols, const KernelTypes* types, std::uint64_t slide)
    : symbols_(symbols), types_(types), slide_(slide) {}

std::optional<Kva> GuestKernel::symbol(std::string_view name) const {
  const auto address = symbols_.find(name);
  if (!address) return std::nullopt;
  return Kva(*address + slide_);
}

std::expected<Kva, std::string> GuestKernel::require(std::string_view name) const {
  const auto address = symbols_.address(name);
  if (!address) return std::unexpected(address.error().to_string());
  return Kva(*address + slide_);
}

Datum<Kva> GuestKernel::locate(std::string_view name) const {
  auto address = require(name);
  if (!address) return missing(std::string(name), std::move(address.error()));
  return *address;
}

std::string GuestKernel::describe(Kva address) const {
  const auto at = symbols_.nearest(address.value() - slide_);
  if (!at) return {};
  if (at->offset == 0) return std::string(at->name);
  return fmt::format("{}+{:#x}", at->name, at->offset);
}

std::optional<std::string_view> GuestKernel::function_name(Kva address) const {
  const auto at = symbols_.nearest(address.value() - slide_);
  if (!at || at->offset != 0) return std::nullopt;
  return at->name;
}

Datum<TypeInfo> GuestKernel::type_of(std::string_view name, std::string_view struct_name,
                                     const ReadContext& context) const {
  if (struct_name.empty()) {
    auto type = context.types.variable(name);
    if (!type) return missing(std::string(name), "the kernel's BTF has no variable of that name");
    return std::move(*type);
  }
  auto type = context.types.find_struct(struct_name);
  if (!type) return missing(std::string(name), fmt::format("the kernel has no struct {}", struct_name));
  return std::move(*type);
}

Datum<TypedRef> GuestKernel::global(std::string_view name, std::string_view struct_name,
                                    const ReadContext& context) const {
  const auto address = locate(name);
  if (!address) return std::unexpected(address.error());
  auto type = type_of(name, struct_name, context);
  if (!type) return std::unexpected(std::move(type.error()));
  return TypedRef(context, *address, std::move(*type), std::string(name));
}

Datum<TypedRef> GuestKernel::pointed(std::string_view name, std::string_view struct_name,
                                     const ReadContext& context) const {
  const auto pointer = number(name, sizeof(std::uint64_t), false, context);
  if (!pointer) return std::unexpected(pointer.error());
  auto type = type_of(name, struct_name, context);
  if (!type) return std::unexpected(std::move(type.error()));
  if (auto problem = bad_pointer(Kva(*pointer))) return missing(std::string(name), std::move(*problem));
  return TypedRef::behind(context, Kva(*pointer), std::move(*type), std::string(name));
}

Datum<std::uint64_t> GuestKernel::number(std::string_view name, std::size_t size, bool is_signed,
                                         const ReadContext& context) const {
  const auto address = locate(name);
  if (!address) return std::unexpected(address.error());
  return TypedRef(context, *address, integer(size, is_signed), std::string(name)).value();
}

void GuestKernel::set_per_cpu_offsets(std::vector<std::uint64_t> offsets) {
  offsets.resize(std::min<std::size_t>(offsets.size(), kMaxCpus));
  while (!offsets.empty() && offsets.back() == 0) offsets.pop_back();
  per_cpu_offsets_ = std::move(offsets);
}

std::uint64_t GuestKernel::room_at(std::uint64_t address) const {
  std::size_t low = 0;
  std::size_t high = symbols_.size();
  while (low < high) {
    const std::size_t middle = low + (high - low) / 2;
    if (symbols_.address_at(middle) <= address) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < symbols_.size() ? symbols_.address_at(low) - address : ~std::uint64_t{0};
}

Datum<std::uint32_t> GuestKernel::load_per_cpu_offsets(const ReadContext& context) {
  static constexpr std::string_view kArray = "__per_cpu_offset";
  const auto address = locate(kArray);
  if (!address) return std::unexpected(address.error());
  std::uint64_t count =
      std::min<std::uint64_t>(room_at(address->value() - slide_) / sizeof(std::uint64_t), kMaxCpus);
  const auto ids = nr_cpu_ids(context);
  if (ids) count = std::min<std::uint64_t>(count, *ids);
  // The next symbol that is known may be far behind the array's end.
  if (!ids && symbols_.source() == SymbolSource::kImage) return std::unexpected(ids.error());
  if (count == 0) return missing(std::string(kArray), "there is no room for an entry before the next symbol");
  // What entries have that the kernel never set; all that are equal to it stand for no CPU.
  const std::uint64_t initial = symbol("__per_cpu_load").value_or(Kva(0)).value();
  std::vector<std::uint64_t> offsets(count);
  if (const auto done =
          context.memory.read(*address, std::as_writable_bytes(std::span(offsets)), context.budget);
      !done)
    return std::unexpected(Missing{.path = std::string(kArray), .fault = done.error(), .reason = {}});
  std::uint32_t existing = 0;
  for (std::uint64_t& offset : offsets) {
    if (offset == initial) offset = 0;
    if (offset != 0) ++existing;
  }
  if (existing == 0)
    return missing(std::string(kArray), "no entry is set: the guest has not set up its CPUs yet");
  set_per_cpu_offsets(std::move(offsets));
  return existing;
}

std::vector<std::uint32_t> GuestKernel::cpus() const {
  std::vector<std::uint32_t> list;
  for (std::uint32_t cpu = 0; cpu < per_cpu_offsets_.size(); ++cpu) {
    if (has_cpu(cpu)) list.push_back(cpu);
  }
  return list;
}

Datum<std::uint32_t> GuestKernel::nr_cpu_ids(const ReadContext& context) const {
  static constexpr std::string_view kName = "nr_cpu_ids";
  if (symbols_.find(kName)) {
    const auto ids = number(kName, sizeof(std::uint32_t), false, context);
    if (!ids) return std::unexpected(ids.error());
    if (*ids == 0 || *ids > kMaxCpus)
      return missing(std::string(kName), fmt::format("is {}, which no kernel has (1 to {})", *ids, kMaxCpus));
    return static_cast<std::uint32_t>(*ids);
  }
  // A constant in kernels for one number of CPUs: then as many as have an area.
  if (!per_cpu_offsets_.empty()) return static_cast<std::uint32_t>(per_cpu_offsets_.size());
  return missing(std::string(kName), "no such symbol, and the CPUs' per-CPU areas are not known");
}

std::optional<std::uint64_t> GuestKernel::per_cpu_base(std::string_view name) const {
  const auto address = symbols_.find(name);
  if (!address) return std::nullopt;
  // __per_cpu_start says it too, but is not always among the symbols.
  return *address < kUpperHalf ? *address : *address + slide_;
}

std::optional<Kva> GuestKernel::per_cpu(std::string_view name, std::uint32_t cpu) const {
  const auto base = per_cpu_base(name);
  if (!base || !has_cpu(cpu)) return std::nullopt;
  return Kva(*base + per_cpu_offsets_[cpu]);
}

std::optional<Kva> GuestKernel::per_cpu_pointer(Kva pointer, std::uint32_t cpu) const {
  if (!has_cpu(cpu)) return std::nullopt;
  return pointer + per_cpu_offsets_[cpu];
}

Datum<TypedRef> GuestKernel::per_cpu_ref(std::string_view name, std::uint32_t cpu,
                                         std::string_view struct_name, const ReadContext& context) const {
  std::string path = fmt::format("per_cpu({}, {})", name, cpu);
  if (const auto known = symbols_.address(name); !known)
    return missing(std::move(path), known.error().to_string());
  const auto address = per_cpu(name, cpu);
  if (!address) return missing(std::move(path), fmt::format("CPU {} has no per-CPU area", cpu));
  auto type = type_of(name, struct_name, context);
  if (!type) return std::unexpected(std::move(type.error()));
  return TypedRef(context, *address, std::move(*type), std::move(path));
}

Datum<bool> GuestKernel::static_key(std::string_view name, const ReadContext& context) const {
  const auto address = locate(name);
  if (!address) return std::unexpected(address.error());
  // static_key_true and static_key_false wrap a static_key and nothing else.
  auto place = context.types.place("static_key_false", "key.enabled.counter");
  if (!place) place = context.types.place("static_key", "enabled.counter");
  const std::uint64_t offset = place ? place->offset : 0;
  const TypedRef count(context, *address + offset, integer(sizeof(std::int32_t), true), std::string(name));
  return count.as<bool>();
}

}  // namespace ktstr
