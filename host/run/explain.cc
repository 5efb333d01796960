#include "host/run/explain.h"

#include <boost/asio/io_context.hpp>
#include <fmt/format.h>
#include <google/protobuf/text_format.h>

#include "common/units.h"

namespace ktstr {
namespace {

std::string heading(std::string_view text) {
  return fmt::format("\n== {} ==\n", text);
}

std::string file_line(const InitramfsEntry& entry) {
  std::string line = fmt::format(
      "  {:04o} {:>10}  {}", entry.mode & 07777U,
      entry.type == InitramfsEntryType::kDirectory ? "" : std::to_string(entry.size), entry.guest_path);
  if (!entry.link_target.empty()) line += " -> " + entry.link_target;
  if (!entry.host_path.empty()) line += "  <- " + entry.host_path;
  return line + "\n";
}

}  // namespace

std::string plan_text(const ktstr::v1::RunPlan& plan) {
  google::protobuf::TextFormat::Printer printer;
  printer.SetUseShortRepeatedPrimitives(true);  // a row of distances is a line
  std::string text;
  printer.PrintToString(plan, &text);
  return "# proto-message: ktstr.v1.RunPlan\n" + text;
}

Expected<std::string> explain(const Prepared& prepared) {
  boost::asio::io_context loop;
  auto machine = make_machine(loop, prepared, false);
  if (!machine) return std::unexpected(std::move(machine.error()));
  ktstr::v1::RunPlan plan = prepared.plan;
  plan.mutable_kernel()->set_command_line((*machine)->command_line().text);
  std::string text = plan_text(plan);
  text += heading("machine");
  text += fmt::format("  {}: {}\n", (*machine)->kind(), prepared.machine_choice.reason);
  const Machine::Emulator emulator = (*machine)->emulator();
  if (!emulator.path.empty()) {
    text += fmt::format("  emulator: {} ({})\n", emulator.path, emulator.version);
    text += fmt::format("  command line: {}\n", fmt::join(emulator.argv, " "));
  }
  text += fmt::format("  entry: {}\n", prepared.enter_payload ? "the unpacked payload, directly"
                                                              : "the bzImage's decompressor");
  for (const auto& list : {(*machine)->warnings(), prepared.warnings}) {
    for (const std::string& warning : list) text += fmt::format("  warning: {}\n", warning);
  }
  text += heading("kernel arguments of our own");
  for (const auto& argument : (*machine)->command_line().own) {
    text += fmt::format("  {:<40} {}\n", argument.text, argument.reason);
  }
  text += heading(fmt::format("guest files, {}", format_size(prepared.initramfs.size)));
  for (const InitramfsEntry& entry : prepared.initramfs.entries) text += file_line(entry);
  if (!prepared.later_files.files.empty())
    text +=
        heading(fmt::format("sent to the guest when it is up, {}", format_size(prepared.later_files.size)));
  for (const FileBundle::File& file : prepared.later_files.files) text += file_line(file.entry);
  return text;
}

}  // namespace ktstr
