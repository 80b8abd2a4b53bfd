"""Pure maths on tensors, shared by the families: no parameters, no state but statistics."""
