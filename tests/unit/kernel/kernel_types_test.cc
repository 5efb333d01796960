#include "host/kernel/kernel_types.h"

#include <array>
#include <cstring>

#include <gtest/gtest.h>

#include "tests/unit/kernel/synthetic_btf.h"

namespace ktstr::test {
namespace {

std::vector<std::byte> bytes(std::initializer_list<int> values) {
  std::vector<std::byte> copy;
  for (const int value : values) copy.push_back(static_cast<std::byte>(value));
  return copy;
}

// A little scheduler.
struct Sample {
  Sample() {
    u32 = types.integer("unsigned int", 4);
    u64 = types.integer("u64", 8);
    s32 = types.integer("int", 4, BTF_INT_SIGNED);
    character = types.integer("char", 1);
    boolean = types.integer("_Bool", 1, BTF_INT_BOOL);
    counter = types.structure("", 4, {{"counter", s32, 0}});
    atomic = types.type_definition("atomic_t", counter);
    name = types.array(character, 16);
    list = types.structure("list_head", 16, {{"next", u64, 0}, {"prev", u64, 64}});
    entity = types.structure("sched_ext_entity", 40,
                             {{"flags", types.constant_of(types.volatile_of(u32)), 0},
                              {"ops_state", atomic, 32},
                              {"tasks_node", list, 64},
                              {"kf_tasks", types.array(list, 1), 192}});
    task = types.structure("task_struct", 128,
                           {{"comm", name, 0}, {"scx", entity, 128}, {"disallow", boolean, 1000}});
    task_pointer = types.pointer(task);
    proxied = types.unite("", 8, {{"donor", task_pointer, 0}, {"curr", task_pointer, 0}});
    inner = types.structure("", 16, {{"nr_running", u32, 0}, {"", proxied, 64}});
    entries = types.array(list, 0);
    rq = types.structure("rq", 128,
                         {{"cpu", u32, 0},
                          {"", inner, 64},
                          {"grid", types.array(types.array(u32, 4), 3), 256},
                          {"entries", entries, 1024}});
  }

