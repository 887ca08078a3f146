"""The control plane: owns all state, starts and stops every process. Never imports torch, never on a request's way."""
