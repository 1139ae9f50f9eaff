"""C through libclang: units, types, constants. It knows C, not KVM."""
