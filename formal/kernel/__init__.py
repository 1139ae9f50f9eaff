"""The C front end: from a kernel tree to terms, function by function.

``load(KernelTree(path)).lift("kvm_arm_setup_debug", mode="vhe")`` is the whole API for one function; see
``lift/program.py``.
"""
