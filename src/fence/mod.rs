//! The guardian and how an agent speaks with it.
