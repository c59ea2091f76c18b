//! Tenure keeps exactly one PostgreSQL primary in office. ARCHITECTURE.md tells how the layers below fit together.

pub mod model;

pub mod decide;

pub mod doctor;

pub mod clock;

pub mod address;
pub mod config;
pub mod fence;
pub mod log;
pub mod peers;
pub mod postgres;
pub mod recorder;
pub mod store;

pub mod agent;
pub mod api;
pub mod ctl;

#[cfg(test)]
mod sim;
