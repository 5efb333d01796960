#include "tests/unit/kernel/functions_only_image.h"

#include <array>
#include <cstddef>
#include <utility>
#include <vector>

#include "tests/unit/kernel/synthetic_btf.h"

namespace ktstr::test {
namespace {

constexpr std::uint64_t kPage = 4096;
// The members of struct sched_class, and which of the functions are those of the class.
constexpr std::array<const char*, 4> kClassMembers{"enqueue_task", "dequeue_task", "set_next_task",
                                                   "task_tick"};
constexpr std::size_t kClassFunctions = 100;
// In the structures below.
constexpr std::size_t kActiveMm = 24;
constexpr std::size_t kPgd = 40;

std::string make_types() {
  SyntheticBtf types;
  const int u32 = types.integer("u32", 4);
  const int u64 = types.integer("u64", 8);
  const int s32 = types.integer("int", 4, BTF_INT_SIGNED);
  const int inner = types.structure("", 64, {{"pgd", types.pointer(u64), kPgd * 8}});
  const int mm = types.structure("mm_struct", 64, {{"", inner, 0}});
  types.structure("task_struct", 64, {{"active_mm", types.pointer(mm), kActiveMm * 8}});
  types.structure("kernel_symbol", 12,
                  {{"value_offset", s32, 0}, {"name_offset", s32, 32}, {"namespace_offset", s32, 64}});
  const int function = types.pointer(0);
  types.structure("sched_class", 32,
                  {{"enqueue_task", function, 0},
                   {"dequeue_task", function, 64},
                   {"set_next_task", function, 128},
                   {"task_tick", function, 192}});
  const int rq = types.structure("rq", 64, {{"cpu", u32, 0}});
  const int queues = types.variable("runqueues", rq);
  const int first = types.variable("twice", u32);
  const int second = types.variable("twice", u32);
  const int outside = types.variable("outside", rq);
  const int lost = types.variable("lost", u32);
  types.section(".data..percpu", kPerCpuBytes,
                {{queues, 0x40, 64}, {first, 0x80, 4}, {second, 0xc0, 4}, {outside, 0x1f0, 64}});
  types.section(".no_such_section", 64, {{lost, 0, 4}});
  return types.bytes();
}

}  // namespace

FunctionsOnlyImage make_functions_only(bool zero_based) {
  FunctionsOnlyImage image;
  ElfOptions options;
  options.btf = make_types();
  options.rodata = [](std::uint64_t address) {
    // Their last is called _end, which is no function.
    auto symbols = many_symbols(KallsymsFormat::kPcRelative);
    symbols.back().name = "last_function";
    for (std::size_t i = 0; i < kClassMembers.size(); ++i)
      symbols[kClassFunctions + i].name = std::string(kClassMembers[i]) + "_scx";
    return make_kallsyms(symbols, KallsymsFormat::kPcRelative, address);
  };
  std::vector<std::pair<std::string, std::uint64_t>> exports;
  std::vector<std::uint64_t> name_places;
  options.more.push_back({".data", [&](std::uint64_t address) {
                            image.init_task = address;
                            image.init_mm = address + 0x100;
                            image.nr_cpu_ids = address + 0x200;
                            image.per_cpu_offset = address + 0x240;
                            image.init_top_pgt = (address + 0x400 + kPage - 1) / kPage * kPage;
                            std::string data(image.init_top_pgt + kPage - address, '\0');
                            poke(data, kActiveMm, image.init_mm);
                            poke(data, 0x100 + kPgd, image.init_top_pgt);
                            image.ext_sched_class = address + 0x280;
                            for (std::size_t i = 0; i < kClassMembers.size(); ++i)
                              poke(data, 0x280 + 8 * i, kTextAddress + 8 * (kClassFunctions + i));
                            // Such as a tracer's list of functions.
                            for (std::size_t i = 0; i < kClassMembers.size(); ++i)
                              poke(data, 0x300 + 8 * i,
                                   kTextAddress + 8 * (kClassFunctions + kClassMembers.size() - 1 - i));
                            return data;
                          }});
  options.more.push_back({".data..percpu",
                          [&](std::uint64_t address) {
                            image.per_cpu_section = address;
                            return std::string(kPerCpuBytes, '\0');
                          },
                          zero_based ? std::optional<std::uint64_t>(0) : std::nullopt});
  options.more.push_back({"__ksymtab_strings", [&](std::uint64_t address) {
                            exports = {{"init_task", image.init_task},
                                       {"nr_cpu_ids", image.nr_cpu_ids},
                                       {"__per_cpu_offset", image.per_cpu_offset},
                                       {"symbol_7", kTextAddress + 8 * 7},
                                       {"cpu_number", image.per_cpu_section + 0x100},
                                       {"far_away", 0xffffffffa0000000}};
                            std::string strings;
                            for (const auto& [name, place] : exports) {
                              name_places.push_back(address + strings.size());
                              strings += name + '\0';
                            }
                            return strings;
                          }});
  const auto table = [&](std::size_t begin, std::size_t end) {
    return [&, begin, end](std::uint64_t address) {
      std::string entries((end - begin) * 12, '\0');
      for (std::size_t i = begin; i < end; ++i) {
        const std::size_t at = (i - begin) * 12;
        poke(entries, at, static_cast<std::uint32_t>(exports[i].second - (address + at)));
        poke(entries, at + 4, static_cast<std::uint32_t>(name_places[i] - (address + at + 4)));
      }
      return entries;
    };
  };
  options.more.push_back({"__ksymtab", table(0, 2)});
  options.more.push_back({"__ksymtab_gpl", table(2, 6)});
  image.elf = make_elf(options);
  return image;
}

}  // namespace ktstr::test
