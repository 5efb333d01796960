#include "host/machine/kernel_command_line.h"

#include <algorithm>
#include <utility>

namespace ktstr {
namespace {

// isspace() of the kernel for ASCII.
bool is_blank(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

// Takes the first argument off `rest`; empty when there is none.
std::string_view next_argument(std::string_view& rest) {
  while (!rest.empty() && is_blank(rest.front())) rest.remove_prefix(1);
  bool quoted = false;
  std::size_t length = 0;
  for (; length < rest.size() && (quoted || !is_blank(rest[length])); ++length) {
    if (rest[length] == '"') quoted = !quoted;
  }
  const std::string_view argument = rest.substr(0, length);
  rest.remove_prefix(length);
  return argument;
}

std::string name_of(std::string_view argument) {
  if (argument.starts_with('"')) argument.remove_prefix(1);
  std::string name(argument.substr(0, argument.find('=')));
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

// Whether an argument of ours went.
bool drop(std::vector<KernelArgument>& own, const std::string& name) {
  return std::erase_if(own, [&name](const KernelArgument& argument) {
           return !argument.fixed && name_of(argument.text) == name;
         }) > 0;
}

}  // namespace

KernelCommandLine join_kernel_arguments(std::vector<KernelArgument> own, std::string_view user) {
  std::string passed_on;
  while (true) {
    const std::string_view rest = user;
    const std::string_view argument = next_argument(user);
    if (argument.empty()) break;
    if (argument == "--") {
      passed_on += " " + std::string(rest.substr(rest.find("--")));
      break;
    }
    const std::string name = name_of(argument);
    const bool dropped = drop(own, name);
    if (dropped && argument.size() == name.size() + 1) continue;
    passed_on += " " + std::string(argument);
  }
  KernelCommandLine line;
  for (const KernelArgument& argument : own) line.text += (line.text.empty() ? "" : " ") + argument.text;
  if (line.text.empty() && !passed_on.empty()) passed_on.erase(0, 1);
  line.text += passed_on;
  line.own = std::move(own);
  return line;
}

}  // namespace ktstr
