"""How a step becomes one or more operating-system processes."""
