//! The rules: pure functions from a view to a plan.
