#include "host/kernel/guest_kernel.h"

#include <gtest/gtest.h>

#include "host/kernel/typed_ref.h"
#include "host/memory/kernel_memory.h"
#include "host/memory/mock_memory.h"
#include "tests/unit/kernel/synthetic_btf.h"

namespace ktstr::test {
namespace {

constexpr Kva kDirectMap{0xffff888000000000};
constexpr std::uint64_t kText = 0xffffffff81000000;
constexpr std::uint64_t kSlide = 0x12000000;
constexpr std::uint64_t kImageSize = 0x10000;
// Where the image lies physically.
constexpr std::uint64_t kImagePa = 0x100000;

// A kernel of a few symbols in RAM: its image at 1 MiB, other objects in the direct map from 2 MiB on.
class GuestKernelTest : public testing::Test {
 protected:
  GuestKernelTest() {
    mock_.add_ram(Gpa(kImagePa), kImageSize);
    mock_.add_ram(Gpa(0x200000), 0x10000);
    made_.integer("u8", 1);  // keeps ids apart from the numbers below
    const int s32 = made_.integer("int", 4, BTF_INT_SIGNED);
    const int u64 = made_.integer("u64", 8);
    const int character = made_.integer("char", 1);
    const int list = made_.structure("list_head", 16, {{"next", u64, 0}, {"prev", u64, 64}});
    const int info = made_.structure("scx_exit_info", 32,
                                     {{"kind", s32, 0},
                                      {"reason", made_.pointer(made_.constant_of(character)), 64},
                                      {"bt", made_.pointer(u64), 128},
                                      {"raw", made_.pointer(0), 192}});
    made_.structure("scx_sched", 64,
                    {{"name", made_.array(character, 8), 0},
                     {"exit_info", made_.pointer(info), 64},
                     {"level", s32, 128},
                     {"bits", s32, 160, 3},
                     {"counts", made_.array(s32, 4), 192}});
    made_.structure("task_struct", 64, {{"pid", s32, 0}, {"tasks_node", list, 128}});
    const int rq = made_.structure("rq", 32, {{"cpu", s32, 0}, {"nr", u64, 64}});
    made_.variable("runqueues", rq);
    const int atomic = made_.structure("", 4, {{"counter", s32, 0}});
    const int key = made_.structure("static_key", 16, {{"enabled", atomic, 32}});
    made_.structure("static_key_false", 16, {{"key", key, 0}});
    btf_.emplace(made_.parse());
    types_.emplace(*btf_);

    SymbolTable::Builder builder(16);
    builder.add("zero_based_rq", 0x3c00);
    builder.add("_text", kText);
    builder.add("scx_vexit", kText + 0x1000);
    builder.add("local", kText + 0x1100);
    builder.add("local", kText + 0x1200);
    builder.add("scx_root", kText + 0x2000);
    builder.add("__scx_enabled", kText + 0x2010);
    builder.add("nr_cpu_ids", kText + 0x2020);
    builder.add("__per_cpu_offset", kText + 0x2040);
    builder.add("scx_tasks", kText + 0x2080);
    builder.add("runqueues", kText + 0x3000);
    symbols_ = std::move(builder).finish(SymbolSource::kVmlinux, "a test", {kText, kText + kImageSize});
    kernel_.emplace(symbols_, &*types_, kSlide);
    memory_.emplace(mock_.memory(),
                    KernelLayout{.direct_map = KernelLayout::DirectMap{.base = kDirectMap, .size = 0x210000},
                                 .image = KernelLayout::Image{.begin = Kva(kText + kSlide),
                                                              .size = kImageSize,
                                                              .map_base = Kva(0xffffffff80000000),
                                                              .physical_base = static_cast<std::int64_t>(
                                                                  kImagePa - 0x1000000 - kSlide)},
                                 .page_tables = {}});
  }

