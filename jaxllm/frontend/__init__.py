"""The user's side of the engine: prompts become engine requests, the engine's news become request outputs."""
