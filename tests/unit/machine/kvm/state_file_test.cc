#include "host/machine/kvm/state_file.h"

#include <functional>
#include <string>

#include <gtest/gtest.h>

#include "tests/unit/machine/kvm/sample_state.h"
#include "tests/unit/machine/kvm/temp_file.h"

namespace ktstr::kvm::tiny {
namespace {

// Why it is refused; empty: it is not.
std::string refusal(std::string_view bytes) {
  v1::KvmState state;
  const auto parsed = parse_kvm_state(bytes, state);
  if (parsed) return "";
  EXPECT_EQ(parsed.error().code(), ErrorCode::kUsage);
  return parsed.error().to_string();
}

std::string refusal_of(const std::function<void(v1::KvmState&)>& change) {
  v1::KvmState state = sample_state();
  change(state);
  return refusal(state.SerializeAsString());
}

TEST(StateFile, WhatIsWrittenIsRead) {
  const UniqueFd file(memfd_create("state", MFD_CLOEXEC));
  v1::KvmState state = sample_state();
  state.clear_version();
  state.clear_end();
  ASSERT_TRUE(write_kvm_state(state, file.get()));
  v1::KvmState read;
  const auto got = read_kvm_state(file.get(), read);
  ASSERT_TRUE(got) << got.error().to_string();
  EXPECT_EQ(read.SerializeAsString(), sample_state().SerializeAsString());
}

TEST(StateFile, OneThatIsCutOffAnywhereIsRefused) {
  const std::string whole = sample_state().SerializeAsString();
  EXPECT_EQ(refusal(whole), "");
  for (std::size_t size = 0; size < whole.size(); ++size)
    ASSERT_NE(refusal(std::string_view(whole).substr(0, size)), "") << size;
}

TEST(StateFile, ForeignBytesAreRefused) {
  EXPECT_NE(refusal("").find("none of a kvm machine"), std::string::npos);
  EXPECT_NE(refusal("QEVM\0\0\0\3").find("none of a kvm machine"), std::string::npos);
  EXPECT_NE(refusal(std::string(4096, '\xff')), "");
  EXPECT_NE(refusal(std::string(4096, '\0')), "");
}

TEST(StateFile, AnotherVersionIsNamed) {
  const std::string why = refusal_of([](v1::KvmState& state) { state.set_version(7); });
  EXPECT_NE(why.find("version 7, and this program reads version 1"), std::string::npos) << why;
}

TEST(StateFile, EveryPartIsChecked) {
  const struct {
    const char* words;
    std::function<void(v1::KvmState&)> change;
  } cases[] = {
      {"0 vCPUs", [](v1::KvmState& of) { of.clear_vcpus(); }},
      {"4097 vCPUs",
       [](v1::KvmState& of) {
         for (int i = 0; i < kMaxStateVcpus; ++i) of.add_vcpus();
       }},
      {"memory of 0 nodes", [](v1::KvmState& of) { of.clear_node_bytes(); }},
      {"memory of 1025 nodes",
       [](v1::KvmState& of) {
         for (int i = 0; i < kMaxStateNodes; ++i) of.add_node_bytes(1);
       }},
      {"events: 0 bytes, not 64 (while reading vCPU 0)",
       [](v1::KvmState& of) { of.mutable_vcpus(0)->clear_events(); }},
      {"general registers", [](v1::KvmState& of) { of.mutable_vcpus(0)->mutable_regs()->push_back(0); }},
      {"special registers", [](v1::KvmState& of) { of.mutable_vcpus(0)->mutable_sregs()->push_back(0); }},
      {"debug registers", [](v1::KvmState& of) { of.mutable_vcpus(0)->mutable_debug_regs()->clear(); }},
      {"extended control registers",
       [](v1::KvmState& of) { of.mutable_vcpus(0)->mutable_xcrs()->resize(1); }},
      {"local APIC", [](v1::KvmState& of) { of.mutable_vcpus(0)->mutable_lapic()->resize(4096); }},
      {"extended registers: 100 bytes",
       [](v1::KvmState& of) { of.mutable_vcpus(0)->mutable_xsave()->resize(100); }},
      {"extended registers: 65537 bytes",
       [](v1::KvmState& of) { of.mutable_vcpus(0)->mutable_xsave()->resize(kMaxXsave + 1); }},
      {"1025 MSRs",
       [](v1::KvmState& of) {
         for (int i = 0; i < kMaxStateMsrs; ++i) of.mutable_vcpus(0)->add_msrs();
       }},
      {"one interrupt chip", [](v1::KvmState& of) { of.clear_chip(); }},
      {"one interrupt chip", [](v1::KvmState& of) { of.mutable_io_apic(); }},
      {"first PIC", [](v1::KvmState& of) { of.mutable_chip()->clear_pic_master(); }},
      {"second PIC", [](v1::KvmState& of) { of.mutable_chip()->clear_pic_slave(); }},
      {"I/O APIC", [](v1::KvmState& of) { of.mutable_chip()->mutable_io_apic()->resize(512); }},
      {"PIT", [](v1::KvmState& of) { of.mutable_chip()->clear_pit(); }},
      {"a device is missing", [](v1::KvmState& of) { of.clear_serial(); }},
      {"a device is missing", [](v1::KvmState& of) { of.clear_console(); }},
      {"cut off, or damaged", [](v1::KvmState& of) { of.set_end(1); }},
  };
  for (const auto& one : cases) {
    const std::string why = refusal_of(one.change);
    EXPECT_NE(why.find(one.words), std::string::npos) << why << ", not: " << one.words;
  }
}

// Hosts before Linux 5.14, and 5.1's processors without XSAVE.
TEST(StateFile, OlderFormsAreTaken) {
  EXPECT_EQ(
      refusal_of([](v1::KvmState& of) { of.mutable_vcpus(0)->mutable_sregs()->resize(sizeof(kvm_sregs)); }),
      "");
  EXPECT_EQ(refusal_of([](v1::KvmState& of) { of.mutable_vcpus(0)->clear_xcrs(); }), "");
  EXPECT_EQ(refusal_of([](v1::KvmState& of) {
              of.clear_chip();
              of.mutable_io_apic();
            }),
            "");
}

TEST(StateFile, AFileThatIsTooLargeIsNotRead) {
  const UniqueFd file(memfd_create("state", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(file.get(), static_cast<off_t>(kMaxStateBytes + 1)), 0);
  v1::KvmState state;
  const auto read = read_kvm_state(file.get(), state);
  ASSERT_FALSE(read);
  EXPECT_NE(read.error().to_string().find("268435457 bytes"), std::string::npos) << read.error().to_string();
}

}  // namespace
}  // namespace ktstr::kvm::tiny
