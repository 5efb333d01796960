// `ktstr-vm topologies [SPEC]`.
#pragma once

#include <string>

namespace ktstr {

// Lists the presets with their shape and CPUs; or prints the topology that `spec` names (as for --topology)
// as a topology file. Returns the exit code.
int topologies_command(const std::string& spec);

}  // namespace ktstr
