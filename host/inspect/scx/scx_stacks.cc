#include "host/inspect/scx/inspection.h"

namespace ktstr {

void add_sleeping_stack(Inspection&, Kva, Kva, google::protobuf::RepeatedPtrField<ktstr::v1::StackEntry>&) {}
void add_running_stack(Inspection&, const ktstr::v1::Vcpu&, Kva,
                       google::protobuf::RepeatedPtrField<ktstr::v1::StackEntry>&) {}

}  // namespace ktstr
