//! `tenurectl`.