  ReadContext context() { return {*types_, *memory_, budget_}; }
  template <typename T>
  void at_symbol(std::uint64_t offset, T value) {
    mock_.write_value(Gpa(kImagePa + offset), value);
  }
  // A scheduler at 2 MiB, its exit info 4 KiB further.
  void make_scheduler() {
    at_symbol(0x2000, kDirectMap + 0x200000);
    mock_.write_text(Gpa(0x200000), "simple");
    mock_.write_value(Gpa(0x200008), kDirectMap + 0x201000);
    mock_.write_value(Gpa(0x200010), std::int32_t{-2});
    mock_.write_value(Gpa(0x200014), std::uint32_t{0xfe});
    mock_.write_value(Gpa(0x200020), std::int32_t{77});
    mock_.write_value(Gpa(0x201000), std::int32_t{1024});
    mock_.write_value(Gpa(0x201008), kDirectMap + 0x202000);
    mock_.write_text(Gpa(0x202000), "runtime error");
    mock_.write_value(Gpa(0x201010), kDirectMap + 0x203000);
    mock_.write_value(Gpa(0x203008), std::uint64_t{0xffffffff81234567});
    mock_.write_value(Gpa(0x201018), std::uint64_t{0xdead000000000122});
  }

  MockMemory mock_;
  SyntheticBtf made_;
  std::optional<Btf> btf_;
  std::optional<KernelTypes> types_;
  SymbolTable symbols_;
  std::optional<GuestKernel> kernel_;
  std::optional<KernelMemory> memory_;
  ReadBudget budget_{1 << 20, 1 << 12};
};

TEST_F(GuestKernelTest, SymbolsHaveTheSlide) {
  EXPECT_EQ(kernel_->symbol("scx_vexit"), Kva(kText + 0x1000 + kSlide));
  EXPECT_EQ(kernel_->symbol("local"), std::nullopt);
  EXPECT_NE(kernel_->require("local").error().find("0x"), std::string::npos);
  EXPECT_FALSE(kernel_->require("no_such"));
  EXPECT_EQ(kernel_->describe(Kva(kText + kSlide + 0x101f)), "scx_vexit+0x1f");
  EXPECT_EQ(kernel_->describe(Kva(kText + kSlide + 0x1000)), "scx_vexit");
  EXPECT_EQ(kernel_->describe(Kva(kText)), "");
  EXPECT_EQ(kernel_->describe(Kva(0)), "");
  EXPECT_EQ(kernel_->function_name(Kva(kText + kSlide + 0x1000)), "scx_vexit");
  EXPECT_EQ(kernel_->function_name(Kva(kText + kSlide + 0x1001)), std::nullopt);
}

TEST_F(GuestKernelTest, FollowsAPath) {
  make_scheduler();
  const auto root = kernel_->pointed("scx_root", "scx_sched", context());
  ASSERT_TRUE(root) << root.error().to_string();
  EXPECT_EQ(root->path(), "*scx_root");
  EXPECT_EQ(root->read_string("name", 128), "simple");
  EXPECT_EQ(root->member("name")->path(), "scx_root->name");
  EXPECT_EQ(root->member("level")->as<std::int64_t>(), -2);
  EXPECT_EQ(root->member("level")->as<bool>(), true);
  EXPECT_EQ(root->member("bits")->as<int>(), -2);
  EXPECT_EQ(root->member("counts")->at(2)->value(), 77u);
  EXPECT_EQ(root->read("counts[2]"), 77u);
  EXPECT_EQ(root->member("counts")->at(2)->path(), "scx_root->counts[2]");
  EXPECT_EQ(root->read("exit_info->kind"), 1024u);
  EXPECT_EQ(root->read_string("exit_info->reason", 128), "runtime error");
  EXPECT_EQ(root->read_string("exit_info->reason", 3), "run");
  EXPECT_EQ(root->member("exit_info->bt")->at(1)->value(), 0xffffffff81234567u);
  EXPECT_EQ(root->member("exit_info->bt")->at(1)->path(), "scx_root->exit_info->bt[1]");
  const auto info = root->member("exit_info")->deref();
  ASSERT_TRUE(info);
  EXPECT_EQ(info->path(), "*scx_root->exit_info");
  EXPECT_EQ(info->type().name, "scx_exit_info");
  EXPECT_EQ(info->address(), kDirectMap + 0x201000);
  EXPECT_EQ(info->bytes(4)->at(1), std::byte{4});
}

TEST_F(GuestKernelTest, SaysWhatIsMissingAndWhere) {
  at_symbol(0x2000, std::uint64_t{0});
  EXPECT_EQ(kernel_->pointed("scx_root", "scx_sched", context()).error().to_string(),
            "scx_root: null pointer");
  make_scheduler();
  const auto root = kernel_->pointed("scx_root", "scx_sched", context());
  ASSERT_TRUE(root);
  EXPECT_EQ(root->read("tid").error().to_string(), "*scx_root: struct scx_sched has no member tid");
  EXPECT_EQ(root->member("exit_info->raw")->deref().error().to_string(),
            "scx_root->exit_info->raw: LIST_POISON2 (prev of what was taken off a list)");
  EXPECT_EQ(root->member("level")->deref().error().reason, "is int, not a pointer");
  EXPECT_EQ(root->member("level")->c_string(8).error().reason, "is int, not text");
  EXPECT_EQ(root->member("counts")->at(4).error().reason, "has 4 elements, so no [4]");
  EXPECT_EQ(root->value().error().reason, "is struct scx_sched, not a number");
  EXPECT_FALSE(root->bytes(TypedRef::kMaxBytes + 1));
  // Leads out of RAM.
  mock_.write_value(Gpa(0x200008), kDirectMap + 0x20fff0000);
  const auto kind = root->read("exit_info->kind");
  ASSERT_FALSE(kind);
  EXPECT_EQ(kind.error().path, "scx_root->exit_info->kind");
  EXPECT_TRUE(kind.error().fault.has_value());
  EXPECT_EQ(kernel_->global("no_such", "rq", context()).error().path, "no_such");
  EXPECT_EQ(kernel_->global("scx_tasks", "no_such", context()).error().reason,
            "the kernel has no struct no_such");
  EXPECT_FALSE(kernel_->global("scx_tasks", "", context()));
}

TEST_F(GuestKernelTest, FindsTheStructOfAListNode) {
  mock_.write_value(Gpa(0x204000), std::int32_t{42});
  const TypedRef node(context(), kDirectMap + 0x204010, *types_->find_struct("list_head"), "node");
  const auto task = node.container_of("task_struct", "tasks_node");
  ASSERT_TRUE(task) << task.error().to_string();
  EXPECT_EQ(task->read("pid"), 42u);
  EXPECT_EQ(task->member("pid")->path(), "container_of(&node, task_struct, tasks_node)->pid");
  EXPECT_FALSE(node.container_of("task_struct", "no_such"));
  EXPECT_FALSE(node.container_of("no_such", "tasks_node"));
  EXPECT_EQ(node.cast("task_struct")->member("pid")->address(), kDirectMap + 0x204010);
  EXPECT_FALSE(node.cast("no_such"));
  // Long ways are shown shortened.
  TypedRef here = *task;
  for (int i = 0; i < 20; ++i) here = *here.container_of("task_struct", "tasks_node");
  EXPECT_LE(here.path().size(), TypedRef::kMaxPath + 1);
}

TEST(BadPointer, NamesWhatItIs) {
  EXPECT_EQ(bad_pointer(kDirectMap), std::nullopt);
  EXPECT_EQ(bad_pointer(Kva(0xffffffff81000000)), std::nullopt);
  EXPECT_EQ(bad_pointer(Kva(0)), "null pointer");
  EXPECT_EQ(bad_pointer(Kva(16)), "null pointer plus 16");
  EXPECT_EQ(bad_pointer(Kva(~std::uint64_t{0} - 11)), "error pointer -12");
  EXPECT_TRUE(bad_pointer(Kva(0xdead000000000100))->starts_with("LIST_POISON1"));
  EXPECT_TRUE(bad_pointer(Kva(0xdead000000000122))->starts_with("LIST_POISON2"));
  EXPECT_NE(bad_pointer(Kva(0x6b6b6b6b6b6b6b6b))->find("POISON_FREE"), std::string::npos);
  EXPECT_NE(bad_pointer(Kva(0x6b6b6b6b6b6b6b9b))->find("POISON_FREE"), std::string::npos);
  EXPECT_NE(bad_pointer(Kva(0x5a5a5a5a5a5a5a5a))->find("POISON_INUSE"), std::string::npos);
  EXPECT_NE(bad_pointer(Kva(0x1234567812345678))->find("not canonical"), std::string::npos);
  EXPECT_NE(bad_pointer(Kva(0x7f1234567890))->find("not a kernel address"), std::string::npos);
}

TEST_F(GuestKernelTest, LoadsPerCpuOffsets) {
  at_symbol(0x2020, std::uint32_t{4});
  const std::uint64_t section = kText + 0x3000 + kSlide;
  const std::uint64_t area = (kDirectMap + 0x205000).value();
  at_symbol(0x2040, area - section);
  at_symbol(0x2040 + 16, area + 0x1000 - section);
  at_symbol(0x2040 + 32, std::uint64_t{0x1234});  // beyond nr_cpu_ids
  ASSERT_EQ(kernel_->load_per_cpu_offsets(context()), 2u);
  EXPECT_EQ(kernel_->cpus(), (std::vector<std::uint32_t>{0, 2}));
  EXPECT_EQ(kernel_->nr_cpu_ids(context()), 4u);
  EXPECT_EQ(kernel_->per_cpu("runqueues", 0), Kva(area));
  EXPECT_EQ(kernel_->per_cpu("runqueues", 1), std::nullopt);
  EXPECT_EQ(kernel_->per_cpu("runqueues", 2), Kva(area + 0x1000));
  EXPECT_EQ(kernel_->per_cpu("runqueues", 9999), std::nullopt);
  EXPECT_EQ(kernel_->per_cpu("no_such", 0), std::nullopt);
  EXPECT_EQ(kernel_->per_cpu_pointer(Kva(0x10) + section, 2), Kva(area + 0x1010));
  mock_.write_value(Gpa(0x206008), std::uint64_t{5});
  const auto rq = kernel_->per_cpu_ref("runqueues", 2, "", context());
  ASSERT_TRUE(rq) << rq.error().to_string();
  EXPECT_EQ(rq->read("nr"), 5u);
  EXPECT_EQ(rq->member("nr")->path(), "per_cpu(runqueues, 2).nr");
  EXPECT_EQ(kernel_->per_cpu_ref("runqueues", 1, "rq", context()).error().to_string(),
            "per_cpu(runqueues, 1): CPU 1 has no per-CPU area");
}

TEST_F(GuestKernelTest, NoSlideWhereTheSectionIsLinkedAtZero) {
  kernel_->set_per_cpu_offsets({(kDirectMap + 0x200000).value()});
  EXPECT_EQ(kernel_->per_cpu("zero_based_rq", 0), kDirectMap + 0x203c00);
}

TEST_F(GuestKernelTest, ImpossibleNumbersOfCpusAreNotBelieved) {
  at_symbol(0x2020, std::uint32_t{0xffffffff});
  EXPECT_FALSE(kernel_->nr_cpu_ids(context()));
  EXPECT_EQ(kernel_->load_per_cpu_offsets(context()).error().path, "__per_cpu_offset");
  // As many as there is room for before the next symbol.
  for (std::uint64_t cpu = 0; cpu < 9; ++cpu) at_symbol(0x2040 + cpu * 8, cpu + 1);
  EXPECT_EQ(kernel_->load_per_cpu_offsets(context()), 8u);
  kernel_->set_per_cpu_offsets(std::vector<std::uint64_t>(100000, 1));
  EXPECT_EQ(kernel_->cpus().size(), GuestKernel::kMaxCpus);
}

TEST_F(GuestKernelTest, ReadsStaticKeys) {
  EXPECT_EQ(kernel_->static_key("__scx_enabled", context()), false);
  at_symbol(0x2010, std::int32_t{1});  // not where the count is
  EXPECT_EQ(kernel_->static_key("__scx_enabled", context()), false);
  at_symbol(0x2014, std::int32_t{1});
  EXPECT_EQ(kernel_->static_key("__scx_enabled", context()), true);
  at_symbol(0x2014, std::int32_t{-1});
  EXPECT_EQ(kernel_->static_key("__scx_enabled", context()), true);
  EXPECT_FALSE(kernel_->static_key("no_such", context()));
}

}  // namespace
}  // namespace ktstr::test
