// What became of a child process.
#pragma once

#include <string>

namespace ktstr {

// "exit code 1", "killed by signal 9 (Killed)", from a wait(2) status.
std::string describe_exit(int wait_status);

}  // namespace ktstr
