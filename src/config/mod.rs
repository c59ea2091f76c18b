//! Configuration: files, environment, the dynamic part in the store.
