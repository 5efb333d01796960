// `ktstr-vm scenarios [NAME]`: the catalog.
#pragma once

#include <string>

namespace ktstr {

// Without a name lists the catalog; with one prints that scenario's file, byte by byte. Returns the exit
// code.
int scenarios_command(const std::string& name);

}  // namespace ktstr
