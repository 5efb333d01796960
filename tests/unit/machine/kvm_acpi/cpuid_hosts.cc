#include "tests/unit/machine/kvm_acpi/cpuid_hosts.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <initializer_list>

#include "host/machine/kvm/kvm_requests.h"

namespace ktstr::kvm::testing {
namespace {

using List = std::vector<kvm_cpuid_entry2>;

struct Row {
  std::uint32_t function, index, flags, eax, ebx, ecx, edx;
};

List list_of(std::initializer_list<Row> rows) {
  List list;
  for (const Row& row : rows) {
    kvm_cpuid_entry2 entry{};
    entry.function = row.function;
    entry.index = row.index;
    entry.flags = row.flags;
    entry.eax = row.eax;
    entry.ebx = row.ebx;
    entry.ecx = row.ecx;
    entry.edx = row.edx;
    list.push_back(entry);
  }
  return list;
}

kvm_cpuid_entry2& leaf(List& list, std::uint32_t function) {
  return *std::ranges::find_if(list, [=](const auto& entry) { return entry.function == function; });
}

void remove(List& list, std::uint32_t function) {
  std::erase_if(list, [=](const auto& entry) { return entry.function == function; });
}

List epyc_list(std::uint32_t version, std::uint32_t l3_cache_eax, std::uint32_t l3_sets) {
  return list_of({
      {0x0, 0, 0, 0x10, 0x68747541, 0x444d4163, 0x69746e65},
      {0x1, 0, 0, version, 0x05400800, 0xfefa3203, 0x178bfbff},
      {0x7, 0, 1, 0x0, 0x219c97a9, 0x0040069c, 0x00000010},
      {0xb, 0, 1, 0, 0, 0, 0x5},
      {0xd, 0, 1, 0x207, 0x988, 0x988, 0},
      {0x80000000, 0, 0, 0x80000021, 0x68747541, 0x444d4163, 0x69746e65},
      {0x80000001, 0, 0, version, 0x40000000, 0x15c237ff, 0x2fd3fbff},  // counters and TopoExt
      {0x80000005, 0, 0, 0xff40ff40, 0xff40ff40, 0x20080140, 0x20080140},
      {0x80000006, 0, 0, 0x48002200, 0x68004200, 0x02006140, 0x08009140},
      {0x80000007, 0, 0, 0, 0, 0, 0x100},
      {0x80000008, 0, 0, 0x3030, 0x010ed205, 0x707f, 0},
      {0x8000001d, 0, 1, 0x00004121, 0x01c0003f, 0x0000003f, 0},
      {0x8000001d, 1, 1, 0x00004122, 0x01c0003f, 0x0000003f, 0},
      {0x8000001d, 2, 1, 0x00004143, 0x01c0003f, 0x000003ff, 0x2},
      {0x8000001d, 3, 1, l3_cache_eax, 0x03c0003f, l3_sets, 0x1},
      {0x8000001d, 4, 1, 0, 0, 0, 0},
      {0x8000001e, 0, 0, 0, 0, 0, 0},
      {0x80000021, 0, 0, 0x45, 0, 0, 0},
      {0x40000000, 0, 0, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d},
      {0x40000001, 0, 0, 0x01007efb, 0, 0, 0},
  });
}

}  // namespace

CpuidHost sapphire_rapids() {
  return {"sapphire_rapids", list_of({
                                 {0x0, 0, 0, 0x1c, 0x756e6547, 0x6c65746e, 0x49656e69},
                                 {0x1, 0, 0, 0x000c06f2, 0x01020800, 0x81202000, 0x0f8bfbff},
                                 {0x2, 0, 0, 0x00feff01, 0xf0, 0, 0},
                                 {0x4, 0, 1, 0x04000121, 0x02c0003f, 0x3f, 0},
                                 {0x4, 1, 1, 0x04000122, 0x01c0003f, 0x3f, 0},
                                 {0x4, 2, 1, 0x04000143, 0x03c0003f, 0x7ff, 0},
                                 {0x4, 3, 1, 0x04004163, 0x04c0003f, 0x33fff, 0},
                                 {0x4, 4, 1, 0, 0, 0, 0},
                                 {0x6, 0, 0, 0x4, 0, 0, 0},
                                 {0x7, 0, 1, 0, 0x01802852, 0x00010104, 0x20000000},
                                 {0xa, 0, 0, 0x07300802, 0, 0, 0x8603},
                                 {0xb, 0, 1, 0, 0, 0, 0x1},
                                 {0xd, 0, 1, 0xe7, 0xa80, 0xa80, 0},
                                 {0xd, 2, 1, 0x100, 0x240, 0, 0},
                                 {0x80000000, 0, 0, 0x80000021, 0, 0, 0},
                                 {0x80000001, 0, 0, 0, 0, 0x101, 0x20100800},
                                 {0x80000006, 0, 0, 0, 0, 0x08007040, 0},
                                 {0x80000007, 0, 0, 0, 0, 0, 0x100},
                                 {0x80000008, 0, 0, 0x3930, 0, 0, 0},
                                 {0x80000021, 0, 0, 0x244, 0, 0x6, 0},
                                 {0x40000000, 0, 0, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d},
                                 {0x40000001, 0, 0, 0x01007efb, 0, 0, 0},
                             })};
}

CpuidHost sapphire_rapids_with_leaf_1f() {
  CpuidHost host = sapphire_rapids();
  host.name = "sapphire_rapids_with_leaf_1f";
  leaf(host.supported, 0).eax = 0x20;
  for (kvm_cpuid_entry2& entry : list_of({{0x1f, 0, 1, 0, 0, 0, 0x1}})) host.supported.push_back(entry);
  return host;
}

CpuidHost intel_without_l3() {
  CpuidHost host = sapphire_rapids();
  host.name = "intel_without_l3";
  std::erase_if(host.supported, [](const auto& entry) { return entry.function == 4 && entry.index >= 3; });
  return host;
}

CpuidHost intel_without_caches() {
  CpuidHost host = sapphire_rapids();
  host.name = "intel_without_caches";
  remove(host.supported, 4);
  leaf(host.supported, 0).eax = 0x7;
  remove(host.supported, 0xb);
  return host;
}

CpuidHost naples() {
  return {"naples", epyc_list(0x00800f12, 0x0001c163, 0x1fff)};
}

CpuidHost milan() {
  return {"milan", epyc_list(0x00a00f11, 0x0003c163, 0x7fff)};
}

CpuidHost genoa() {
  CpuidHost host{"genoa", epyc_list(0x00a10f11, 0x0003c163, 0x7fff)};
  leaf(host.supported, 0x80000000).eax = 0x80000026;
  for (kvm_cpuid_entry2& entry :
       list_of({{0x80000022, 0, 0, 1, 6, 0, 0}, {0x80000026, 0, 1, 0, 0, 0, 0x5}})) {
    host.supported.push_back(entry);
  }
  return host;
}

CpuidHost dhyana() {
  CpuidHost host{"dhyana", epyc_list(0x00900f02, 0x0001c163, 0x1fff)};
  kvm_cpuid_entry2& vendor = leaf(host.supported, 0);
  vendor.ebx = 0x6f677948;
  vendor.ecx = 0x656e6975;
  vendor.edx = 0x6e65476e;
  return host;
}

CpuidHost emulated_amd() {
  CpuidHost host{"emulated_amd", epyc_list(0x00060fb1, 0, 0)};
  leaf(host.supported, 0).eax = 0xd;
  leaf(host.supported, 0x80000000).eax = 0x8000000a;
  leaf(host.supported, 0x80000001).ecx = 0x00000225;
  leaf(host.supported, 0x80000006).edx = 0;
  for (const std::uint32_t function : {0x8000001dU, 0x8000001eU, 0x80000021U})
    remove(host.supported, function);
  return host;
}

std::vector<CpuidHost> all_hosts() {
  std::vector<CpuidHost> hosts{sapphire_rapids(),
                               sapphire_rapids_with_leaf_1f(),
                               intel_without_l3(),
                               intel_without_caches(),
                               naples(),
                               milan(),
                               genoa(),
                               dhyana(),
                               emulated_amd()};
  if (List own = own_list(); !own.empty()) hosts.push_back({"this machine", std::move(own)});
  return hosts;
}

List own_list() {
  const int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (kvm < 0) return {};
  constexpr std::size_t kMost = 256;
  std::vector<std::uint32_t> buffer((kCountAndPadding + kMost * sizeof(kvm_cpuid_entry2)) / 4);
  buffer[0] = kMost;
  const int answer = ioctl(kvm, KVM_GET_SUPPORTED_CPUID, buffer.data());
  close(kvm);
  if (answer != 0) return {};
  List list(std::min<std::size_t>(buffer[0], kMost));
  std::memcpy(list.data(), buffer.data() + kCountAndPadding / 4, list.size() * sizeof(kvm_cpuid_entry2));
  return list;
}

}  // namespace ktstr::kvm::testing
