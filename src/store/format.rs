//! How Tenure spells keys and values: byte for byte as Patroni 4.1 does.
