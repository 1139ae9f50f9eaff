"""The trap table against emulated CPUs."""
