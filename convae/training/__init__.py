"""The optimizers, the step, the loop, and the state from which a run resumes."""