  SyntheticBtf types;
  int u32, u64, s32, character, boolean, counter, atomic, name, list, entity, task, task_pointer, proxied,
      inner, entries, rq;
};

TEST(KernelTypes, FindsPlaces) {
  const Btf btf = Sample().types.parse();
  const KernelTypes types(btf);
  const auto flags = types.place("task_struct", "scx.flags");
  ASSERT_TRUE(flags) << flags.error();
  EXPECT_EQ(flags->offset, 16u);
  EXPECT_EQ(flags->type.kind, ValueKind::kInteger);
  EXPECT_EQ(flags->type.size, 4u);
  EXPECT_EQ(flags->path, "scx.flags");
  EXPECT_EQ(types.place("task_struct", "scx.ops_state.counter")->offset, 20u);
  EXPECT_TRUE(types.place("task_struct", "scx.ops_state.counter")->type.is_signed);
  EXPECT_EQ(types.place("task_struct", "disallow")->type.kind, ValueKind::kBool);
  EXPECT_EQ(types.place("task_struct", "scx.kf_tasks[0].prev")->offset, 48u);
  EXPECT_EQ(types.place("rq", "grid[2][3]")->offset, 32u + 11 * 4);
  EXPECT_EQ(types.place("rq", "grid[2]")->type.size, 16u);
  EXPECT_EQ(types.place("rq", "grid")->type.size, 48u);
  // A flexible array has as many elements as one likes.
  EXPECT_EQ(types.place("rq", "entries[1000].prev")->offset, 128u + 16000 + 8);
  const auto comm = types.place("task_struct", "comm");
  ASSERT_EQ(comm->type.kind, ValueKind::kArray);
  EXPECT_EQ(types.array(comm->type)->count, 16u);
  EXPECT_TRUE(types.array(comm->type)->element.is_char);
  EXPECT_EQ(types.place(comm->type, "[3]")->offset, 3u);
}

TEST(KernelTypes, SeesThroughAnonymousMembers) {
  const Btf btf = Sample().types.parse();
  const KernelTypes types(btf);
  const auto curr = types.place("rq", "curr");
  ASSERT_TRUE(curr) << curr.error();
  EXPECT_EQ(curr->offset, 16u);
  EXPECT_EQ(curr->type.kind, ValueKind::kPointer);
  EXPECT_EQ(types.pointee(curr->type).name, "task_struct");
  EXPECT_EQ(types.place("rq", "donor")->offset, 16u);
  std::vector<std::string> names;
  for (const Place& place : types.members(*types.find_struct("rq"))) names.push_back(place.path);
  EXPECT_EQ(names, (std::vector<std::string>{"cpu", "nr_running", "donor", "curr", "grid", "entries"}));
}

TEST(KernelTypes, SaysWhyThereIsNoPlace) {
  const Btf btf = Sample().types.parse();
  const KernelTypes types(btf);
  const auto why = [&](std::string_view name, std::string_view path) {
    const auto place = types.place(name, path);
    return place ? "found" : place.error();
  };
  EXPECT_EQ(why("task_struct", "scx.tid"), "struct sched_ext_entity has no member tid");
  EXPECT_EQ(why("no_such", "a"), "the kernel has no struct no_such");
  EXPECT_EQ(why("rq", "curr.pid"), "curr is a pointer, not a struct");
  EXPECT_EQ(why("rq", "cpu[0]"), "cpu is unsigned int, not an array");
  EXPECT_EQ(why("rq", "grid[3]"), "grid has 3 elements, so no [3]");
  EXPECT_EQ(why("task_struct", "scx.ops_state.value"), "scx.ops_state has no member value");
  EXPECT_EQ(why("rq", "entries[4294967295]"), "found");
  for (const char* broken : {"", ".", "scx.", "scx..flags", "scx[", "comm[]", "comm[-1]", "comm[x]", "comm[1",
                             "comm[1]x", "comm[99999999999999999999]", "[0]", "."}) {
    EXPECT_NE(why("task_struct", broken), "found") << broken;
  }
  std::string deep = "scx";
  for (int i = 0; i < 100; ++i) deep += ".scx";
  EXPECT_NE(why("task_struct", deep), "found");
}

TEST(KernelTypes, ReadsBitFieldsOfBothForms) {
  SyntheticBtf made;
  const int u32 = made.integer("unsigned int", 4);
  const int s64 = made.integer("long", 8, BTF_INT_SIGNED);
  const int old = made.bits_of_integer("unsigned int", 4, 0, 3);
  const int old_shifted = made.bits_of_integer("int", 4, 5, 3, BTF_INT_SIGNED);
  made.structure("new_form", 24,
                 {{"a", u32, 0, 1}, {"b", u32, 3, 7}, {"whole", u32, 32}, {"wide", s64, 64 + 5, 63}});
  made.structure("old_form", 8, {{"a", old, 0}, {"b", old, 3}, {"c", old_shifted, 8}, {"whole", u32, 32}});
  const Btf btf = made.parse();
  const KernelTypes types(btf);

  const auto b = types.place("new_form", "b");
  ASSERT_TRUE(b) << b.error();
  EXPECT_EQ(b->offset, 0u);
  EXPECT_EQ(b->bit_offset, 3u);
  EXPECT_EQ(b->bit_size, 7u);
  EXPECT_EQ(stored_bytes(*b), 2u);
  EXPECT_EQ(extract(*b, bytes({0xa8, 0x03})), 0x75u);
  EXPECT_EQ(extract(*b, bytes({0xa8})), std::nullopt);
  EXPECT_EQ(types.place("new_form", "whole")->bit_size, 0u);
  // 63 bits from the sixth on: they reach into a ninth byte, and the topmost is the sign.
  const auto wide = types.place("new_form", "wide");
  ASSERT_TRUE(wide) << wide.error();
  EXPECT_EQ(wide->offset, 8u);
  EXPECT_EQ(stored_bytes(*wide), 9u);
  std::vector<std::byte> object(24);
  object[8] = std::byte{0x20};
  object[16] = std::byte{0x04};
  EXPECT_EQ(extract(*wide, object), 0x2000000000000001u);
  object[16] = std::byte{0x0c};
  EXPECT_EQ(extract(*wide, object), 0xe000000000000001u);

  EXPECT_EQ(extract(*types.place("old_form", "a"), bytes({0x0d})), 5u);
  EXPECT_EQ(extract(*types.place("old_form", "b"), bytes({0x0d})), 1u);
  const auto c = types.place("old_form", "c");
  ASSERT_TRUE(c) << c.error();
  EXPECT_EQ(c->offset, 1u);
  EXPECT_EQ(c->bit_offset, 5u);
  EXPECT_EQ(extract(*c, bytes({0, 0xe0})), ~std::uint64_t{0});
  EXPECT_EQ(types.place("old_form", "whole")->bit_size, 0u);
}

TEST(KernelTypes, ExtractsNumbers) {
  const Btf btf = Sample().types.parse();
  const KernelTypes types(btf);
  std::vector<std::byte> task(128);
  task[16] = std::byte{0xff};
  task[19] = std::byte{0x80};
  std::fill_n(task.begin() + 20, 4, std::byte{0xff});
  EXPECT_EQ(extract(*types.place("task_struct", "scx.flags"), task), 0x800000ffu);
  EXPECT_EQ(extract(*types.place("task_struct", "scx.ops_state.counter"), task), ~std::uint64_t{0});
  EXPECT_EQ(extract(*types.place("task_struct", "scx"), task), std::nullopt);
  EXPECT_EQ(extract(*types.place("task_struct", "comm"), task), std::nullopt);
  EXPECT_EQ(extract(*types.place("task_struct", "disallow"), std::span(task).first(125)), std::nullopt);
  EXPECT_EQ(extract(*types.place("rq", "entries[4294967295]"), task), std::nullopt);
}

TEST(KernelTypes, KnowsEnums) {
  SyntheticBtf made;
  made.enumeration("scx_ent_flags", 4, {{"SCX_TASK_QUEUED", 1}, {"SCX_TASK_CURSOR", INT32_MIN}});
  made.enumeration64("scx_enq_flags", false,
                     {{"SCX_ENQ_WAKEUP", 1}, {"SCX_ENQ_PREEMPT", std::int64_t{1} << 32}});
  made.enumeration64("scx_signed", true, {{"SCX_MINUS", -1}});
  made.enumeration("", 4, {{"SCX_ANONYMOUS", 7}});
  const Btf btf = made.parse();
  const KernelTypes types(btf);
  const auto flags = types.enumerators("scx_enq_flags");
  ASSERT_EQ(flags.size(), 2u);
  EXPECT_EQ(flags[1].name, "SCX_ENQ_PREEMPT");
  EXPECT_EQ(flags[1].value, std::uint64_t{1} << 32);
  EXPECT_TRUE(types.enumerators("no_such").empty());
  EXPECT_EQ(types.enumerator("SCX_ENQ_PREEMPT"), std::uint64_t{1} << 32);
  EXPECT_EQ(types.enumerator("SCX_TASK_QUEUED"), 1u);
  EXPECT_EQ(types.enumerator("SCX_MINUS"), ~std::uint64_t{0});
  EXPECT_EQ(types.enumerator("SCX_ANONYMOUS"), 7u);
  EXPECT_EQ(types.enumerator("SCX_ANON"), std::nullopt);
  EXPECT_EQ(types.enumerator("SCX_NONE", 5), std::nullopt);
  // What the kernel says in full is believed.
  EXPECT_EQ(types.enumerator("SCX_ENQ_WAKEUP", 0x100000001), 1u);
}

TEST(KernelTypes, CutConstantsYieldToTheFallback) {
  SyntheticBtf made;
  made.enumeration("scx_enq_flags", 8,
                   {{"SCX_ENQ_WAKEUP", 1}, {"SCX_ENQ_PREEMPT", 0}, {"SCX_ENQ_MOVED", 0x10}});
  const Btf btf = made.parse();
  const KernelTypes types(btf);
  EXPECT_EQ(types.enumerator("SCX_ENQ_PREEMPT"), 0u);
  EXPECT_EQ(types.enumerator("SCX_ENQ_PREEMPT", std::uint64_t{1} << 32), std::uint64_t{1} << 32);
  EXPECT_EQ(types.enumerator("SCX_ENQ_WAKEUP", 1), 1u);
  // The lower half says that this kernel has another value.
  EXPECT_EQ(types.enumerator("SCX_ENQ_MOVED", std::uint64_t{1} << 33), 0x10u);
}

TEST(KernelTypes, KnowsFunctionsAndVariables) {
  SyntheticBtf made;
  const int sched = made.structure("scx_sched", 8, {});
  const int number = made.integer("int", 4, BTF_INT_SIGNED);
  made.function("scx_vexit", {{"sch", made.pointer(sched)}, {"kind", number}, {"exit_code", number}});
  made.variable("runqueues", sched);
  const Btf btf = made.parse();
  const KernelTypes types(btf);
  EXPECT_TRUE(types.has_function("scx_vexit"));
  EXPECT_FALSE(types.has_function("runqueues"));
  EXPECT_EQ(types.parameter("scx_vexit", "kind"), 1u);
  EXPECT_EQ(types.parameter("scx_vexit", "msg").error(), "function scx_vexit has no parameter msg");
  EXPECT_EQ(types.parameter("scx_exit", "kind").error(), "the kernel has no function scx_exit");
  EXPECT_EQ(types.parameter("scx_vexit", "").error(), "function scx_vexit has no parameter ");
  EXPECT_EQ(types.variable("runqueues")->name, "scx_sched");
  EXPECT_FALSE(types.variable("scx_vexit"));
}

TEST(KernelTypes, TakesTheLargestOfSeveralDefinitions) {
  SyntheticBtf made;
  const int number = made.integer("int", 4);
  made.declaration("state");
  made.structure("state", 4, {{"small", number, 0}});
  made.structure("state", 8, {{"first", number, 0}, {"large", number, 32}});
  made.structure("single", 4, {{"small", number, 0}});
  made.declaration("declared");
  const Btf btf = made.parse();
  const KernelTypes types(btf);
  EXPECT_TRUE(types.find_struct("single"));
  EXPECT_TRUE(types.ambiguous().empty());
  EXPECT_EQ(types.find_struct("state")->size, 8u);
  EXPECT_TRUE(types.place("state", "large"));
  EXPECT_EQ(types.ambiguous(), std::vector<std::string>{"state"});
  EXPECT_FALSE(types.find_struct("declared"));
}

TEST(KernelTypes, EndsInCircles) {
  SyntheticBtf made;
  const int number = made.integer("int", 4);                                 // 1
  made.type_definition("loop", 3);                                           // 2
  made.type_definition("loop_back", 2);                                      // 3
  made.array(4, 2);                                                          // 4: of itself
  made.structure("self", 8, {{"", 5, 0}, {"", 5, 0}, {"last", number, 0}});  // 5: holds itself twice
  made.structure("holder", 8, {{"a", 2, 0}, {"b", 4, 0}, {"missing", 12345, 0}, {"next", 6, 0}});
  const Btf btf = made.parse();
  const KernelTypes types(btf);
  EXPECT_EQ(types.type(2).kind, ValueKind::kOther);
  EXPECT_EQ(types.type(4).kind, ValueKind::kOther);
  EXPECT_EQ(types.type(12345).kind, ValueKind::kOther);
  EXPECT_EQ(types.type(0).kind, ValueKind::kOther);
  // Found before, or not found, but always answered.
  types.place("self", "last");
  EXPECT_FALSE(types.place("self", "absent"));
  EXPECT_LE(types.members(*types.find_struct("self")).size(), KernelTypes::kMaxMembers);
  EXPECT_EQ(types.place("holder", "missing")->type.kind, ValueKind::kOther);
  EXPECT_TRUE(types.place("holder", "next.next.next.a"));
}

TEST(KernelTypes, RefusesImpossibleSizesAndOffsets) {
  SyntheticBtf made;
  const int number = made.integer("int", 4);
  const int huge = made.array(made.array(number, 0xffffffff), 0xffffffff);
  const int wide = made.array(number, 0x3fffffff);
  const int flexible = made.array(wide, 0);
  made.structure("odd", 8,
                 {{"huge", huge, 0},
                  {"beyond", number, 64},
                  {"far", number, 0xffffff00},
                  {"askew", number, 3},
                  {"flexible", flexible, 64}});
  made.structure("fields", 4,
                 {{"too_wide", number, 0, 40}, {"over_the_end", number, 8, 30}, {"good", number, 8, 24}});
  const Btf btf = made.parse();
  const KernelTypes types(btf);
  EXPECT_EQ(types.place("odd", "huge")->type.kind, ValueKind::kOther);
  EXPECT_FALSE(types.place("odd", "beyond"));
  EXPECT_FALSE(types.place("odd", "far"));
  EXPECT_TRUE(types.place("odd", "flexible[1]"));
  EXPECT_FALSE(types.place("odd", "flexible[4294967295]"));
  EXPECT_FALSE(types.place("fields", "too_wide"));
  EXPECT_FALSE(types.place("fields", "over_the_end"));
  EXPECT_TRUE(types.place("fields", "good"));
}

TEST(KernelTypes, AnEmptyKernelHasNothing) {
  const Btf btf = SyntheticBtf().parse();
  const KernelTypes types(btf);
  EXPECT_FALSE(types.find_struct("rq"));
  EXPECT_FALSE(types.find_struct(""));
  EXPECT_FALSE(types.has_function(std::string(10000, 'x')));
  EXPECT_TRUE(types.members(TypeInfo()).empty());
  EXPECT_EQ(types.pointee(TypeInfo()).kind, ValueKind::kOther);
}

}  // namespace
}  // namespace ktstr::test
